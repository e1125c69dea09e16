using System.Runtime.CompilerServices;

namespace Snapuserd.Create;

/// <summary>
/// A rolling hash: shift left by one, add a random word for the new byte. After 64 bytes a byte is shifted out, so that the hash
/// depends on the last 64 only, wherever in an image they stand; its highest bits depend on all of these.
/// </summary>
internal static class GearHash
{
    /// <summary>Bytes that the hash depends on.</summary>
    public const int Window = 64;

    private static readonly Words s_words = Make();

    /// <summary>The hash with one byte more.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Roll(ulong hash, byte value) => (hash << 1) + s_words[value];

    private static Words Make()
    {
        Words words = default;
        for (int i = 0; i < 256; i++) words[i] = BlockHash.Mix((ulong)(i + 1) * 0x9e3779b97f4a7c15);
        return words;
    }

    [InlineArray(256)]
    private struct Words
    {
        private ulong _first;
    }
}
