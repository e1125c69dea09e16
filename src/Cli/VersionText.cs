using System.Runtime.InteropServices;

namespace Snapuserd.Cli;

/// <summary>The answer to `snapuserd --version`: the version, what the program was built for, and where it was tested (docs/platforms.md has the commands).</summary>
internal static class VersionText
{
    private static bool IsArm64 => RuntimeInformation.ProcessArchitecture == System.Runtime.InteropServices.Architecture.Arm64;

    /// <summary>In Debian's words, which `make ARCH=…` takes.</summary>
    private static string Architecture => IsArm64 ? "arm64" : "amd64";

    /// <summary>KiB of the system's pages with which the guest tests passed.</summary>
    private static string Pages => IsArm64 ? "4 and 16" : "4";

    /// <summary>Releases of Linux on which guest tests passed; on which of them which test ran stands in docs/platforms.md.</summary>
    private const string Kernels = "5.10 and 6.12";

    /// <summary>Three lines, of which a script reads the first.</summary>
    internal static string Text =>
        $"snapuserd {CommandLine.Version}\n"
        + $"built for: Linux on {Architecture}, kernels from 5.10 on\n"
        + $"tested on: Linux {Kernels}, pages of {Pages} KiB (make guest-test{(IsArm64 ? " ARCH=arm64 PAGES=16k" : "")}; docs/platforms.md says what ran where)";

    /// <summary>The same as an object.</summary>
    internal static string Json => JsonLine.Event("version").Add("version", CommandLine.Version).Add("architecture", Architecture)
        .Add("tested_kernels", Kernels.Replace(" and ", ",")).Add("tested_page_kib", Pages.Replace(" and ", ",")).ToString();
}
