using System;

namespace Snapuserd.Tests.Support;

/// <summary>A loop device over a file, for as long as the test wants it; needs root.</summary>
public sealed class LoopDevice : IDisposable
{
    /// <summary>Sets it up with losetup(8) and its <paramref name="options"/>.</summary>
    public LoopDevice(string file, params string[] options) => Path = Call("losetup", [.. options, "--find", "--show", file]).Trim();

    /// <summary>/dev/loopN.</summary>
    public string Path { get; }

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
