using System;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Conformance;

/// <summary>A loop device over a file, for as long as the test wants it.</summary>
public sealed class LoopDevice : IDisposable
{
    public LoopDevice(string file, params string[] options)
    {
        BinaryResult result = Binary.RunProgram("losetup", ["--find", "--show", .. options, file]);
        if (result.ExitCode != 0) throw new InvalidOperationException($"losetup {file}: {result}");
        Path = result.Output.Trim();
    }

    public string Path { get; }

    public void Dispose() => Binary.RunProgram("losetup", ["--detach", Path]);
}
