using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Linq;
using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Simulator;

/// <summary>
/// One change of the product's source: in <paramref name="File"/> below src, inside the member whose text begins with <paramref name="Member"/>
/// (up to the line that closes it; the whole file if empty), <paramref name="Old"/>, which must be there exactly once, becomes <paramref name="New"/>.
/// </summary>
public sealed record SourceEdit(string File, string Member, string Old, string New);

/// <summary>What became of a sabotage: the line with which the battery ended, and the check that noticed, or null.</summary>
public sealed record SabotageResult(string Name, string? Check, string Line, double Seconds);

/// <summary>
/// Unit tests that can notice a sabotage of code that the simulator does not run: the project below tests, and a part of their names.
/// </summary>
public sealed record UnitTests(string Project, string Name);

/// <summary>
/// A way to break the product: <paramref name="What"/> says what a reader of the product would find. All edits are in one project.
/// </summary>
public sealed record Sabotage(string Name, string What, params SourceEdit[] Edits)
{
    /// <summary>The check that a rule of the design which the product asserts on every write was broken.</summary>
    public const string Assertion = "an assertion of the engine";

    /// <summary>The assertion that guards this was taken out together with what it guards, so that the simulation alone must notice.</summary>
    public bool WithoutAssertion { get; init; }

    /// <summary>The one step of the battery that can notice; all of them if empty.</summary>
    public string Step { get; init; } = "";

    /// <summary>The unit tests that must fail, instead of the battery; null for the battery.</summary>
    public UnitTests? Tests { get; init; }

    /// <summary>The line that says that all unit tests have passed.</summary>
    public const string UnitTestsPass = "unit tests: all pass";

    private string Project => Edits[0].File[..Edits[0].File.IndexOf('/', StringComparison.Ordinal)];

    /// <summary>The sources of the project with the edits made, by path below src. Throws when one of them does not fit any more.</summary>
    public Dictionary<string, string> Sources()
    {
        string src = Path.Combine(Binary.Root, "src");
        Dictionary<string, string> sources = [];
        foreach (string path in Directory.EnumerateFiles(Path.Combine(src, Project), "*.cs", SearchOption.AllDirectories))
        {
            string name = Path.GetRelativePath(src, path).Replace('\\', '/');
            if (!name.Contains("/obj/", StringComparison.Ordinal) && !name.Contains("/bin/", StringComparison.Ordinal)) sources.Add(name, File.ReadAllText(path));
        }
        // The build writes this one.
        if (Project == "Cli")
            sources.Add("Build.cs", "namespace Snapuserd.Cli; static class BuildConstants { internal const string Version = \"0\"; }");
        foreach (SourceEdit edit in Edits)
        {
            if (!sources.TryGetValue(edit.File, out string? text)) throw Outdated($"there is no src/{edit.File}");
            int from = 0, to = text.Length;
            if (edit.Member.Length > 0)
            {
                from = OnlyPlace(text, edit.Member, 0, to, edit.File);
                int line = text.IndexOf('\n', from), end = text.IndexOf("\n    }\n", from, StringComparison.Ordinal);
                // An expression-bodied member ends with its statement.
                int statement = text.IndexOf(";\n", from, StringComparison.Ordinal);
                bool block = line + 6 < text.Length && text.AsSpan(line + 1).StartsWith("    {", StringComparison.Ordinal);
                to = block ? end : statement + 1;
            }
            int at = OnlyPlace(text, edit.Old, from, to, edit.File);
            sources[edit.File] = $"{text.AsSpan(0, at)}{edit.New}{text.AsSpan(at + edit.Old.Length)}";
        }
        return sources;
    }

    /// <summary>
    /// Builds the sabotaged assembly, puts it beside a copy of the simulator or of the unit tests in <paramref name="folder"/>, and runs
    /// the battery or the unit tests there.
    /// </summary>
    public SabotageResult Run(string folder)
    {
        Stopwatch clock = Stopwatch.StartNew();
        Directory.CreateDirectory(folder);
        if (Tests != null) return RunUnitTests(Tests, folder, clock);
        foreach (string file in Directory.EnumerateFiles(AppContext.BaseDirectory))
        {
            string name = Path.GetFileName(file);
            if (name.StartsWith("Snapuserd.", StringComparison.Ordinal) || name.StartsWith("xunit.", StringComparison.Ordinal) || name.StartsWith("simulator.", StringComparison.Ordinal))
                if (!name.EndsWith(".pdb", StringComparison.Ordinal)) File.Copy(file, Path.Combine(folder, name), overwrite: true);
        }
        Compiler.Compile($"Snapuserd.{Project}", Sources(), folder, AppContext.BaseDirectory);

        ProcessStartInfo start = new(Compiler.Host, [Path.Combine(folder, "simulator.dll"), "battery", .. Step.Length > 0 ? [Step] : Array.Empty<string>()]) { RedirectStandardOutput = true, RedirectStandardError = true };
        // Such a process lives for a second or two: nothing pays that takes longer to warm up.
        start.Environment["DOTNET_TieredPGO"] = "0";
        start.Environment["DOTNET_TieredCompilation"] = "1";
        (int exitCode, string output, string errors) = RunToEnd(start);
        string last = output.TrimEnd().Split('\n')[^1];
        bool caught = exitCode == 1 && last.StartsWith(Battery.Caught, StringComparison.Ordinal);
        string? check = caught ? last[Battery.Caught.Length..last.IndexOf(", in \"", StringComparison.Ordinal)] : null;
        if (!caught && exitCode != 0) last = $"ended with {exitCode}: {last} {errors}";
        return new SabotageResult(Name, check, last, clock.Elapsed.TotalSeconds);
    }

    private SabotageResult RunUnitTests(UnitTests tests, string folder, Stopwatch clock)
    {
        // tests/PROJECT/bin/CONFIGURATION/FRAMEWORK, as this program's own.
        string[] own = AppContext.BaseDirectory.TrimEnd('/').Split('/');
        string built = Path.Combine(Binary.Root, "tests", tests.Project, "bin", own[^2], own[^1]);
        string assembly = $"Snapuserd.{tests.Project}.Tests.dll";
        if (!File.Exists(Path.Combine(built, assembly)))
            throw new InvalidOperationException($"there is no {assembly} in {built}: build tests/{tests.Project}");
        foreach (string file in Directory.EnumerateFiles(built).Where(file => !file.EndsWith(".pdb", StringComparison.Ordinal)))
            File.Copy(file, Path.Combine(folder, Path.GetFileName(file)), overwrite: true);
        Compiler.Compile(Project == "Cli" ? "snapuserd" : $"Snapuserd.{Project}", Sources(), folder, built);

        string[] words = ["test", Path.Combine(folder, assembly), "--nologo", "--filter", $"FullyQualifiedName~{tests.Name}"];
        (int exitCode, string output, string errors) =
            RunToEnd(new ProcessStartInfo(Compiler.Host, words) { RedirectStandardOutput = true, RedirectStandardError = true });
        SabotageResult Result(string? check, string line) => new(Name, check, line, clock.Elapsed.TotalSeconds);
        if (exitCode == 0 && output.Contains("Passed!", StringComparison.Ordinal)) return Result(null, UnitTestsPass);
        // "  Failed NAMESPACE.CLASS.TEST(data) [12 ms]"
        IEnumerable<string> failed = output.Split('\n').Where(line => line.StartsWith("  Failed ", StringComparison.Ordinal));
        static string Short(string line) => string.Join('.', line.Split('(', '[')[0].Trim().Split('.')[^2..]);
        string check = string.Join(", ", failed.Select(Short).Distinct());
        if (exitCode == 1 && check.Length > 0) return Result(check, Battery.Caught + check);
        return Result(null, $"ended with {exitCode}: {output} {errors}");
    }

    private static (int ExitCode, string Output, string Errors) RunToEnd(ProcessStartInfo start)
    {
        using Process process = Process.Start(start)!;
        StringBuilder errors = new();
        process.ErrorDataReceived += (_, line) => { lock (errors) errors.AppendLine(line.Data); };
        process.BeginErrorReadLine();
        // A battery that never ends is no catch; ten minutes are a hundred times what the whole of it takes on a quiet machine.
        System.Threading.Tasks.Task<string> reading = process.StandardOutput.ReadToEndAsync();
        if (!reading.Wait(TimeSpan.FromMinutes(10))) process.Kill(entireProcessTree: true);
        string output = reading.Result;
        process.WaitForExit();
        return (process.ExitCode, output, errors.ToString());
    }

    private int OnlyPlace(string text, string what, int from, int to, string file)
    {
        int at = text.IndexOf(what, from, to - from, StringComparison.Ordinal);
        if (at < 0) throw Outdated($"src/{file} does not have \"{what}\" there");
        if (text.IndexOf(what, at + 1, to - at - 1, StringComparison.Ordinal) >= 0) throw Outdated($"src/{file} has \"{what}\" more than once there");
        return at;
    }

    private InvalidOperationException Outdated(string why) => new($"the sabotage {Name} needs to be brought up to date with the engine: {why}");
}

/// <summary>The C# compiler of the SDK, inside this process, where it is warm after the first assembly.</summary>
internal static class Compiler
{
    private static readonly string Runtime = RuntimeEnvironment.GetRuntimeDirectory();
    private static readonly string Dotnet = Path.GetFullPath(Path.Combine(Runtime, "../../.."));
    private static readonly MethodInfo Entry = Assembly.LoadFrom(Path.Combine(NewestSdk(), "Roslyn/bincore/csc.dll")).EntryPoint!;
    private static readonly string[] Framework = Directory.GetFiles(Runtime, "System*.dll");

    /// <summary>What runs a framework-dependent program.</summary>
    public static string Host { get; } = Path.Combine(Dotnet, "dotnet");

    /// <summary>
    /// Compiles an assembly as its project would, next to those in <paramref name="folder"/>. The one that was built lies in
    /// <paramref name="built"/>.
    /// </summary>
    public static void Compile(string assembly, Dictionary<string, string> sources, string folder, string built)
    {
        string to = Path.Combine(folder, "source");
        List<string> arguments =
        [
            "-noconfig", "-nostdlib", "-nologo", "-target:library", "-langversion:latest", "-nullable:enable", "-unsafe", "-optimize+", "-debug-", "-warn:0",
            $"-out:{Path.Combine(folder, assembly + ".dll")}",
        ];
        arguments.AddRange(Framework.Select(file => $"-r:{file}"));
        foreach (string file in Directory.EnumerateFiles(folder, "Snapuserd.*.dll"))
            if (Path.GetFileNameWithoutExtension(file) != assembly && !file.Contains("Tests", StringComparison.Ordinal)) arguments.Add($"-r:{file}");
        // Version and friends are written in project files; the assembly that was built from them knows.
        Assembly original = Assembly.LoadFrom(Path.Combine(built, assembly + ".dll"));
        StringBuilder friends = new($"[assembly: System.Reflection.AssemblyVersion(\"{original.GetName().Version}\")]\n");
        foreach (InternalsVisibleToAttribute friend in original.GetCustomAttributes<InternalsVisibleToAttribute>())
            friends.AppendLine($"[assembly: System.Runtime.CompilerServices.InternalsVisibleTo(\"{friend.AssemblyName}\")]");
        sources = new Dictionary<string, string>(sources) { ["Friends.cs"] = friends.ToString() };
        foreach ((string name, string text) in sources)
        {
            string path = Path.Combine(to, name);
            Directory.CreateDirectory(Path.GetDirectoryName(path)!);
            File.WriteAllText(path, text);
            arguments.Add(path);
        }
        // The compiler writes what it finds to the console; with what was left in the folder it can be asked again.
        File.Delete(Path.Combine(folder, assembly + ".dll"));
        object? result = Entry.Invoke(null, [arguments.ToArray()]);
        if (result is not 0) throw new InvalidOperationException($"{assembly} does not compile after the sabotage; see {to}");
    }

    private static string NewestSdk() => Directory.GetDirectories(Path.Combine(Dotnet, "sdk"))
        .Where(folder => Version.TryParse(Path.GetFileName(folder).Split('-')[0], out _))
        .OrderBy(folder => Version.Parse(Path.GetFileName(folder).Split('-')[0])).Last();
}
