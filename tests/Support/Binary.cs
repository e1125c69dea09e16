using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Text;
using System.Threading.Tasks;

namespace Snapuserd.Tests.Support;

/// <summary>How a run of a program ended. A signal shows as 128 plus its number, as in a shell.</summary>
public sealed record BinaryResult(int ExitCode, string Output, string Error)
{
    /// <inheritdoc/>
    public override string ToString() => $"exit code {ExitCode}\nstdout: {Output}\nstderr: {Error}";
}

/// <summary>
/// The built program, as it is shipped: $SNAPUSERD if it is set, as in make test, else build/snapuserd, which build.sh brings up to date
/// once per test process. Relative paths are relative to <see cref="Root"/>.
/// </summary>
public static class Binary
{
    // Runs take seconds, and several times as long in an emulator. A run that hangs must fail its test before CI's own time limit.
    private static readonly TimeSpan s_limit =
        TimeSpan.FromMinutes(Environment.GetEnvironmentVariable("SNAPUSERD_FILE") is null or "" ? 2 : 8);

    private static readonly Lazy<string> s_path = new(() => Find("SNAPUSERD", "build", "snapuserd"));

    private static readonly Lazy<string> s_checks = new(() => Find("SNAPUSERD_CHECKS", "checks", "checks/kernels"));

    /// <summary>The folder with the solution, found by walking up from the test binary.</summary>
    public static string Root { get; } = FindRoot();

    /// <summary>
    /// The program; if it is for another architecture than this machine's, a script that runs it in an emulator (tests/Emulated).
    /// </summary>
    public static string Path => s_path.Value;

    /// <summary>The file that the compiler produced: the program itself, even where <see cref="Path"/> is the script.</summary>
    public static string CompiledFile => Given("SNAPUSERD_FILE") ?? Path;

    /// <summary>The program is for another architecture and runs in an emulator.</summary>
    public static bool IsEmulated => CompiledFile != Path;

    /// <summary>This machine's own program if <see cref="Path"/> is emulated; otherwise the same as <see cref="Path"/>.</summary>
    public static string Native => Given("SNAPUSERD_NATIVE") ?? Path;

    /// <summary>
    /// The program of tests/Kernels, compiled ahead of time like the program itself, and found in the same way, by $SNAPUSERD_CHECKS.
    /// </summary>
    public static string CompiledChecks => s_checks.Value;

    /// <summary>The path in an environment variable, made absolute from <see cref="Root"/>; null if it is not set.</summary>
    public static string? Given(string variable) =>
        Environment.GetEnvironmentVariable(variable) is { Length: > 0 } given ? System.IO.Path.GetFullPath(given, Root) : null;

    /// <summary>Runs the program with <paramref name="arguments"/>.</summary>
    public static BinaryResult Run(params string[] arguments) => RunProgram(Path, arguments);

    /// <summary>
    /// Runs the program through a shell that first applies <paramref name="redirections"/>, such as "&lt;&amp;- &gt;&amp;-" to close
    /// descriptors 0 and 1, or "&gt;/dev/full". The result does not contain redirected output.
    /// </summary>
    public static BinaryResult RunRedirected(string redirections, params string[] arguments) =>
        RunProgram("/bin/sh", ["-c", $"exec \"$0\" \"$@\" {redirections}", Path, .. arguments]);

    /// <summary>Starts the program without waiting for it. Its three streams are redirected; both outputs must be read.</summary>
    public static Process Start(params string[] arguments) => StartProgram(Path, arguments);

    /// <summary>
    /// Copies the binary in another process. This process forks on other threads at the same time. A forked child briefly holds every
    /// descriptor of this process. If one of them is open for writing on the copy, executing the copy fails (ETXTBSY).
    /// </summary>
    public static void CopyTo(string path)
    {
        BinaryResult copied = RunProgram("cp", [Path, path]);
        if (copied.ExitCode != 0) throw new IOException(copied.ToString());
    }

    /// <summary>Runs any program to its end.</summary>
    public static BinaryResult RunProgram(string program, IEnumerable<string> arguments,
        IReadOnlyDictionary<string, string>? environment = null)
    {
        using Process process = StartProgram(program, arguments, environment);
        process.StandardInput.Close();
        Task<string> output = process.StandardOutput.ReadToEndAsync();
        Task<string> error = process.StandardError.ReadToEndAsync();
        if (!process.WaitForExit(s_limit))
        {
            process.Kill(entireProcessTree: true);
            throw new TimeoutException($"{program} {string.Join(' ', arguments)} still runs after {s_limit}");
        }
        // A child that outlives the program may still hold its streams open.
        if (!Task.WaitAll([output, error], s_limit))
            throw new TimeoutException($"{program} {string.Join(' ', arguments)} ended with {process.ExitCode}, and a process that it "
                + $"started still holds its output open after {s_limit}");
        return new BinaryResult(process.ExitCode, output.Result, error.Result);
    }

    /// <summary>Starts any program without waiting for it; its three streams are redirected.</summary>
    public static Process StartProgram(string program, IEnumerable<string> arguments,
        IReadOnlyDictionary<string, string>? environment = null)
    {
        var start = new ProcessStartInfo(program)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            StandardOutputEncoding = Encoding.UTF8,
            StandardErrorEncoding = Encoding.UTF8,
        };
        foreach (string argument in arguments) start.ArgumentList.Add(argument);
        foreach ((string name, string value) in environment ?? new Dictionary<string, string>()) start.Environment[name] = value;
        return Process.Start(start) ?? throw new InvalidOperationException($"{program} did not start");
    }

    private static string Find(string variable, string command, string file)
    {
        if (Given(variable) is { } given) return given;
        BinaryResult build = RunProgram(System.IO.Path.Combine(Root, "build.sh"), [command]);
        return build.ExitCode == 0
            ? System.IO.Path.Combine(Root, "build", file)
            : throw new InvalidOperationException($"build.sh failed: {build}");
    }

    private static string FindRoot()
    {
        for (string? folder = AppContext.BaseDirectory; folder != null; folder = System.IO.Path.GetDirectoryName(folder))
            if (File.Exists(System.IO.Path.Combine(folder, "snapuserd-cs.sln"))) return folder;
        throw new DirectoryNotFoundException($"no snapuserd-cs.sln above {AppContext.BaseDirectory}");
    }
}
