using System;
using Snapuserd.Cow;

namespace Snapuserd.Cli;

/// <summary>
/// An output that keeps the magic back: a block device has no second name to grow under, so what is written to it must not look like a COW
/// before it is one. The magic of what was there goes first, durably. A power cut in between leaves zeros where the magic belongs, and
/// every reader says so.
/// </summary>
internal sealed class HeldMagic(ICowOutput output) : ICowOutput
{
    private readonly byte[] _magic = new byte[sizeof(ulong)];
    private bool _withdrawn;

    public string Name => output.Name;

    public long Length => output.Length;

    public long? Capacity => output.Capacity;

    public void Write(long offset, ReadOnlySpan<byte> bytes)
    {
        // The device may reorder what is not flushed: the old COW must not be found with some of the new one's bytes.
        if (!_withdrawn) Withdraw();
        int held = (int)Math.Clamp(_magic.Length - offset, 0, bytes.Length);
        if (held > 0)
        {
            bytes[..held].CopyTo(_magic.AsSpan((int)offset));
            output.Write(offset, new byte[held]);
        }
        if (held < bytes.Length) output.Write(offset + held, bytes[held..]);
    }

    public void Read(long offset, Span<byte> destination)
    {
        output.Read(offset, destination);
        int held = (int)Math.Clamp(_magic.Length - offset, 0, destination.Length);
        if (held > 0) _magic.AsSpan((int)offset, held).CopyTo(destination);
    }

    public void Flush() => output.Flush();

    public void Truncate(long length) => output.Truncate(length);

    /// <summary>Makes everything else durable, then writes the magic, and makes that durable.</summary>
    internal void Release()
    {
        output.Flush();
        output.Write(0, _magic);
        output.Flush();
    }

    /// <summary>Takes the magic away, durably: something else is about to be written, or what was written turned out to be wrong.</summary>
    internal void Withdraw()
    {
        output.Write(0, new byte[sizeof(ulong)]);
        output.Flush();
        _withdrawn = true;
    }
}
