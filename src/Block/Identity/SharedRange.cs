namespace Snapuserd.Block;

/// <summary>
/// Storage that source and base share: bytes [<paramref name="SourceOffset"/>, +<paramref name="Length"/>) of the source are the same
/// storage as bytes [<paramref name="BaseOffset"/>, +<paramref name="Length"/>) of the base. All three are in bytes. They are multiples of
/// 512, except over files and loop devices of odd lengths and offsets.
/// </summary>
public readonly record struct SharedRange(long SourceOffset, long BaseOffset, long Length)
{
    /// <summary>Offset on the base minus offset on the source, in bytes.</summary>
    public long Shift => BaseOffset - SourceOffset;

    /// <summary>The first byte of the source after the range.</summary>
    public long SourceEnd => SourceOffset + Length;
}
