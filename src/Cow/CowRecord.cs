namespace Snapuserd.Cow;

/// <summary>
/// One record of any type in a v1 or v2 file, as stored at byte <paramref name="Position"/>, with the fields of cow-format §4.
/// <paramref name="DataPosition"/> is the byte at which its data begins, or -1 for a record without data. An Xor record does not store this
/// position; it follows from the records before it (§6.3).
/// </summary>
public readonly record struct CowRecord(
    long Position, CowOpType Type, byte Compression, int DataLength, ulong NewBlock, ulong Source, long DataPosition)
{
    /// <summary>Replace or Xor: has a payload in the COW.</summary>
    public bool HasData => Type is CowOpType.Replace or CowOpType.Xor;
}
