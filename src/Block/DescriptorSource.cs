using System;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// Reads of any offset and length from an open device, by system calls of their own: for tables and headers, before there is a queue.
/// </summary>
public sealed class DescriptorSource(BlockDevice device) : IByteSource
{
    /// <inheritdoc/>
    public string Name => device.Path;

    /// <inheritdoc/>
    public long Length => device.Length;

    /// <inheritdoc/>
    public void Read(long offset, Span<byte> destination)
    {
        if (offset < 0 || offset > Length - destination.Length)
            throw new ArgumentOutOfRangeException(nameof(offset), $"{destination.Length} bytes at {offset} of {Length}");
        int tries = 0;
        while (destination.Length > 0)
        {
            nint read = Libc.PRead(device.Fd, destination, offset);
            if (Retry.Again(read, ref tries)) continue;
            if (read <= 0)
                throw new SnapuserdException(ExitCode.InputOutput, $"{Name}: reading {destination.Length} bytes at {offset} failed: "
                    + (read == 0 ? "the device ends there" : ErrnoText.Of((int)read)));
            destination = destination[(int)read..];
            offset += read;
        }
    }
}
