using System.Runtime.InteropServices;
using Snapuserd.Text;

namespace Snapuserd.Cli;

/// <summary>
/// The output of `snapuserd --version`: the version, the target of the build, and where it was tested (docs/platforms.md has the commands).
/// </summary>
internal static class VersionText
{
    private static bool IsArm64 => RuntimeInformation.ProcessArchitecture == System.Runtime.InteropServices.Architecture.Arm64;

    /// <summary>Debian's name of the architecture, which `make ARCH=…` takes.</summary>
    private static string Architecture => IsArm64 ? "arm64" : "amd64";

    /// <summary>Page sizes in KiB with which the guest tests passed.</summary>
    private static string Pages => IsArm64 ? "4 and 16" : "4";

    /// <summary>Releases of Linux on which guest tests passed. docs/platforms.md lists the tests of each release.</summary>
    private const string Kernels = "5.10 and 6.12";

    /// <summary>Three lines, of which a script reads the first.</summary>
    internal static string Text =>
        $"snapuserd {CommandLine.Version}\n"
        + $"built for: Linux on {Architecture}, kernels from 5.10 on\n"
        + $"tested on: Linux {Kernels}, pages of {Pages} KiB (make guest-test{(IsArm64 ? " ARCH=arm64 PAGES=16k" : "")}; docs/platforms.md "
        + "says what ran where)";

    /// <summary>The same as a JSON object.</summary>
    internal static string Json => JsonLine.Event("version").Add("version", CommandLine.Version).Add("architecture", Architecture)
        .Add("tested_kernels", Kernels.Replace(" and ", ",")).Add("tested_page_kib", Pages.Replace(" and ", ",")).ToString();
}
