using System;
using System.Runtime.CompilerServices;

namespace Snapuserd.Create;

/// <summary>
/// A rolling hash: shifts left by one and adds a random word for the new byte. After 64 bytes a byte is shifted out. So the hash depends on
/// the last 64 bytes only, at any position in an image; its highest bits depend on all of them.
/// </summary>
internal static class GearHash
{
    /// <summary>The number of bytes that the hash depends on.</summary>
    public const int Window = 64;

    private static readonly ulong[] s_words = Make();

    /// <summary>
    /// One random word for each byte value. Read it once before a loop over bytes, which is cheaper than a static access per byte.
    /// </summary>
    public static ReadOnlySpan<ulong> Words => s_words;

    /// <summary>The hash after one more byte.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Roll(ReadOnlySpan<ulong> words, ulong hash, byte value) => (hash << 1) + words[value];

    private static ulong[] Make()
    {
        ulong[] words = new ulong[256];
        for (int i = 0; i < words.Length; i++) words[i] = BlockHash.Mix((ulong)(i + 1) * 0x9e3779b97f4a7c15);
        return words;
    }
}
