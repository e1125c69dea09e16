using System;
using System.IO;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Create;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.Create;

/// <summary>Images in files: errors, and holes that a comparison skips.</summary>
public sealed class FileImageTests(ITestOutputHelper output)
{
    [Theory]
    [InlineData("missing", ExitCode.InputMissing)]
    [InlineData("folder", ExitCode.Usage)]
    public void Missing_file_and_folder_are_refused_as_images(string what, ExitCode code)
    {
        using var folder = new TempFolder();
        string path = what == "folder" ? folder.Path : folder["nothing"];
        Assert.Equal(code, Assert.Throws<SnapuserdException>(() => FileImageReader.Open(path).Dispose()).Code);
    }

    [Fact]
    public void File_that_became_shorter_ends_the_read_with_exit_code_74()
    {
        using var folder = new TempFolder();
        File.WriteAllBytes(folder["image"], new byte[8192]);
        using FileImageReader image = FileImageReader.Open(folder["image"]);
        File.WriteAllBytes(folder["image"], new byte[5000]);
        SnapuserdException error = Assert.Throws<SnapuserdException>(() => image.Read(4096, new byte[4096]));
        Assert.Equal(ExitCode.InputOutput, error.Code);
        Assert.Contains("shorter", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Comparison_skips_the_holes_of_large_images()
    {
        const long Length = 16L << 30, MiB = 1 << 20;
        using var folder = new TempFolder();
        byte[] noise = new byte[MiB];
        new Random(1).NextBytes(noise);
        // Both images have the same data at 3 GiB. The old one has it at 9 GiB as well, the new one at 5 GiB.
        MakeSparse(folder["old"], Length, noise, 3L << 30, 9L << 30);
        MakeSparse(folder["new"], Length + (1L << 30), noise, 3L << 30, 5L << 30);
        using FileImageReader oldFile = FileImageReader.Open(folder["old"]), newFile = FileImageReader.Open(folder["new"]);
        if (!oldFile.TrySkipHole(0, out _))
            throw new InvalidOperationException(
                $"{folder.Path} is on a file system that reports no holes; set TMPDIR to a folder on another one");
        var old = new CountingImage(oldFile);
        var now = new CountingImage(newFile);
        using DiffPlan plan = Differ.Compare(old, now, new DiffOptions { Threads = 2 });

        output.WriteLine(
            $"read {old.BytesRead} and {now.BytesRead} bytes; {plan.PeakNativeBytes} bytes of memory mapped at most");
        Assert.InRange(old.BytesRead, 2 * MiB, 8 * MiB);
        Assert.InRange(now.BytesRead, 2 * MiB, 8 * MiB);
        Assert.InRange(plan.PeakNativeBytes, 1, new DiffOptions().MemoryBytes + (32 * (now.Length / CowOp.BlockSize)));
        Assert.Equal(3, plan.RunCount);
        Assert.Equal(new DiffRun(CowOpType.Copy, 5 << 18, 3 << 18, 256), plan[0]);
        Assert.Equal(new DiffRun(CowOpType.Zero, 9 << 18, 0, 256), plan[1]);
        Assert.Equal(new DiffRun(CowOpType.Zero, 16 << 18, 0, 1 << 18), plan[2]);
    }

    private static void MakeSparse(string path, long length, byte[] data, params long[] offsets)
    {
        using FileStream file = File.Create(path);
        file.SetLength(length);
        foreach (long offset in offsets)
        {
            file.Position = offset;
            file.Write(data);
        }
    }

    /// <summary>
    /// Counts the bytes of <see cref="Read"/>. <see cref="TrySkipHole"/> reads the file as well, to check that a hole contains zeros; these
    /// bytes are not counted.
    /// </summary>
    private sealed class CountingImage(IImageReader image) : IImageReader
    {
        private long _bytesRead;

        public long BytesRead => Volatile.Read(ref _bytesRead);

        public string Name => image.Name;

        public long Length => image.Length;

        public void Read(long offset, Span<byte> destination)
        {
            Interlocked.Add(ref _bytesRead, destination.Length);
            image.Read(offset, destination);
        }

        public bool TrySkipHole(long offset, out long nextData) => image.TrySkipHole(offset, out nextData);
    }
}
