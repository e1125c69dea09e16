using System.IO;

namespace Snapuserd.Tests.Support;

/// <summary>What a descriptor of this process leads to.</summary>
public static class DescriptorPath
{
    /// <summary>The path that the kernel has for it.</summary>
    public static string Of(int fd) =>
        new FileInfo($"/proc/self/fd/{fd}").LinkTarget ?? throw new IOException($"descriptor {fd} has no path");
}
