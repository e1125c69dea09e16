using System;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cow;

/// <summary>Consecutive writes are joined into fewer, larger writes, without loss and in order.</summary>
public sealed class WriteRunTests
{
    private static string Written(int bufferBytes, Action<WriteRun> adds)
    {
        using Arena arena = new(64 << 10);
        MemoryOutput output = new();
        WriteRun run = new(output, arena, arena.Take(bufferBytes)!.Value);
        adds(run);
        return string.Join(' ', output.Steps.Select(step =>
            step.Bytes!.All(b => b == 0) ? $"{step.Offset}:{step.Bytes!.Length}" : $"{step.Offset}:{Convert.ToHexString(step.Bytes!)}"));
    }

    [Fact]
    public void Bytes_are_written_when_the_buffer_is_full_at_another_offset_and_on_send()
    {
        Assert.Equal("", Written(4, run => run.Add(0, [1, 2, 3])));
        Assert.Equal("0:010203", Written(4, run => { run.Add(0, [1, 2, 3]); run.Send(); run.Send(); }));
        Assert.Equal("0:01020304", Written(4, run => { run.Add(0, [1, 2, 3]); run.Add(3, [4]); run.Send(); }));
        Assert.Equal("0:01020304 4:05", Written(4, run => { run.Add(0, [1, 2, 3, 4, 5]); run.Send(); }));
        Assert.Equal("7:01020304 11:05060708 15:09",
            Written(4, run => { run.Add(7, [1]); run.Add(8, [2, 3, 4, 5, 6, 7, 8, 9]); run.Send(); }));
        Assert.Equal("7:01 9:0203 8:04",
            Written(4, run => { run.Add(7, [1]); run.Add(9, [2]); run.Add(10, [3]); run.Add(8, [4]); run.Send(); }));
        Assert.Equal("3:01", Written(4, run => { run.Add(3, [1]); run.Add(4, []); run.Send(); }));
    }

    [Theory]
    [InlineData(0, "")]
    [InlineData(1, "5:1")]
    [InlineData(4096, "5:4096")]
    [InlineData(4097, "5:4097")]
    [InlineData(8192, "5:8192")]
    [InlineData(8193, "5:8192 8197:1")]
    [InlineData(20000, "5:8192 8197:8192 16389:3616")]
    public void The_given_number_of_zeros_is_written(long count, string writes) =>
        Assert.Equal(writes, Written(8192, run => { run.AddZeros(5, count); run.Send(); }));
}
