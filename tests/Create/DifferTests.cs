using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Cow;
using Snapuserd.Create;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.Create;

public sealed class DifferTests(ITestOutputHelper output)
{
    private const int Size = 4096;

    private static DiffPlan Compare(byte[] old, byte[] now, DiffOptions? options = null) =>
        Differ.Compare(new MemoryImage(old, "old.img"), new MemoryImage(now, "new.img"), options ?? new DiffOptions());

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Plan_for_any_two_images_merges_in_place_to_the_new_one(bool xor)
    {
        for (int seed = 0; seed < 150; seed++)
        {
            ImagePair pair = ImagePair.Random(seed);
            try
            {
                using DiffPlan plan = Compare(pair.Old, pair.New, new DiffOptions { Xor = xor, Threads = 1 + (seed % 2) });
                NaivePlan.Check(plan, pair.Old, pair.New);
                if (!xor) Assert.Equal(0, plan.XorBlocks);
            }
            catch
            {
                output.WriteLine($"seed {seed}");
                throw;
            }
        }
    }
}
