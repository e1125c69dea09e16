using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// What build.sh prints and sets before it calls the SDK, in a copy of its folder, with a fake SDK that only records how it was called.
/// </summary>
public sealed class BuildScriptTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public BuildScriptTests()
    {
        Directory.CreateDirectory(_folder["interop/Entry"]);
        foreach (string file in Directory.GetFiles(Path.Combine(Binary.Root, "interop/Entry"), "*.c"))
            File.Copy(file, _folder[$"interop/Entry/{Path.GetFileName(file)}"]);
        File.Copy(Path.Combine(Binary.Root, "build.sh"), _folder["build.sh"]);
        Directory.CreateDirectory(_folder["bin"]);
        File.WriteAllText(_folder["bin/dotnet"], """
            #!/bin/sh
            if [ "$1" = --version ]; then echo 99.0.100; exit; fi
            echo "HOME=${HOME-unset} DOTNET_CLI_HOME=${DOTNET_CLI_HOME-unset}" >>"${0%/bin/dotnet}/called"
            while [ $# -gt 0 ]; do
                if [ "$1" = -o ]; then mkdir -p "$2" && echo program >"$2/snapuserd"; fi
                shift
            done
            """);
        LoopDevice.Call("chmod", "0755", _folder["bin/dotnet"]);
        Directory.CreateDirectory(_folder["home"]);
    }

    public void Dispose() => _folder.Dispose();

    private BinaryResult Build(params string[] environment) =>
        Binary.RunProgram("env",
            ["-i", $"PATH={_folder["bin"]}:{Environment.GetEnvironmentVariable("PATH")}", .. environment, _folder["build.sh"], "build"]);

    private string Called => File.ReadAllLines(_folder["called"])[0];

    [Fact]
    public void Existing_HOME_is_kept()
    {
        BinaryResult result = Build($"HOME={_folder["home"]}");
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Equal($"HOME={_folder["home"]} DOTNET_CLI_HOME=unset", Called);
    }

    /// <summary>
    /// HOME is unset, empty, or not a folder, as for system users: build.sh uses the user's home directory in the system's user database,
    /// or a folder in build.
    /// </summary>
    [Theory]
    [InlineData(null)]
    [InlineData("HOME=")]
    [InlineData("HOME=/nonexistent")]
    public void Missing_or_invalid_HOME_is_replaced(string? home)
    {
        BinaryResult result = Build(home == null ? [] : [home]);
        Assert.True(result.ExitCode == 0, result.ToString());
        string[] homes = [.. Called.Split(' ').Select(word => word[(word.IndexOf('=', StringComparison.Ordinal) + 1)..])];
        Assert.Equal(homes[0], homes[1]);
        Assert.True(Directory.Exists(homes[0]), Called);
    }

    [Fact]
    public void Given_home_of_the_SDK_is_kept()
    {
        BinaryResult result = Build($"DOTNET_CLI_HOME={_folder["home"]}");
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Equal($"HOME=unset DOTNET_CLI_HOME={_folder["home"]}", Called);
    }

    [Fact]
    public void First_build_announces_its_downloads_and_every_build_announces_its_compilation()
    {
        BinaryResult first = Build($"HOME={_folder["home"]}");
        Assert.Matches("build.sh: the first build for (amd64|arm64) downloads .* from nuget.org: [0-9]+ MB", first.Error);
        Assert.Contains("build.sh: compiling src/Cli to native code", first.Error);
        string architecture = System.Runtime.InteropServices.RuntimeInformation.OSArchitecture.ToString().ToLowerInvariant();
        string package = $"microsoft.netcore.app.runtime.nativeaot.linux-{architecture}";
        foreach (IEnumerable<string> environment in (string[][])[[$"HOME={_folder["home"]}", $"NUGET_PACKAGES={_folder["packages"]}"],
            [$"HOME={_folder["home"]}", $"NUGET_FALLBACK_PACKAGES=/nowhere;{_folder["packages"]}"]])
        {
            Assert.Contains("downloads", Build([.. environment]).Error);
            Directory.CreateDirectory(_folder[$"packages/{package}"]);
            BinaryResult second = Build([.. environment]);
            Assert.DoesNotContain("downloads", second.Error);
            Assert.Contains("build.sh: compiling src/Cli to native code", second.Error);
            Directory.Delete(_folder["packages"], recursive: true);
        }
    }
}
