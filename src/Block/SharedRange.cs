namespace Snapuserd.Block;

/// <summary>
/// Bytes that a source and a base have in common: source bytes [<paramref name="SourceOffset"/>, + <paramref name="Length"/>) and base bytes
/// [<paramref name="BaseOffset"/>, + <paramref name="Length"/>) are the same storage. All three in bytes.
/// </summary>
public readonly record struct SharedRange(long SourceOffset, long BaseOffset, long Length);
