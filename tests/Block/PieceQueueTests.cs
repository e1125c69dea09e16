using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Block;

/// <summary>Devices that consist of pieces: the contract of a queue, with requests that are split.</summary>
public sealed class PieceQueueTests : IDisposable
{
    private const int Sector = 512, DeviceSectors = 200;

    private readonly Arena _arena = new(1 << 20);
    private readonly BlockCompletion[] _completions = new BlockCompletion[16];

    public void Dispose() => _arena.Dispose();

    [Fact]
    public void Every_offset_is_located_in_its_piece()
    {
        PieceMap map = new(
            [new MappedPiece(1, 30, 7), new MappedPiece(0, 5, 0), new MappedPiece(MappedPiece.Zeros, 0, 3), new MappedPiece(0, 90, 11)]);
        List<(int, long)> bytes = [];
        for (int i = 0; i < 7; i++) bytes.Add((1, 30 + i));
        for (int i = 0; i < 3; i++) bytes.Add((MappedPiece.Zeros, i));
        for (int i = 0; i < 11; i++) bytes.Add((0, 90 + i));
        Assert.Equal(bytes.Count, map.Length);
        Assert.Equal([0, 1], map.Devices);
        for (int at = 0; at < bytes.Count; at++)
            for (int length = 1; length <= bytes.Count - at; length++)
            {
                MappedPiece piece = map.Locate(at, length);
                Assert.Equal(bytes[at], (piece.Device, piece.Offset));
                int same = bytes.Skip(at).Take(length).TakeWhile((one, i) => one == (piece.Device, piece.Offset + i)).Count();
                Assert.Equal(same, piece.Length);
            }
        Assert.Equal(0, map.Locate(map.Length, 5).Length);
        Assert.True(map.IsAligned(1));
        Assert.False(map.IsAligned(2));
    }

    /// <summary>Reads and writes of random lengths, with results below that are short or fail, against a model in memory.</summary>
    [Theory]
    [InlineData("ring", 8)]
    [InlineData("sync", 1)]
    [InlineData("sync", 5)]
    public void Transfers_over_pieces_of_two_files_equal_a_model(string kind, int depth)
    {
        using TempFolder folder = new();
        Random random = new(20261129);
        byte[][] content = [new byte[DeviceSectors * Sector], new byte[DeviceSectors * Sector]];
        foreach (byte[] bytes in content) random.NextBytes(bytes);
        for (int i = 0; i < 2; i++) File.WriteAllBytes(folder[$"{i}"], content[i]);
        using BlockDevice first = BlockDevice.Open(folder["0"], DeviceAccess.Write);
        using BlockDevice second = BlockDevice.Open(folder["1"], DeviceAccess.Write);
        using WakeUp wakeUp = new();
        PieceMap map = RandomMap(random);
        using PieceQueue queue = new(QueueFixture.Make(kind, [first, second], _arena, wakeUp, depth), [map], _arena);
        IoScheduler transfers = new(queue, [1]);
        Slice[] buffers = [.. Enumerable.Range(0, depth).Select(_ => _arena.Take(40 * Sector)!.Value)];
        for (int round = 0; round < 400; round++)
        {
            Slice buffer = buffers[round % depth];
            int length = random.Next(1, (int)Math.Min(map.Length, 40 * Sector));
            long offset = random.NextInt64(map.Length - length + 1);
            if (round % 3 == 0)
            {
                random.NextBytes(_arena[buffer.Part(0, length)]);
                Store(map, content, offset, _arena[buffer.Part(0, length)]);
                transfers.Write(0, offset, buffer.Part(0, length));
                Assert.Null(transfers.Drain());
            }
            else
            {
                transfers.Read(0, offset, buffer.Part(0, length));
                Assert.Null(transfers.Drain());
                Assert.True(_arena[buffer.Part(0, length)].SequenceEqual(Load(map, content, offset, length)), $"round {round}");
            }
        }
        transfers.Flush(0);
        Assert.Null(transfers.Drain());
        for (int i = 0; i < 2; i++) Assert.Equal(content[i], File.ReadAllBytes(folder[$"{i}"]));
    }

    /// <summary>
    /// Whatever order the parts end in, and whichever are short or fail: the bytes before the first such part are reported, and only they.
    /// </summary>
    [Fact]
    public void Result_is_the_number_of_bytes_before_the_first_short_or_failed_part()
    {
        Random random = new(7);
        for (int round = 0; round < 3000; round++)
        {
            int[] lengths = [.. Enumerable.Range(0, random.Next(1, 6)).Select(_ => random.Next(1, 5))];
            int[] results = [.. lengths.Select(length => random.Next(3) switch { 0 => length, 1 => random.Next(length), _ => -Errno.EIO })];
            if (random.Next(2) == 0) results = [.. results.Select((result, i) => i < lengths.Length / 2 ? lengths[i] : result)];
            // Pieces of one device, apart from each other, so that the offset shows which part a request is.
            PieceMap map = new(lengths.Select((length, i) => new MappedPiece(0, 100 * i, length)));
            ScriptedQueue below = new(random.Next(1, 4))
            {
                Attempt = (_, request) => results[request.Offset / 100],
                Next = count => random.Next(count),
            };
            using PieceQueue queue = new(below, [map], _arena);
            Assert.True(queue.TryQueue(new BlockRequest(BlockVerb.Read, 0, 0, new Slice(0, lengths.Sum()), 42)));
            int ended = 0;
            while (ended == 0) ended = queue.Wait(_completions);
            int bad = Enumerable.Range(0, results.Length).FirstOrDefault(i => results[i] != lengths[i], -1);
            int before = bad < 0 ? lengths.Sum() : lengths[..bad].Sum() + Math.Max(results[bad], 0);
            Assert.Equal(new BlockCompletion(42, before > 0 ? before : results[bad]), _completions[0]);
            Assert.Equal(lengths.Length, below.Asked.Count);
        }
    }

    [Fact]
    public void Flush_goes_to_each_device_once_and_fails_if_one_fails()
    {
        PieceMap map = new(
            [new MappedPiece(2, 0, 4), new MappedPiece(0, 8, 4), new MappedPiece(2, 16, 4), new MappedPiece(MappedPiece.Zeros, 0, 4)]);
        foreach (int failing in (int[])[-1, 0, 2])
        {
            ScriptedQueue below = new(1) { Attempt = (_, request) => request.Device == failing ? -Errno.EIO : 0 };
            using PieceQueue queue = new(below, [new PieceMap([new MappedPiece(1, 0, 1)]), map], _arena);
            foreach (BlockVerb verb in (BlockVerb[])[BlockVerb.Flush, BlockVerb.WriteBack])
            {
                below.Asked.Clear();
                Assert.True(queue.TryQueue(new BlockRequest(verb, 1, 0, default, 9)));
                int waits = 1;
                while (queue.Wait(_completions) == 0) waits++;
                Assert.Equal(2, waits);
                Assert.Equal([(verb, 0), (verb, 2)], below.Asked.Select(request => (request.Verb, request.Device)).Order());
                Assert.Equal(new BlockCompletion(9, failing < 0 ? 0 : -Errno.EIO), _completions[0]);
            }
            below.Plain = request => request.Device == failing ? -Errno.EIO : 0;
            Assert.Equal(failing < 0 ? 0 : -Errno.EIO, queue.Perform(new BlockRequest(BlockVerb.Flush, 1, 0, default, 9)));
            Assert.Equal([0, 2], below.Performed.Select(request => request.Device));
        }
    }

    [Fact]
    public void Zeros_are_read_without_a_device_and_cannot_be_written()
    {
        ScriptedQueue below = new(2);
        using PieceQueue queue = new(below, [new PieceMap([new MappedPiece(MappedPiece.Zeros, 0, 8), new MappedPiece(0, 0, 8)])], _arena);
        Slice buffer = new(0, 8);
        _arena[buffer].Fill(7);
        Assert.True(queue.TryQueue(new BlockRequest(BlockVerb.Read, 0, 0, buffer, 1)));
        Assert.Equal(1, queue.Wait(_completions));
        Assert.Equal(new BlockCompletion(1, 8), _completions[0]);
        Assert.Equal(new byte[8], _arena[buffer].ToArray());
        Assert.True(queue.TryQueue(new BlockRequest(BlockVerb.Write, 0, 0, buffer, 2)));
        Assert.Equal(1, queue.Wait(_completions));
        Assert.Equal(new BlockCompletion(2, -Errno.EROFS), _completions[0]);
        Assert.Equal(-Errno.EROFS, queue.Perform(new BlockRequest(BlockVerb.Write, 0, 0, buffer, 2)));
        Assert.Empty(below.Asked);
    }

    [Theory]
    [InlineData(BlockVerb.Read, 6, 2)]
    [InlineData(BlockVerb.Read, 8, 0)]
    [InlineData(BlockVerb.Write, 6, 2)]
    [InlineData(BlockVerb.Write, 8, -Errno.ENOSPC)]
    public void Transfers_end_at_the_end_of_the_device(BlockVerb verb, int offset, int expected)
    {
        ScriptedQueue below = new(2) { Next = _ => 0 };
        using PieceQueue queue = new(below, [new PieceMap([new MappedPiece(0, 100, 8)])], _arena);
        BlockRequest request = new(verb, 0, offset, new Slice(0, 4), 1);
        Assert.True(queue.TryQueue(request));
        Assert.Equal(1, queue.Wait(_completions));
        Assert.Equal(expected, _completions[0].Result);
        Assert.Equal(expected, queue.Perform(request));
        Assert.All(below.Asked, part => Assert.True(part.Offset + part.Buffer.Length <= 108));
    }

    [Fact]
    public void Only_as_many_requests_are_in_flight_as_the_depth_below_and_an_error_below_is_passed_on()
    {
        ScriptedQueue below = new(2);
        using PieceQueue queue = new(below, [new PieceMap([new MappedPiece(0, 0, 4), new MappedPiece(0, 100, 4)])], _arena);
        BlockRequest request = new(BlockVerb.Read, 0, 0, new Slice(0, 8), 1);
        Assert.Equal(2, queue.Depth);
        Assert.True(queue.TryQueue(request));
        Assert.True(queue.TryQueue(request));
        Assert.False(queue.TryQueue(request));
        Assert.Throws<ArgumentOutOfRangeException>(() => queue.TryQueue(request with { Device = 1 }));
        below.Broken = -Errno.EIO;
        Assert.Equal(-Errno.EIO, queue.Wait(_completions));
    }

    /// <summary>A wait below may have consumed the wake-up, so it must not be followed by another one.</summary>
    [Fact]
    public void Each_wait_waits_below_only_once()
    {
        ScriptedQueue below = new(4);
        using PieceQueue queue = new(below, [new PieceMap([new MappedPiece(0, 0, 4), new MappedPiece(0, 100, 4)])], _arena);
        Assert.True(queue.TryQueue(new BlockRequest(BlockVerb.Read, 0, 0, new Slice(0, 8), 1)));
        Assert.Equal(0, queue.Wait(_completions));
        Assert.Single(below.Asked);
        Assert.Equal(1, queue.Wait(_completions));
    }

    private static PieceMap RandomMap(Random random)
    {
        // Every sector of two devices, shuffled in runs: no two pieces share a byte.
        List<MappedPiece> pieces = [];
        for (int device = 0; device < 2; device++)
        {
            for (int at = 0; at < DeviceSectors;)
            {
                int count = Math.Min(random.Next(1, 20), DeviceSectors - at);
                if (random.Next(4) > 0) pieces.Add(new MappedPiece(device, at * Sector, count * Sector));
                at += count;
            }
        }
        MappedPiece[] shuffled = [.. pieces];
        random.Shuffle(shuffled);
        return new PieceMap(shuffled);
    }

    private static void Store(PieceMap map, byte[][] content, long offset, ReadOnlySpan<byte> bytes)
    {
        for (int i = 0; i < bytes.Length; i++)
        {
            MappedPiece piece = map.Locate(offset + i, 1);
            content[piece.Device][piece.Offset] = bytes[i];
        }
    }

    private static byte[] Load(PieceMap map, byte[][] content, long offset, int length)
    {
        byte[] bytes = new byte[length];
        for (int i = 0; i < length; i++)
        {
            MappedPiece piece = map.Locate(offset + i, 1);
            bytes[i] = content[piece.Device][piece.Offset];
        }
        return bytes;
    }
}
