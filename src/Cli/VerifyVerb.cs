using System;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Host;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Text;

namespace Snapuserd.Cli;

/// <summary>`verify`.</summary>
internal static class VerifyVerb
{
    internal static ExitCode Run(Invocation invocation)
    {
        Arguments arguments = invocation.Arguments;
        var observer = new ProgressObserver(invocation, arguments.Has("--base") ? "hash" : "check");
        using var stop = new StopSignals();
        using var devices = DeviceArguments.Open(invocation, writes: false, stop);
        int ops;
        string? hash = null;
        if (arguments.Has("--base"))
        {
            using MergedImage image = MergedImage.Open(devices.Setup);
            ops = image.Cow.OpCount;
            image.VerifyPayloads(observer);
            hash = Hash(image, stop.Flag, observer);
        }
        else
        {
            using CowFile cow = PayloadCheck.Run(devices.Setup with { Observer = observer });
            ops = cow.OpCount;
        }
        string? wanted = arguments.Text("--sha256");
        if (wanted != null && !wanted.Equals(hash, StringComparison.OrdinalIgnoreCase))
            throw new SnapuserdException(ExitCode.CowCorrupt, $"the merged image hashes to {hash}, not to {wanted.ToLowerInvariant()}");

        if (arguments.Has("--json"))
            invocation.Output.Result(
                JsonLine.Event("done").Add("ops", ops).Add("sha256", hash).Add("seconds", observer.Seconds).ToString());
        else
            invocation.Output.Result(
                hash == null ? $"all {ops} ops decode, and their order is consistent" : $"{hash}  merged image; all {ops} ops decode");
        return ExitCode.Done;
    }

    private static string Hash(MergedImage image, StopFlag stop, IMergeObserver observer)
    {
        Sha256State state = default;
        _ = Sodium.Sha256Init(ref state);
        MergedReading.Read(image, stop, observer, chunk => _ = Sodium.Sha256Update(ref state, chunk));
        Span<byte> hash = stackalloc byte[Sodium.Sha256Bytes];
        _ = Sodium.Sha256Final(ref state, hash);
        return Convert.ToHexStringLower(hash);
    }
}
