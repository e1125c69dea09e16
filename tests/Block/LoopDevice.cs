using System;
using System.Diagnostics;

namespace Snapuserd.Tests.Block;

/// <summary>A file as a block device; needs root.</summary>
internal sealed class LoopDevice : IDisposable
{
    public LoopDevice(string image, params string[] options) => Path = Call("losetup", [.. options, "--find", "--show", image]).Trim();

    public string Path { get; }

    public void Dispose() => Call("losetup", "--detach", Path);

    /// <summary>Runs a program to its end and returns what it said.</summary>
    public static string Call(string program, params string[] arguments)
    {
        ProcessStartInfo start = new(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true };
        using Process process = Process.Start(start)!;
        System.Threading.Tasks.Task<string> errors = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        if (process.ExitCode != 0) throw new InvalidOperationException($"{program} {string.Join(' ', arguments)}: {errors.Result}");
        return output;
    }
}
