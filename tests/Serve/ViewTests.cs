using System;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Serve;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Serve;

public sealed class ViewTests
{
    [Theory]
    [MemberData(nameof(Golden.CowNames), MemberType = typeof(Golden))]
    public void Reads_show_the_target_before_during_and_after_the_merge(string name)
    {
        bool scratch = Golden.Row(name).Scratch;
        using ViewFixture fixture = new(Golden.Cow(name), Golden.Old, allowUnsafe: !scratch);
        byte[] target = Golden.New;
        Compare(fixture, target, seed: 1, reads: 300);
        // Without a scratch area, an Xor in place cannot be read while it is written. Such a COW can be served or merged, but not both at
        // once.
        if (!scratch) return;

        bool stop = false;
        Exception? failure = null;
        int rounds = 0;
        Thread[] readers = new Thread[2];
        for (int i = 0; i < readers.Length; i++)
        {
            int seed = i + 2;
            readers[i] = new Thread(() =>
            {
                try
                {
                    for (int round = 0; !Volatile.Read(ref stop); round++)
                    {
                        Compare(fixture, target, (seed * 1000) + round, reads: 20);
                        Interlocked.Increment(ref rounds);
                    }
                }
                catch (Exception e)
                {
                    failure = e;
                }
            });
            readers[i].Start();
        }
        try
        {
            fixture.Engine.Run();
        }
        finally
        {
            Volatile.Write(ref stop, true);
            foreach (Thread reader in readers) reader.Join();
        }
        Assert.Null(failure);

        Compare(fixture, target, seed: 4, reads: 300);
        Assert.True(target.AsSpan().SequenceEqual(fixture.Base), "the base is not the target");
    }

    private static void Compare(ViewFixture fixture, byte[] target, int seed, int reads)
    {
        using ReadContext context = fixture.Reader();
        Random random = new(seed);
        for (int i = 0; i < reads; i++)
        {
            int length = random.Next(4) switch
            {
                0 => random.Next(1, 512),
                1 => 4096,
                2 => random.Next(1, 64 << 10),
                _ => random.Next(1, 1 << 20),
            };
            int offset = random.Next(0, target.Length - length + 1);
            if (random.Next(2) == 0) offset &= -4096;
            Slice buffer = context.Buffer(0).Part(0, length);
            Assert.Equal(length, context.Reader.Read(offset, buffer));
            Assert.True(target.AsSpan(offset, length).SequenceEqual(context[buffer]),
                $"{length} bytes at {offset}, seed {seed}, read {i}: {fixture.Failure}");
        }
    }
}
