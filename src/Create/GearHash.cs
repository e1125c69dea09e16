using System;
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

    private static readonly ulong[] s_words = Make();

    /// <summary>One random word for each value of a byte. Taken once before a loop over bytes, which costs less than a look at a static in it.</summary>
    public static ReadOnlySpan<ulong> Words => s_words;

    /// <summary>The hash with one byte more.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Roll(ReadOnlySpan<ulong> words, ulong hash, byte value) => (hash << 1) + words[value];

    private static ulong[] Make()
    {
        ulong[] words = new ulong[256];
        for (int i = 0; i < words.Length; i++) words[i] = BlockHash.Mix((ulong)(i + 1) * 0x9e3779b97f4a7c15);
        return words;
    }
}
