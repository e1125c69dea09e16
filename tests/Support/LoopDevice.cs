using System;

namespace Snapuserd.Tests.Support;

/// <summary>A loop device over a file, for as long as the test wants it; needs root.</summary>
public sealed class LoopDevice : IDisposable
{
    /// <summary>
    /// A script of perl that adds a partition to a disk (BLKPG of linux/blkpg.h), for DISK NUMBER, START and LENGTH in sectors of 512 bytes: not every kernel reads the table that an image has, and
    /// addpart(8) is no longer in every util-linux.
    /// </summary>
    public const string AddPartScript = """
        my ($disk, $number, $start, $length) = @ARGV;
        open(my $file, "+<", $disk) or die "$disk: $!";
        my $partition = pack("q q i a64 a64 x4", $start * 512, $length * 512, $number, "", "");
        ioctl($file, 0x1269, pack("i i i x4 P", 1, 0, length($partition), $partition)) or die "$disk: BLKPG: $!";
        """;

    /// <summary>Sets it up with losetup(8) and its <paramref name="options"/>.</summary>
    public LoopDevice(string file, params string[] options) => Path = Call("losetup", [.. options, "--find", "--show", file]).Trim();

    /// <summary>/dev/loopN.</summary>
    public string Path { get; }

    /// <summary>Adds a partition; both numbers count sectors of 512 bytes.</summary>
    public void AddPartition(int number, long start, long length) => Call("perl", "-e", AddPartScript, Path, $"{number}", $"{start}", $"{length}");

    public void Dispose()
    {
        // A loop device stays read-only when its file has gone, and the next test would get it like that.
        Call("blockdev", "--setrw", Path);
        Call("losetup", "--detach", Path);
    }

    /// <summary>Runs a program to its end and returns what it printed; anything but success is an exception with what it complained about.</summary>
    public static string Call(string program, params string[] arguments)
    {
        BinaryResult result = Binary.RunProgram(program, arguments);
        return result.ExitCode == 0 ? result.Output : throw new InvalidOperationException($"{program} {string.Join(' ', arguments)}: {result}");
    }
}
