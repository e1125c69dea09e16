using System.IO;

namespace Snapuserd.Tests.Support;

/// <summary>Finds the path of an open descriptor of this process.</summary>
public static class DescriptorPath
{
    /// <summary>The path that the kernel reports for the descriptor.</summary>
    public static string Of(int fd) =>
        new FileInfo($"/proc/self/fd/{fd}").LinkTarget ?? throw new IOException($"descriptor {fd} has no path");
}
