using System;
using Snapuserd.Cow;

namespace Snapuserd.Images;

/// <summary>
/// An output that writes the magic last. A block device has no temporary name, so a partial COW on it must not look like a COW. The magic
/// of the previous contents is erased first, durably. A power cut in between leaves zeros in place of the magic, and every reader reports
/// that.
/// </summary>
public sealed class DeferredMagic(ICowOutput output) : ICowOutput
{
    private readonly byte[] _magic = new byte[sizeof(ulong)];
    private bool _withdrawn;

    public string Name => output.Name;

    public long Length => output.Length;

    public long? Capacity => output.Capacity;

    public void Write(long offset, ReadOnlySpan<byte> bytes)
    {
        // The device may reorder unflushed writes. After a power cut, the old magic must not precede bytes of the new COW.
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

    /// <summary>Makes everything else durable, then writes the magic and makes it durable.</summary>
    public void Release()
    {
        output.Flush();
        output.Write(0, _magic);
        output.Flush();
    }

    /// <summary>Erases the magic, durably, before new contents are written or after the written contents turned out to be wrong.</summary>
    public void Withdraw()
    {
        output.Write(0, new byte[sizeof(ulong)]);
        output.Flush();
        _withdrawn = true;
    }
}
