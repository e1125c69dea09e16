using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Merge;

namespace Snapuserd.Tests.Simulator;

/// <summary>
/// The file systems below the simulated devices, whose blocks are all holes until they are reserved. A merge may write only what it has
/// reserved before its first write. Without <paramref name="bytes"/> the free space is unlimited; otherwise it is that many bytes.
/// </summary>
public sealed class SimStorage(long bytes = long.MaxValue) : IStorageReserver
{
    private readonly List<(int Device, ByteRange Range)> _reserved = [];
    private long _free = bytes;
    private bool _written;

    /// <summary>The first violation; null if there was none.</summary>
    public string? Wrong { get; private set; }

    /// <summary>The ranges reserved on a device.</summary>
    public IEnumerable<ByteRange> Reserved(int device)
    {
        foreach ((int other, ByteRange range) in _reserved)
            if (other == device) yield return range;
    }

    public void Reserve(MergeDevice device, IEnumerable<ByteRange> ranges)
    {
        if (_written) Wrong ??= $"{device.Name}: reserved after the first write";
        long end = 0;
        foreach (ByteRange range in ranges)
        {
            if (range.Offset < end || range.Length <= 0 || range.Offset + range.Length > device.Length)
                Wrong ??= $"{device.Name}: {range} after byte {end} of {device.Length}";
            end = range.Offset + range.Length;
            _free -= range.Length;
            if (_free < 0) throw new SnapuserdException(ExitCode.InputOutput, $"{device.Name}: no space left on device (ENOSPC)");
            _reserved.Add((device.Number, range));
        }
    }

    /// <summary>Checks a request of the merge.</summary>
    public void Check(in BlockRequest request)
    {
        if (request.Verb != BlockVerb.Write) return;
        _written = true;
        long at = request.Offset, end = at + request.Buffer.Length;
        // The ranges are ascending, and two that touch are merged into one.
        foreach (ByteRange range in Reserved(request.Device))
            if (range.Offset <= at && end <= range.Offset + range.Length) return;
        Wrong ??= $"a write of {end - at} bytes at {at} of device {request.Device} that was not reserved";
    }
}
