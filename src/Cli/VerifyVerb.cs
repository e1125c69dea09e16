using System;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;
using Snapuserd.Merge;

namespace Snapuserd.Cli;

/// <summary>`verify`.</summary>
internal static class VerifyVerb
{
    internal static ExitCode Run(Invocation invocation)
    {
        Arguments arguments = invocation.Arguments;
        var observer = new ProgressObserver(invocation, "verify");
        int ops;
        using (var devices = new DeviceSet(invocation, writes: false))
        {
            // With a base the hash below is the longer part and has the bar to itself.
            using CowFile cow = PayloadCheck.Run(arguments.Has("--base") ? devices.Setup : devices.Setup with { Observer = observer });
            ops = cow.OpCount;
        }
        string? hash = arguments.Has("--base") ? HashOfMerged(invocation, observer) : null;
        string? wanted = arguments.Text("--sha256");
        if (wanted != null && !wanted.Equals(hash, StringComparison.OrdinalIgnoreCase))
            throw new SnapuserdException(ExitCode.CowCorrupt, $"the merged image hashes to {hash}, not to {wanted.ToLowerInvariant()}");

        if (arguments.Has("--json"))
            invocation.Output.Result(JsonLine.Event("done").Add("ops", ops).Add("sha256", hash).Add("seconds", observer.Seconds).ToString());
        else
            invocation.Output.Result(hash == null ? $"all {ops} ops decode, and their order is consistent" : $"{hash}  merged image; all {ops} ops decode");
        return ExitCode.Done;
    }

    private static string HashOfMerged(Invocation invocation, ProgressObserver observer)
    {
        Sha256State state = default;
        _ = Sodium.Sha256Init(ref state);
        MergedReading.Read(invocation, observer, chunk => _ = Sodium.Sha256Update(ref state, chunk));
        Span<byte> hash = stackalloc byte[Sodium.Sha256Bytes];
        _ = Sodium.Sha256Final(ref state, hash);
        return Convert.ToHexStringLower(hash);
    }
}
