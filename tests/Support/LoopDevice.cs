using System;

namespace Snapuserd.Tests.Support;

/// <summary>A loop device over a file, detached on disposal; needs root.</summary>
public sealed class LoopDevice : IDisposable
{
    /// <summary>
    /// A perl script that adds a partition to a disk (BLKPG of linux/blkpg.h). Its arguments are DISK NUMBER START LENGTH, the last two in
    /// sectors of 512 bytes. Not every kernel reads the partition table of an image, and some versions of util-linux have no addpart(8).
    /// </summary>
    public const string AddPartScript = """
        my ($disk, $number, $start, $length) = @ARGV;
        open(my $file, "+<", $disk) or die "$disk: $!";
        my $partition = pack("q q i a64 a64 x4", $start * 512, $length * 512, $number, "", "");
        ioctl($file, 0x1269, pack("i i i x4 P", 1, 0, length($partition), $partition)) or die "$disk: BLKPG: $!";
        """;

    /// <summary>Sets up the device with losetup(8) and its <paramref name="options"/>.</summary>
    public LoopDevice(string file, params string[] options) => Path = Call("losetup", [.. options, "--find", "--show", file]).Trim();

    /// <summary>/dev/loopN.</summary>
    public string Path { get; }

    /// <summary>Adds a partition; both numbers count sectors of 512 bytes.</summary>
    public void AddPartition(int number, long start, long length) =>
        Call("perl", "-e", AddPartScript, Path, $"{number}", $"{start}", $"{length}");

    public void Dispose()
    {
        // A loop device stays read-only after its file is gone, and the next test would get it in that state.
        Call("blockdev", "--setrw", Path);
        Call("losetup", "--detach", Path);
    }

    /// <summary>Runs a program to its end and returns its output. Throws with the program's error output if it fails.</summary>
    public static string Call(string program, params string[] arguments)
    {
        BinaryResult result = Binary.RunProgram(program, arguments);
        return result.ExitCode == 0
            ? result.Output
            : throw new InvalidOperationException($"{program} {string.Join(' ', arguments)}: {result}");
    }
}
