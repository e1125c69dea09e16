using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Linq;
using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.RegularExpressions;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Simulator;

/// <summary>
/// One change of the product's source: replaces <paramref name="Old"/> with <paramref name="New"/> in <paramref name="File"/> below src.
/// <paramref name="Old"/> must occur exactly once in the member whose text begins with <paramref name="Member"/>, up to its closing line.
/// An empty <paramref name="Member"/> means the whole file.
/// </summary>
public sealed record SourceEdit(string File, string Member, string Old, string New);

/// <summary>The result of a sabotage: the last line of the battery, and the check that caught the sabotage, or null.</summary>
public sealed record SabotageResult(string Name, string? Check, string Line, double Seconds);

/// <summary>
/// Unit tests that detect a sabotage of code that the simulator does not run: the project below tests, a part of their names, and a part
/// of their data, null for all data.
/// </summary>
public sealed record UnitTests(string Project, string Name, string? Data = null);

/// <summary>
/// A deliberate defect of the product; <paramref name="What"/> describes it. All edits are in one project.
/// </summary>
public sealed record Sabotage(string Name, string What, params SourceEdit[] Edits)
{
    /// <summary>The check that failed is an assertion of the product itself, which guards a rule of the design at every write.</summary>
    public const string Assertion = "an assertion of the engine";

    /// <summary>The edits also remove the assertion that guards this rule, so that the simulation alone must detect the defect.</summary>
    public bool WithoutAssertion { get; init; }

    /// <summary>The only step of the battery that can detect the defect; empty for all of them.</summary>
    public string Step { get; init; } = "";

    /// <summary>The unit tests that must fail instead of the battery; null for the battery.</summary>
    public UnitTests? Tests { get; init; }

    /// <summary>The result line when all unit tests pass.</summary>
    public const string UnitTestsPass = "unit tests: all pass";

    private string Project => Edits[0].File[..Edits[0].File.IndexOf('/', StringComparison.Ordinal)];

    /// <summary>The sources of the project with the edits applied, by path below src. Throws if an edit no longer fits.</summary>
    public Dictionary<string, string> Sources()
    {
        string src = Path.Combine(Binary.Root, "src");
        Dictionary<string, string> sources = [];
        foreach (string path in Directory.EnumerateFiles(Path.Combine(src, Project), "*.cs", SearchOption.AllDirectories))
        {
            string name = Path.GetRelativePath(src, path).Replace('\\', '/');
            if (!name.Contains("/obj/", StringComparison.Ordinal) && !name.Contains("/bin/", StringComparison.Ordinal))
                sources.Add(name, File.ReadAllText(path));
        }
        // The build generates this file.
        if (Project == "Cli")
            sources.Add("Build.cs", "namespace Snapuserd.Cli; static class BuildConstants { internal const string Version = \"0\"; }");
        foreach (SourceEdit edit in Edits)
        {
            if (!sources.TryGetValue(edit.File, out string? text)) throw Outdated($"there is no src/{edit.File}");
            int from = 0, to = text.Length;
            if (edit.Member.Length > 0)
            {
                from = OnlyPlace(text, edit.Member, 0, to, edit.File).Index;
                int end = text.IndexOf("\n    }\n", from, StringComparison.Ordinal);
                // An expression-bodied member ends with its statement. The parameters of a member may take several lines.
                int statement = text.IndexOf(";\n", from, StringComparison.Ordinal);
                int block = text.IndexOf("\n    {\n", from, StringComparison.Ordinal);
                to = block >= 0 && block < statement ? end : statement + 1;
            }
            Match old = OnlyPlace(text, edit.Old, from, to, edit.File);
            sources[edit.File] = $"{text.AsSpan(0, old.Index)}{edit.New}{text.AsSpan(old.Index + old.Length)}";
        }
        return sources;
    }

    /// <summary>
    /// Builds the sabotaged assembly, puts it next to a copy of the simulator or of the unit tests in <paramref name="folder"/>, and runs
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
            if (name.StartsWith("Snapuserd.", StringComparison.Ordinal) || name.StartsWith("xunit.", StringComparison.Ordinal)
                || name.StartsWith("simulator.", StringComparison.Ordinal))
                if (!name.EndsWith(".pdb", StringComparison.Ordinal)) File.Copy(file, Path.Combine(folder, name), overwrite: true);
        }
        Compiler.Compile($"Snapuserd.{Project}", Sources(), folder, AppContext.BaseDirectory);

        ProcessStartInfo start = new(Compiler.Host, [Path.Combine(folder, "simulator.dll"), "battery",
            .. Step.Length > 0 ? [Step] : Array.Empty<string>()])
        { RedirectStandardOutput = true, RedirectStandardError = true };
        // The process lives for a second or two, too short for profile-guided compilation to pay off.
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
        // tests/PROJECT/bin/CONFIGURATION/FRAMEWORK, with the configuration and framework of this program.
        string[] own = AppContext.BaseDirectory.TrimEnd('/').Split('/');
        string built = Path.Combine(Binary.Root, "tests", tests.Project, "bin", own[^2], own[^1]);
        string assembly = $"Snapuserd.{tests.Project}.Tests.dll";
        if (!File.Exists(Path.Combine(built, assembly)))
            throw new InvalidOperationException($"there is no {assembly} in {built}: build tests/{tests.Project}");
        foreach (string file in Directory.EnumerateFiles(built).Where(file => !file.EndsWith(".pdb", StringComparison.Ordinal)))
            File.Copy(file, Path.Combine(folder, Path.GetFileName(file)), overwrite: true);
        Compiler.Compile(Project == "Cli" ? "snapuserd" : $"Snapuserd.{Project}", Sources(), folder, built);

        string filter = $"FullyQualifiedName~{tests.Name}{(tests.Data == null ? "" : $"&DisplayName~{tests.Data}")}";
        string[] words = ["test", Path.Combine(folder, assembly), "--nologo", "--filter", filter];
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
        // A battery that does not end in time has caught nothing. Ten minutes are a hundred times its duration on an idle machine.
        System.Threading.Tasks.Task<string> reading = process.StandardOutput.ReadToEndAsync();
        if (!reading.Wait(TimeSpan.FromMinutes(10))) process.Kill(entireProcessTree: true);
        string output = reading.Result;
        process.WaitForExit();
        return (process.ExitCode, output, errors.ToString());
    }

    private Match OnlyPlace(string text, string what, int from, int to, string file)
    {
        Regex pattern = new(AnyLineBreaks(what), RegexOptions.CultureInvariant);
        Match found = pattern.Match(text, from, to - from);
        if (!found.Success) throw Outdated($"src/{file} does not contain \"{what}\" in the given member");
        if (pattern.Match(text, found.Index + 1, to - found.Index - 1).Success)
            throw Outdated($"src/{file} contains \"{what}\" more than once in the given member");
        return found;
    }

    /// <summary>
    /// A pattern for the text however its lines are broken: a blank or line break stands for any blanks and line breaks, and the source may
    /// have a line break between any two characters.
    /// </summary>
    private static string AnyLineBreaks(string text)
    {
        StringBuilder pattern = new();
        for (int i = 0; i < text.Length; i++)
        {
            if (!char.IsWhiteSpace(text[i]))
            {
                if (i > 0 && !char.IsWhiteSpace(text[i - 1])) pattern.Append("(?:\\n *)?");
                pattern.Append(Regex.Escape(text[i].ToString()));
            }
            else if (i == 0 || !char.IsWhiteSpace(text[i - 1])) pattern.Append("\\s+");
        }
        return pattern.ToString();
    }

    private InvalidOperationException Outdated(string why) =>
        new($"the sabotage {Name} needs to be brought up to date with the engine: {why}");
}

/// <summary>The SDK's C# compiler, hosted in this process, where it stays warm after the first assembly.</summary>
internal static class Compiler
{
    private static readonly string Runtime = RuntimeEnvironment.GetRuntimeDirectory();
    private static readonly string Dotnet = Path.GetFullPath(Path.Combine(Runtime, "../../.."));
    private static readonly MethodInfo Entry = Assembly.LoadFrom(Path.Combine(NewestSdk(), "Roslyn/bincore/csc.dll")).EntryPoint!;
    private static readonly string[] Framework = Directory.GetFiles(Runtime, "System*.dll");

    /// <summary>The host that runs a framework-dependent program.</summary>
    public static string Host { get; } = Path.Combine(Dotnet, "dotnet");

    /// <summary>
    /// Compiles an assembly as its project would, into <paramref name="folder"/>, next to the other assemblies there. The original assembly
    /// is in <paramref name="built"/>.
    /// </summary>
    public static void Compile(string assembly, Dictionary<string, string> sources, string folder, string built)
    {
        string to = Path.Combine(folder, "source");
        List<string> arguments =
        [
            "-noconfig", "-nostdlib", "-nologo", "-target:library", "-langversion:latest", "-nullable:enable", "-unsafe", "-optimize+",
            "-debug-", "-warn:0",
            $"-out:{Path.Combine(folder, assembly + ".dll")}",
        ];
        arguments.AddRange(Framework.Select(file => $"-r:{file}"));
        foreach (string file in Directory.EnumerateFiles(folder, "Snapuserd.*.dll"))
            if (Path.GetFileNameWithoutExtension(file) != assembly && !file.Contains("Tests", StringComparison.Ordinal))
                arguments.Add($"-r:{file}");
        // Version and friend assemblies are defined in project files; they are read from the original assembly.
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
        // The compiler prints its errors to the console; the files left in the folder allow a repetition.
        File.Delete(Path.Combine(folder, assembly + ".dll"));
        object? result = Entry.Invoke(null, [arguments.ToArray()]);
        if (result is not 0) throw new InvalidOperationException($"{assembly} does not compile after the sabotage; see {to}");
    }

    private static string NewestSdk() => Directory.GetDirectories(Path.Combine(Dotnet, "sdk"))
        .Where(folder => Version.TryParse(Path.GetFileName(folder).Split('-')[0], out _))
        .OrderBy(folder => Version.Parse(Path.GetFileName(folder).Split('-')[0])).Last();
}
