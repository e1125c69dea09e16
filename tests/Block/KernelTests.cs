using System;
using System.Runtime.InteropServices;
using Snapuserd.Block;
using Xunit;

namespace Snapuserd.Tests.Block;

/// <summary>The vector kernels against a byte loop: every length up to 512 bytes, at every misalignment.</summary>
public sealed unsafe class KernelTests : IDisposable
{
    private const int MaxLength = 512;

    // Guard bytes on either side that a kernel must not change. They also allow for the misalignment.
    private const int Margin = 64;
    private const int Room = MaxLength + (2 * Margin);

    private readonly byte* _memory = (byte*)NativeMemory.AlignedAlloc(3 * Room, 64);

    public void Dispose() => NativeMemory.AlignedFree(_memory);

    [Fact]
    public void Xor_equals_a_loop_over_bytes_for_every_length_and_misalignment()
    {
        Span<byte> destination = new(_memory, Room);
        Span<byte> source = new(_memory + Room, Room);
        Span<byte> expected = new(_memory + (2 * Room), Room);
        byte[] pattern = new byte[2 * Room];
        new Random(20260101).NextBytes(pattern);
        pattern.AsSpan(Room, Room).CopyTo(source);

        for (int toShift = 0; toShift < 16; toShift++)
        {
            for (int fromShift = 0; fromShift < 16; fromShift++)
            {
                for (int length = 0; length <= MaxLength; length++)
                {
                    pattern.AsSpan(0, Room).CopyTo(destination);
                    destination.CopyTo(expected);
                    for (int i = 0; i < length; i++) expected[Margin + toShift + i] ^= source[Margin + fromShift + i];

                    XorKernel.XorInto(destination.Slice(Margin + toShift, length), source.Slice(Margin + fromShift, length));

                    if (!destination.SequenceEqual(expected)) Assert.Fail($"length {length}, destination +{toShift}, source +{fromShift}");
                }
            }
        }
        Assert.True(source.SequenceEqual(pattern.AsSpan(Room, Room)), "the source has changed");
    }

    [Fact]
    public void Xor_refuses_different_lengths()
    {
        byte[] four = new byte[4];
        byte[] five = new byte[5];
        Assert.Throws<ArgumentException>(() => XorKernel.XorInto(four, five));
        Assert.Throws<ArgumentException>(() => XorKernel.XorInto(five, four));
    }

    [Fact]
    public void Zero_test_reads_exactly_the_bytes_of_its_range_for_every_length_and_misalignment()
    {
        Span<byte> memory = new(_memory, Room);
        for (int shift = 0; shift < 16; shift++)
        {
            for (int length = 0; length <= MaxLength; length++)
            {
                // All bytes around the range are set: a kernel that reads too far reports "not zero".
                memory.Fill(0xff);
                Span<byte> range = memory.Slice(Margin + shift, length);
                range.Clear();
                if (!ZeroKernel.IsZero(range)) Assert.Fail($"length {length}, +{shift}: reads outside the range");
                for (int at = 0; at < length; at++)
                {
                    // One bit, a different one at each position: a kernel that compares too few bytes or bits misses it.
                    range[at] = (byte)(1 << (at & 7));
                    if (ZeroKernel.IsZero(range)) Assert.Fail($"length {length}, +{shift}: misses byte {at}");
                    range[at] = 0;
                }
            }
        }
    }
}
