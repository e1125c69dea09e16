using System;
using System.IO;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cow;

/// <summary>COW output to real files and devices.</summary>
public sealed class FileCowOutputTests
{
    private static readonly CowWriterOptions s_options = new() { Compression = CowCompression.Lz4, OpCountMax = 100 };

    private static byte[] Noise(int blocks)
    {
        byte[] noise = new byte[blocks * 4096];
        new Random(blocks).NextBytes(noise);
        return noise;
    }

    private static byte[] Expected(CowWriterOptions options)
    {
        var output = new MemoryOutput();
        using var writer = CowWriter.Create(output, options);
        Calls(writer);
        return output.Bytes;
    }

    private static void Calls(CowWriter writer)
    {
        writer.Sequence([3]);
        writer.Copy(3, 4);
        writer.Replace(10, Noise(7));
        writer.Label(1);
        writer.Xor(20, 9, Noise(1));
        writer.Finish();
    }

    [Fact]
    public void File_equals_the_output_in_memory_and_can_be_continued()
    {
        using var folder = new TempFolder();
        using (FileCowOutput output = FileCowOutput.Create(folder["new.cow"]))
        {
            Assert.Null(output.Capacity);
            using var writer = CowWriter.Create(output, s_options);
            Calls(writer);
            Assert.Equal(writer.Size, output.Length);
        }
        Assert.Equal(Expected(s_options), File.ReadAllBytes(folder["new.cow"]));
        using (FileCowOutput output = FileCowOutput.Open(folder["new.cow"]))
        {
            using var writer = CowWriter.OpenAt(output, 1, s_options);
            writer.Xor(20, 9, Noise(1));
            writer.Finish();
        }
        Assert.Equal(Expected(s_options), File.ReadAllBytes(folder["new.cow"]));
    }

    [Fact]
    public void New_file_has_no_old_content_and_its_zeros_are_a_hole()
    {
        using var folder = new TempFolder();
        File.WriteAllBytes(folder["old.cow"], Noise(2000));
        using (FileCowOutput output = FileCowOutput.Create(folder["old.cow"]))
        using (var writer = CowWriter.Create(output, s_options))
            Calls(writer);
        Assert.Equal(Expected(s_options), File.ReadAllBytes(folder["old.cow"]));
        string[] blocks = LoopDevice.Call("stat", "-c", "%b", folder["old.cow"]).Trim().Split('\n');
        Assert.InRange(long.Parse(blocks[0], System.Globalization.CultureInfo.InvariantCulture) * 512, 1, 1024 * 1024);
    }

    [Fact]
    public void Length_follows_writes_and_truncation()
    {
        using var folder = new TempFolder();
        File.WriteAllBytes(folder["a.cow"], new byte[100]);
        using FileCowOutput output = FileCowOutput.Open(folder["a.cow"]);
        void Has(long length) => Assert.Equal((length, length), (output.Length, new FileInfo(folder["a.cow"]).Length));
        Has(100);
        output.Write(0, Noise(1));
        Has(4096);
        output.Write(10, Noise(1).AsSpan(0, 20));
        Has(4096);
        output.Write(8192, Noise(1).AsSpan(0, 4));
        Has(8196);
        output.Write(8196, Noise(1).AsSpan(4, 1));
        Has(8197);
        output.Truncate(8197);
        Has(8197);
        output.Truncate(30);
        Has(30);
        output.Truncate(8197);
        Has(8197);
        byte[] expected = new byte[8197], read = Noise(3).AsSpan(0, 8197).ToArray();
        Noise(1).AsSpan(0, 30).CopyTo(expected);
        Noise(1).AsSpan(0, 20).CopyTo(expected.AsSpan(10));
        output.Read(0, read);
        Assert.Equal(expected, read);
        Assert.Equal(ExitCode.InputOutput, Assert.ThrowsAny<SnapuserdException>(() => output.Read(8190, new byte[8])).Code);
    }

    [Fact]
    public void Output_that_cannot_be_created_is_refused_with_exit_code_73()
    {
        using var folder = new TempFolder();
        Assert.Equal(ExitCode.CannotCreate,
            Assert.ThrowsAny<SnapuserdException>(() => FileCowOutput.Create(folder["no/such/folder.cow"])).Code);
        Assert.Equal(ExitCode.CannotCreate, Assert.ThrowsAny<SnapuserdException>(() => FileCowOutput.Create(folder.Path)).Code);
        Assert.Equal(ExitCode.CannotCreate, Assert.ThrowsAny<SnapuserdException>(() => FileCowOutput.Create("/dev/null")).Code);
        Assert.Equal(ExitCode.CannotCreate, Assert.ThrowsAny<SnapuserdException>(() => FileCowOutput.Create("")).Code);
        Assert.Equal(ExitCode.InputMissing, Assert.ThrowsAny<SnapuserdException>(() => FileCowOutput.Open(folder["none.cow"])).Code);
    }

    [Fact]
    public void File_that_another_process_writes_is_in_use()
    {
        using var folder = new TempFolder();
        using FileCowOutput output = FileCowOutput.Create(folder["a.cow"]);
        Assert.Equal(ExitCode.InUse, Assert.ThrowsAny<SnapuserdException>(() => FileCowOutput.Create(folder["a.cow"])).Code);
    }

    [Fact]
    public void Failed_write_or_read_names_the_error_of_the_system()
    {
        using var folder = new TempFolder();
        using FileCowOutput output = FileCowOutput.Create(folder["a.cow"]);
        SnapuserdException failed = Assert.ThrowsAny<SnapuserdException>(() => output.Write(-4096, Noise(1)));
        Assert.Equal(ExitCode.InputOutput, failed.Code);
        Assert.Contains("EINVAL", failed.Message, StringComparison.Ordinal);
        failed = Assert.ThrowsAny<SnapuserdException>(() => output.Read(-4096, Noise(1)));
        Assert.Contains("EINVAL", failed.Message, StringComparison.Ordinal);
        // At the end of a file the kernel returns 0 bytes and no error; the output reports EIO.
        Assert.Contains("EIO", Assert.ThrowsAny<SnapuserdException>(() => output.Read(0, Noise(1))).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Single_bytes_are_written_and_read()
    {
        using var folder = new TempFolder();
        using FileCowOutput output = FileCowOutput.Create(folder["a.cow"]);
        output.Write(0, [7]);
        output.Write(1, [8]);
        foreach ((long at, byte expected) in new[] { (0L, (byte)7), (1L, (byte)8) })
        {
            byte[] one = [0xff];
            output.Read(at, one);
            Assert.Equal([expected], one);
        }
        output.Write(5, []);
        output.Read(9, []);
        Assert.Equal(2, output.Length);
    }

    [Fact]
    public void Flush_flushes_the_file_and_reports_a_failure()
    {
        using var folder = new TempFolder();
        using FileCowOutput output = FileCowOutput.Create(folder["a.cow"]);
        int flushed = -1;
        try
        {
            FileFlush.Before = fd =>
            {
                flushed = fd;
                return 0;
            };
            output.Flush();
            Assert.Equal(output.Fd, flushed);
            FileFlush.Before = _ => -4;
            SnapuserdException failed = Assert.ThrowsAny<SnapuserdException>(output.Flush);
            Assert.Equal(ExitCode.InputOutput, failed.Code);
            Assert.StartsWith($"{folder["a.cow"]}: flushing failed: ", failed.Message, StringComparison.Ordinal);
            Assert.Contains("EINTR", failed.Message, StringComparison.Ordinal);
        }
        finally
        {
            FileFlush.Before = null;
        }
    }

    [Fact]
    public void Invalid_offset_or_length_is_reported_and_the_file_is_closed()
    {
        using var folder = new TempFolder();
        int Descriptors() => Directory.GetFiles("/proc/self/fd").Count(fd => new FileInfo(fd).LinkTarget == folder["a.cow"]);
        using (FileCowOutput output = FileCowOutput.Create(folder["a.cow"]))
        {
            Assert.Equal(1, Descriptors());
            SnapuserdException failed = Assert.ThrowsAny<SnapuserdException>(() => output.Truncate(-1));
            Assert.Equal(ExitCode.InputOutput, failed.Code);
            Assert.StartsWith($"{folder["a.cow"]}: setting the length to -1 failed: ", failed.Message, StringComparison.Ordinal);
            Assert.Equal(0, output.Length);
            Assert.Equal(0, new FileInfo(folder["a.cow"]).Length);
            failed = Assert.ThrowsAny<SnapuserdException>(() => output.Write(-1, [1, 2]));
            Assert.StartsWith($"{folder["a.cow"]}: writing 2 bytes at -1 failed: ", failed.Message, StringComparison.Ordinal);
            failed = Assert.ThrowsAny<SnapuserdException>(() => output.Read(5, new byte[3]));
            Assert.StartsWith($"{folder["a.cow"]}: reading 3 bytes at 5 failed: ", failed.Message, StringComparison.Ordinal);
            Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite,
                File.GetUnixFileMode(folder["a.cow"]) & (UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute));
        }
        Assert.Equal(0, Descriptors());
    }

    [RootFact]
    public void Full_file_system_is_reported()
    {
        using var full = new TmpFs(1 << 20);
        using FileCowOutput output = FileCowOutput.Create(full["a.cow"]);
        SnapuserdException failed = Assert.ThrowsAny<SnapuserdException>(() => output.Write(0, Noise(512)));
        Assert.Equal(ExitCode.InputOutput, failed.Code);
        Assert.Contains("ENOSPC", failed.Message, StringComparison.Ordinal);
        Assert.InRange(output.Length, 1, 1 << 20);
    }

    [RootFact]
    public void File_that_fits_a_block_device_is_written_and_a_longer_one_is_refused()
    {
        using var folder = new TempFolder();
        byte[] expected = Expected(s_options), old = Noise(1024);
        foreach (bool fits in new[] { true, false })
        {
            // A loop device has whole sectors. The device that is too small lacks at least one byte.
            long bytes = fits ? (expected.Length + 511) / 512 * 512 : (expected.Length - 1) / 512 * 512;
            File.WriteAllBytes(folder["disk"], old.AsSpan(0, (int)bytes).ToArray());
            using (var loop = new LoopDevice(folder["disk"]))
            using (FileCowOutput output = FileCowOutput.Create(loop.Path))
            {
                Assert.Equal(bytes, output.Capacity);
                using var writer = CowWriter.Create(output, s_options);
                if (fits)
                {
                    Calls(writer);
                    Assert.Equal(expected.Length, writer.Size);
                }
                else
                {
                    SnapuserdException refusal = Assert.ThrowsAny<SnapuserdException>(() => Calls(writer));
                    Assert.Equal(ExitCode.InputOutput, refusal.Code);
                    Assert.Contains($"would have {expected.Length} bytes, but there are only {bytes}", refusal.Message,
                        StringComparison.Ordinal);
                }
            }
            byte[] disk = File.ReadAllBytes(folder["disk"]);
            Assert.Equal(bytes, disk.Length);
            if (fits)
            {
                // Unused op slots keep the device's old content, as on Android.
                using CowFile cow = CowFile.Read(new MemorySource(disk));
                Assert.Equal(cow.Header, CowHeader.Parse(new MemorySource(expected)));
                Assert.Equal(expected[(int)cow.Header.DataOffset..], disk[(int)cow.Header.DataOffset..expected.Length]);
                Assert.Equal(expected[..((int)cow.Header.OpsOffset + (16 * cow.OpCount))],
                    disk[..((int)cow.Header.OpsOffset + (16 * cow.OpCount))]);
                Assert.Equal(1ul, cow.LastLabel);
            }
        }
    }

    [RootFact]
    public void Full_disk_ends_with_exit_code_74_and_the_previous_label_is_kept()
    {
        using var folder = new TempFolder();
        LoopDevice.Call("mount", "-t", "tmpfs", "-o", "size=1m", "none", folder.Path);
        try
        {
            using FileCowOutput output = FileCowOutput.Create(folder["full.cow"]);
            using (var writer = CowWriter.Create(output, s_options with { OpCountMax = 1000 }))
            {
                writer.Replace(10, Noise(7));
                writer.Label(1);
                writer.Replace(100, Noise(300));
                SnapuserdException refusal = Assert.ThrowsAny<SnapuserdException>(writer.Finish);
                Assert.Equal(ExitCode.InputOutput, refusal.Code);
                Assert.Contains("no space left on device", refusal.Message, StringComparison.Ordinal);
                Assert.Contains("ENOSPC", refusal.Message, StringComparison.Ordinal);
            }
            using (var writer = CowWriter.OpenAt(output, 1, s_options)) writer.Finish();
            using CowFile cow = CowFile.Read(output);
            Assert.Equal(7, cow.OpCount);
        }
        finally
        {
            LoopDevice.Call("umount", folder.Path);
        }
    }
}
