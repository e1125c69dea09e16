using System;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>A loop device over a file, for as long as it is needed; needs root.</summary>
internal sealed class LoopDevice : IDisposable
{
    internal LoopDevice(string file)
    {
        BinaryResult made = Binary.RunProgram("losetup", ["--find", "--show", file]);
        Assert.True(made.ExitCode == 0, made.ToString());
        Path = made.Output.Trim();
    }

    internal string Path { get; }

    public void Dispose() => Binary.RunProgram("losetup", ["--detach", Path]);
}
