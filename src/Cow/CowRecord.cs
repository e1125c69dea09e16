namespace Snapuserd.Cow;

/// <summary>
/// One record of a v1 or v2 file as stored, of any type: at byte <paramref name="Position"/>, with the fields of cow-format §4.
/// <paramref name="DataPosition"/> is the location of its data, which an Xor record does not contain (§6.3); -1 for a record without
/// data.
/// </summary>
public readonly record struct CowRecord(
    long Position, CowOpType Type, byte Compression, int DataLength, ulong NewBlock, ulong Source, long DataPosition)
{
    /// <summary>Replace or Xor: has a payload in the COW.</summary>
    public bool HasData => Type is CowOpType.Replace or CowOpType.Xor;
}
