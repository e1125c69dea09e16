using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>The state of a running SHA-256; a plain value, so a copy continues independently.</summary>
[CType("crypto_hash_sha256_state")]
[LibraryHeader("sodium.h")]
[StructLayout(LayoutKind.Sequential)]
public unsafe struct Sha256State
{
    public fixed uint State[8];
    public ulong Count;
    public fixed byte Buf[64];
}

/// <summary>libsodium, of which only SHA-256 is used. Each function returns 0; any other value is a bug in the call.</summary>
[LibraryHeader("sodium.h")]
public static unsafe partial class Sodium
{
    /// <summary>Bytes of a SHA-256.</summary>
    [CName("crypto_hash_sha256_BYTES")]
    public const int Sha256Bytes = 32;

    /// <summary>Starts a hash.</summary>
    public static int Sha256Init(ref Sha256State state)
    {
        fixed (Sha256State* pointer = &state) return crypto_hash_sha256_init(pointer);
    }

    /// <summary>Adds bytes to a hash.</summary>
    public static int Sha256Update(ref Sha256State state, ReadOnlySpan<byte> bytes)
    {
        fixed (Sha256State* pointer = &state)
        fixed (byte* start = bytes)
            return crypto_hash_sha256_update(pointer, start, (ulong)bytes.Length);
    }

    /// <summary>Ends a hash and writes its <see cref="Sha256Bytes"/> bytes.</summary>
    public static int Sha256Final(ref Sha256State state, Span<byte> hash)
    {
        if (hash.Length < Sha256Bytes) throw new ArgumentException($"{hash.Length} bytes cannot hold a SHA-256", nameof(hash));
        fixed (Sha256State* pointer = &state)
        fixed (byte* start = hash)
            return crypto_hash_sha256_final(pointer, start);
    }

    [DllImport("libsodium")]
    private static extern int crypto_hash_sha256_init(Sha256State* state);

    [DllImport("libsodium")]
    private static extern int crypto_hash_sha256_update(Sha256State* state, byte* bytes, ulong length);

    [DllImport("libsodium")]
    private static extern int crypto_hash_sha256_final(Sha256State* state, byte* hash);
}
