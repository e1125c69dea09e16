using System;
using System.Collections.Concurrent;
using System.Collections.Generic;
using System.ComponentModel;
using System.Diagnostics;
using System.IO;
using System.Linq;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Interop;

/// <summary>Runs this machine's C compilers to check declarations.</summary>
internal static partial class CCompiler
{
    /// <summary>
    /// The folder of Debian's package with the headers of the supported kernel. Newer headers may work. Older ones lack constants that the
    /// program uses, and the test names them.
    /// </summary>
    private const string KernelPackage = "linux-headers-6.12.*-common";

    /// <summary>The architectures that the program is built for, with Debian's and Linux's names for them.</summary>
    private static readonly Dictionary<Architecture, (string Debian, string Linux, string Triple)> s_names = new()
    {
        [Architecture.X64] = ("amd64", "x86", "x86_64-linux-gnu"),
        [Architecture.Arm64] = ("arm64", "arm64", "aarch64-linux-gnu"),
    };

    private static readonly ConcurrentDictionary<Architecture, Lazy<string>> s_sysroots = new();

    /// <summary>
    /// Compiles against an architecture's headers of the C library and of other libraries. For this machine's architecture these are its
    /// own; for another one, those in the folder that its program is linked with. Returns the compiler's error messages.
    /// </summary>
    public static string CheckAgainstLibraries(string program, Architecture architecture) =>
        Run(program, [.. Target(architecture, library: true), "-D_GNU_SOURCE"]);

    /// <summary>
    /// Compiles against only the kernel's own headers for an architecture. Returns the compiler's error messages and the version of the
    /// headers.
    /// </summary>
    public static string CheckAgainstKernel(string program, Architecture architecture, out string version)
    {
        string source = NewestHeaders();
        string makefile = File.ReadAllText(Path.Combine(source, "Makefile"));
        version = string.Join('.', new[]
        {
            "VERSION", "PATCHLEVEL", "SUBLEVEL",
        }.Select(part => Regex.Match(makefile, $@"^{part} = (\d+)", RegexOptions.Multiline).Groups[1].Value));
        string uapi = Path.Combine(source, "include/uapi");
        string machine = Path.Combine(source, "arch", s_names[architecture].Linux, "include/uapi");
        using TempFolder generated = new();
        // Generates files as the kernel's build does: if the architecture has no asm/x.h of its own, the generic header is used. The two
        // headers with compiler attributes are not for user space; "make headers_install" removes their uses.
        Directory.CreateDirectory(generated["asm"]);
        Directory.CreateDirectory(generated["linux"]);
        foreach (string header in Directory.GetFiles(Path.Combine(uapi, "asm-generic")).Select(path => Path.GetFileName(path)))
        {
            if (!File.Exists(Path.Combine(machine, "asm", header)))
                File.WriteAllText(generated["asm/" + header], $"#include <asm-generic/{header}>\n");
        }
        File.WriteAllText(generated["linux/compiler_types.h"], "");
        File.WriteAllText(generated["linux/compiler.h"], "");
        return Run(program,
            [.. Target(architecture, library: false), "-nostdinc", "-isystem", uapi, "-isystem", machine, "-isystem", generated.Path,
                "-D__user=", "-D__force=", "-D__EXPORTED_HEADERS__"]);
    }

    /// <summary>The package that contains a missing header; null if the messages report no missing header.</summary>
    public static string? MissingPackage(string complaints)
    {
        Match missing = MissingHeader().Match(complaints);
        if (!missing.Success) return null;
        string header = missing.Groups[1].Value;
        return header.Split('/')[0] switch
        {
            "zlib.h" => "zlib1g-dev",
            "brotli" => "libbrotli-dev",
            "lz4.h" or "lz4frame.h" or "lz4hc.h" => "liblz4-dev",
            "zstd.h" or "zstd_errors.h" => "libzstd-dev",
            "sodium.h" or "sodium" => "libsodium-dev",
            _ => "libc6-dev (which brings linux-libc-dev)",
        };
    }

    private static string NewestHeaders() =>
        (Directory.Exists("/usr/src") ? Directory.GetDirectories("/usr/src", KernelPackage) : [])
            .OrderByDescending(
                path => int.Parse(VersionInPath().Match(path).Groups[1].Value, System.Globalization.CultureInfo.InvariantCulture))
            .FirstOrDefault()
        ?? throw new InvalidOperationException($"the kernel's headers are missing: apt install '{KernelPackage}'");

    /// <summary>
    /// Options that make clang compile for an architecture. For this machine's architecture there are none, so any compiler works.
    /// </summary>
    private static string[] Target(Architecture architecture, bool library)
    {
        if (architecture == RuntimeInformation.OSArchitecture) return [];
        string target = $"--target={s_names[architecture].Triple}";
        return library ? [target, $"--sysroot={Sysroot(architecture)}"] : [target];
    }

    /// <summary>The folder with another architecture's headers. build.sh downloads them if the folder is missing.</summary>
    private static string Sysroot(Architecture architecture) => s_sysroots.GetOrAdd(architecture, static wanted => new(() =>
    {
        Dictionary<string, string> environment = new() { ["ARCH"] = s_names[wanted].Debian };
        BinaryResult result = Binary.RunProgram(Path.Combine(Binary.Root, "build.sh"), ["sysroot"], environment);
        if (result.ExitCode != 0) throw new InvalidOperationException($"build.sh sysroot failed: {result}");
        return result.Output.TrimEnd('\n');
    })).Value;

    private static string Run(string program, string[] options)
    {
        // gcc compiles only for its own machine.
        bool foreign = options.Any(option => option.StartsWith("--target=", StringComparison.Ordinal));
        foreach (string compiler in foreign ? ["clang"] : new[] { "cc", "clang" })
        {
            ProcessStartInfo start = new(compiler) { RedirectStandardInput = true, RedirectStandardError = true };
            foreach (string argument in (string[])["-std=gnu11", "-fsyntax-only", foreign ? "-ferror-limit=0" : "-fmax-errors=0",
                .. options, "-x", "c", "-"])
                start.ArgumentList.Add(argument);
            Process process;
            try
            {
                process = Process.Start(start)!;
            }
            catch (Win32Exception)
            {
                continue;
            }
            using (process)
            {
                process.StandardInput.Write(program);
                process.StandardInput.Close();
                string complaints = process.StandardError.ReadToEnd();
                process.WaitForExit();
                return process.ExitCode == 0 ? "" : complaints.Length > 0 ? complaints : $"{compiler} exited with {process.ExitCode}";
            }
        }
        throw new InvalidOperationException("there is no C compiler: apt install clang");
    }

    [GeneratedRegex(@"fatal error: '?([^\s':]+)'?(: No such file| file not found)")]
    private static partial Regex MissingHeader();

    [GeneratedRegex(@"6\.12\.(\d+)")]
    private static partial Regex VersionInPath();
}
