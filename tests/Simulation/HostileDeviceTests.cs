using System;
using System.Buffers.Binary;
using Snapuserd.Cow;
using Snapuserd.Tests.Simulator;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.Simulation;

/// <summary>
/// A COW that changes between two reads of it. Its image is then undefined. Still, every access must stay in range, the run must end with a
/// typed error or with "done", and only blocks that an op writes may change.
/// </summary>
public sealed class HostileDeviceTests(ITestOutputHelper output)
{
    [Theory]
    [InlineData(1)]
    [InlineData(int.MaxValue + 1L)]
    [InlineData(-1)]
    public void Count_that_changes_after_the_validation_fails_as_in_use_by_another_merge(long count)
    {
        HostileFile file = HostileFiles.Small(3, CowCompression.Gz);
        byte[] baseImage = HostileFiles.Base(0);
        using HostileTrial trial = new();
        bool first = true;
        HostileOutcome outcome = trial.TryLiar(file.Bytes, baseImage, 1, 0, (offset, bytes) =>
        {
            // The first read of the header, by the parser, returns the true count; every later one returns the changed count.
            if (offset != 0) return;
            if (!first) BinaryPrimitives.WriteInt64LittleEndian(bytes.Span[CowHeader.MergeCountOffset..], count);
            first = false;
        });
        Assert.Equal("InUse", outcome.Rule);
        Assert.Contains("num_merge_ops changed", outcome.Sentence);
    }

    [Theory]
    [InlineData(2, CowCompression.Gz)]
    [InlineData(2, CowCompression.None)]
    [InlineData(3, CowCompression.Zstd)]
    [InlineData(3, CowCompression.Lz4)]
    public void Device_that_returns_changed_data_causes_a_typed_error_and_no_write_to_a_block_without_an_op(int version,
        CowCompression compression)
    {
        const ulong seeds = 500;
        HostileFile file = HostileFiles.Small(version, compression, window: version == 3);
        using HostileTrial trial = new();
        int done = 0, refused = 0;
        for (ulong seed = 0; seed < seeds; seed++)
        {
            try
            {
                ulong lies = Chance.Mix(seed);
                HostileOutcome outcome = trial.TryLiar(file.Bytes, HostileFiles.Base(seed), seed, (int)(lies % 12),
                    (offset, bytes) => Fuzzer.Lie(lies + (ulong)offset, bytes.Span));
                if (outcome.Accepted) done++; else refused++;
            }
            catch (HostileException e)
            {
                throw new HostileException($"seed {seed}: {e.Message}", e);
            }
        }
        output.WriteLine($"{done} done, {refused} refused");
        Assert.True(done > 0 && refused > 0, $"{done} done, {refused} refused: the changes must affect some runs and not others");
    }
}
