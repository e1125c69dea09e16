using System;
using System.Collections.Concurrent;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Threading;
using Snapuserd.AndroidDaemon;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.AndroidDaemon;

/// <summary>The verifier reads the whole device once and reports every unreadable range.</summary>
public sealed class UpdateVerifierTests
{
    // Milliseconds. Long enough for any machine; a test that waits longer has failed.
    private const int Long = 120_000;

    private const long GiB = 1L << 30;

    private static string Image(TempFolder folder, long length)
    {
        using FileStream file = File.Create(folder["image"]);
        file.SetLength(length);
        return folder["image"];
    }

    /// <summary>Answers every read without a device, records it, and fails or waits where the test says so.</summary>
    private sealed class Reads(int depth, ConcurrentBag<(long Offset, int Length)> seen, Func<BlockRequest, int> result) : IBlockQueue
    {
        private readonly Queue<BlockRequest> _queued = new();

        public int Depth => depth;

        public bool TryQueue(in BlockRequest request)
        {
            if (_queued.Count == depth) return false;
            _queued.Enqueue(request);
            return true;
        }

        public int Wait(Span<BlockCompletion> completions)
        {
            BlockRequest request = _queued.Dequeue();
            Assert.Equal(BlockVerb.Read, request.Verb);
            int moved = result(request);
            if (moved == request.Buffer.Length) seen.Add((request.Offset, moved));
            completions[0] = new BlockCompletion(request.Tag, moved);
            return 1;
        }

        public int Perform(in BlockRequest request) => result(request);

        public void Dispose()
        {
        }
    }

    private static UpdateVerifier WithoutDevice(string path, ConcurrentBag<(long Offset, int Length)> seen, Func<BlockRequest, int> result,
        List<string>? told = null) =>
            new(path, sentence => told?.Add(sentence), (BlockDevice device, Arena arena, WakeUp wakeUp, int depth, out string why) =>
            {
                why = "";
                return new Reads(depth, seen, result);
            });

    [Theory]
    [InlineData(4096)]
    [InlineData((256 << 10) - 4096)]
    [InlineData(5 << 20)]
    [InlineData((3 << 20) + 4096)]
    public void Real_file_is_read_to_its_end_over_a_ring(long length)
    {
        using TempFolder folder = new();
        List<string> told = [];
        using UpdateVerifier verifier = new(Image(folder, length), told.Add);
        Assert.Equal(UpdateVerdict.Unknown, verifier.Verdict);
        verifier.Start();
        Assert.Equal((UpdateVerdict.Success, length), (verifier.Wait(Long), verifier.BytesRead));
        Assert.Empty(told);
    }

    [Theory]
    [InlineData(GiB, 1, 256 << 10)]
    [InlineData((2 * GiB) - 4096, 1, 256 << 10)]
    [InlineData(2 * GiB, 1, 1 << 20)]
    [InlineData((2 * GiB) + 4096, 3, 1 << 20)]
    [InlineData((3 * GiB) + (5 << 20) + 8192, 3, 1 << 20)]
    public void Every_byte_is_read_once_in_requests_of_the_size_for_that_device(long length, int threads, int bytes)
    {
        using TempFolder folder = new();
        ConcurrentBag<(long Offset, int Length)> seen = [];
        using UpdateVerifier verifier = WithoutDevice(Image(folder, length), seen, request => request.Buffer.Length);
        verifier.Start();
        Assert.Equal(UpdateVerdict.Success, verifier.Wait(Long));
        Assert.Equal(threads, UpdateVerifier.ThreadsFor(length));
        long end = 0;
        foreach ((long offset, int read) in seen.Order())
        {
            Assert.Equal(end, offset);
            Assert.Equal(Math.Min(bytes, length - offset), read);
            end += read;
        }
        Assert.Equal(length, end);
    }

    [Fact]
    public void A_failed_read_is_a_failure_and_reported_once_with_its_offset()
    {
        using TempFolder folder = new();
        List<string> told = [];
        using UpdateVerifier verifier =
            WithoutDevice(Image(folder, 4 << 20), [], request => request.Offset == 1 << 20 ? -Errno.EIO : request.Buffer.Length, told);
        verifier.Start();
        Assert.Equal(UpdateVerdict.Failed, verifier.Wait(Long));
        verifier.Dispose();
        Assert.Contains("1048576 failed: input/output error (EIO)", Assert.Single(told), StringComparison.Ordinal);
    }

    [Fact]
    public void Device_that_became_shorter_is_a_failure()
    {
        using TempFolder folder = new();
        using UpdateVerifier verifier =
            WithoutDevice(Image(folder, 4 << 20), [], request => request.Offset >= 3 << 20 ? 0 : request.Buffer.Length);
        verifier.Start();
        Assert.Equal(UpdateVerdict.Failed, verifier.Wait(Long));
    }

    [Fact]
    public void Short_reads_are_continued()
    {
        using TempFolder folder = new();
        using UpdateVerifier verifier = WithoutDevice(Image(folder, 4 << 20), [], request => Math.Min(request.Buffer.Length, 64 << 10));
        verifier.Start();
        Assert.Equal((UpdateVerdict.Success, 4L << 20), (verifier.Wait(Long), verifier.BytesRead));
    }

    [Theory]
    [InlineData(4097)]
    [InlineData(512)]
    public void A_device_whose_length_is_not_a_multiple_of_a_block_is_a_failure(long length)
    {
        using TempFolder folder = new();
        List<string> told = [];
        using UpdateVerifier verifier = new(Image(folder, length), told.Add);
        verifier.Start();
        Assert.Equal(UpdateVerdict.Failed, verifier.Wait(Long));
        Assert.Contains("is not a multiple of", Assert.Single(told), StringComparison.Ordinal);
    }

    [Fact]
    public void A_missing_device_and_a_kernel_without_io_uring_are_failures()
    {
        using TempFolder folder = new();
        using UpdateVerifier missing = new(folder["none"], _ => { });
        missing.Start();
        Assert.Equal(UpdateVerdict.Failed, missing.Wait(Long));
        List<string> told = [];
        using UpdateVerifier ringless =
            new(Image(folder, 8192), told.Add, (BlockDevice device, Arena arena, WakeUp wakeUp, int depth, out string why) =>
            {
                why = "no ring here";
                return null;
            });
        ringless.Start();
        Assert.Equal(UpdateVerdict.Failed, ringless.Wait(Long));
        Assert.Contains("no ring here", Assert.Single(told), StringComparison.Ordinal);
    }

    [Fact]
    public void A_stop_ends_the_verifier_and_an_unknown_result_stays_unknown()
    {
        using TempFolder folder = new();
        using ManualResetEventSlim reading = new(), stopped = new();
        using UpdateVerifier verifier = WithoutDevice(Image(folder, 64 << 20), [], request =>
        {
            reading.Set();
            stopped.Wait();
            return request.Buffer.Length;
        });
        verifier.Start();
        reading.Wait();
        Assert.Equal(UpdateVerdict.Unknown, verifier.Wait(1));
        verifier.RequestStop();
        stopped.Set();
        verifier.Dispose();
        Assert.Equal(UpdateVerdict.Unknown, verifier.Verdict);
        Assert.InRange(verifier.BytesRead, 0, 1 << 20);
    }

    [Theory]
    [InlineData("system_a", "system")]
    [InlineData("system_b", "system")]
    [InlineData("system_b-init", "system")]
    [InlineData("data_b", "data")]
    [InlineData("ab_b_a", "ab_b")]
    [InlineData("odm_dlkm_a", "odm_dlkm")]
    [InlineData("vendor", "vendor")]
    [InlineData("abba", "abba")]
    [InlineData("product_c", "product_c")]
    [InlineData("_b", "_b")]
    [InlineData("b", "b")]
    [InlineData("", "")]
    [InlineData("-init", "")]
    public void Partition_is_the_name_without_one_slot_suffix(string name, string partition) =>
        Assert.Equal(partition, UpdateVerifier.PartitionOf(name));

    [Fact]
    public void Verity_device_of_the_partition_is_looked_for_first()
    {
        Assert.Equal(["vroot", "system-verity", "system"], UpdateVerifier.CandidatesFor("system_a"));
        Assert.Equal(["data-verity", "data"], UpdateVerifier.CandidatesFor("data_b"));
        Assert.False(UpdateVerifier.IsVerified("system_b-init"));
        Assert.True(UpdateVerifier.IsVerified("system_b"));
    }
}
