using System;
using System.Collections.Concurrent;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Security.Cryptography;
using System.Text;
using System.Threading;

namespace Snapuserd.Tests.Mutants;

/// <summary>One run: chooses and builds mutants, runs the checks without a mutant and then with each, and counts.</summary>
public sealed class Session
{
    /// <summary>Projects with tests, in the order in which they run; the project of the mutant comes first.</summary>
    private static readonly string[] s_judges =
        [
            "Block", "Cow", "Merge", "Serve", "Images", "Control", "Host", "Boot", "AndroidDaemon", "Create", "Conformance", "Cli",
            Judge.SimulatorName, Judge.EndToEndName,
        ];

    private static readonly TimeSpan s_leastLimit = TimeSpan.FromSeconds(10);

    /// <summary>Projects whose tests never run the program.</summary>
    private static readonly string[] s_withoutProgram =
        ["Block", "Cow", "Merge", "Serve", "Images", "Control", "Host", "Boot", "Create", Judge.SimulatorName];

    private readonly string _root, _kept;
    private readonly string[] _judges;
    private readonly Request _request;
    private readonly Dictionary<string, Project> _projects = [];
    private string _bin = "";

    public Session(string root, Request request)
    {
        _root = root;
        _request = request;
        _judges = request.Judges.Length == 0 ? s_judges : [.. s_judges.Where(judge => request.Judges.Split(',').Contains(judge))];
        if (_judges.Length == 0)
            throw new InvalidOperationException($"'{request.Judges}' names no judge; the judges are {string.Join(", ", s_judges)}");
        // Fewer judges give other verdicts, so they are stored separately.
        _kept = Path.Combine(root, "build/mutants", SourceKey() + (request.Judges.Length == 0 ? "" : $"-{string.Join('-', _judges)}"));
    }

    public int Run()
    {
        string original = Path.Combine(_kept, "original");
        Collect(original);
        List<Mutant> points = [];
        foreach (string path in Scope.Files(_root))
            if (Only().Any(only => path.StartsWith(only, StringComparison.Ordinal) || only.StartsWith(path, StringComparison.Ordinal)))
                points.AddRange(ProjectOf(path, original).Mutants(path).Where(point =>
                    Only().Any(only => point.Id.StartsWith(only, StringComparison.Ordinal))));
        if (points.Count == 0) throw new InvalidOperationException($"no mutant begins with '{_request.Only}'");
        foreach (IGrouping<Operator, Mutant> group in points.GroupBy(point => point.Operator))
            Say($"{group.Count()} points: {Mutant.Name(group.Key)}");
        Sample sample = new(points, _request.Count, _request.Seed, mutant =>
        {
            Project project = ProjectOf(mutant.Path, original);
            return project.CompilesSwitched(mutant) ? BuildKind.Switched : project.CompilesAlone(mutant) ? BuildKind.Alone : null;
        });
        int alone = sample.Mutants.Count(mutant => mutant.Kind == BuildKind.Alone);
        Say($"{points.Count} points; seed {_request.Seed:x}: {sample.Mutants.Count} mutants, {alone} of them with a build of their own, "
            + $"{sample.Unbuildable} unbuildable");
        if (_request.List)
        {
            foreach ((Mutant mutant, BuildKind kind) in sample.Mutants)
                Console.WriteLine($"{mutant.Id}{(kind == BuildKind.Alone ? " (alone)" : "")}");
            return 0;
        }

        string folder = Path.Combine(_kept, Hash(sample.Mutants.Select(mutant => mutant.Mutant.Id)));
        _bin = Path.Combine(folder, "bin");
        Builds.Copy(original, _bin);
        IReadOnlyDictionary<string, string> sources = Builds.Switched(sample, mutant => ProjectOf(mutant.Path, original), _bin);
        string program = Path.Combine(_bin, Trial.ProgramFolder);
        bool needed = _judges.Except(s_withoutProgram).Any();
        if (needed && !File.Exists(Path.Combine(program, "snapuserd")))
            Builds.Program(_root, sources, Path.Combine(folder, "tree"), program);
        IReadOnlyList<Measured> measured = Control(folder, sample.Mutants.Count);
        if (_request.Reach)
        {
            for (int number = 0; number < sample.Mutants.Count; number++)
                if (Checks(sample.Mutants[number].Mutant, number, sample.Mutants[number].Kind, measured, _judges).Count == 0)
                    Console.WriteLine(sample.Mutants[number].Mutant.Id);
            return 0;
        }
        Verdict[] verdicts = TryAll(sample, original, measured);
        Report.Print(Console.Out, [.. sample.Mutants.Select((mutant, number) => (mutant.Mutant, verdicts[number]))], sample.Unbuildable);
        return 0;
    }

    /// <summary>Prefixes of mutants' names: a folder, a file, or a file with a line.</summary>
    private string[] Only() => _request.Only.Split(',');

    private static void Say(string line) => Console.Error.WriteLine($"mutants: {line}");

    private Project ProjectOf(string path, string bin)
    {
        string name = path.Split('/')[1];
        return _projects.TryGetValue(name, out Project? found) ? found : _projects[name] = Project.Load(_root, name, bin);
    }

    /// <summary>Copies the product, its tests and this program into one folder.</summary>
    private static void Collect(string folder, string root)
    {
        Directory.CreateDirectory(folder);
        string own = AppContext.BaseDirectory, framework = Path.GetFileName(Path.TrimEndingDirectorySeparator(own));
        IEnumerable<string> folders =
            s_judges.Where(name => name != Judge.SimulatorName).Select(name =>
                Path.Combine(root, "tests", name, "bin/Release", framework)).Prepend(own);
        foreach (string from in folders)
            foreach (string file in Directory.EnumerateFiles(from, "*.dll"))
            {
                string name = Path.GetFileName(file), to = Path.Combine(folder, name);
                bool needed = name.StartsWith("Snapuserd.", StringComparison.Ordinal) || name.StartsWith("xunit.", StringComparison.Ordinal)
                    || name is "snapuserd.dll" or "simulator.dll" or "mutants.dll" or "benchmarks.dll" or "kernels.dll";
                if (needed && !name.Contains("runner", StringComparison.Ordinal) && !File.Exists(to)) File.Copy(file, to);
            }
        File.Copy(Path.Combine(own, "mutants.runtimeconfig.json"), Path.Combine(folder, "mutants.runtimeconfig.json"), overwrite: true);
    }

    private void Collect(string folder) => Collect(folder, _root);

    /// <summary>Runs every judge on the build without an active mutant, and stores the measurements.</summary>
    private IReadOnlyList<Measured> Control(string folder, int mutants)
    {
        ConcurrentDictionary<string, IReadOnlyList<Measured>> all = new();
        Share(_judges, (judge, worker) =>
        {
            string kept = Path.Combine(folder, $"control-{judge}.tsv");
            if (File.Exists(kept))
            {
                all[judge] =
                    [.. File.ReadLines(kept).Select(line => line.Split('\t')).Select(parts =>
                        new Measured(parts[0], long.Parse(parts[1], CultureInfo.InvariantCulture), Trial.Numbers(parts[2])))];
                return;
            }
            Stopwatch clock = Stopwatch.StartNew();
            IReadOnlyList<Measured> measured = new Trial(Job(worker), s_leastLimit).Control(_bin, judge, mutants);
            Say($"control: {judge}: {measured.Count} checks pass, {clock.Elapsed.TotalSeconds:F0} s");
            File.WriteAllLines(kept + ".new",
                measured.Select(check =>
                    string.Create(CultureInfo.InvariantCulture,
                        $"{check.Check}\t{check.Milliseconds}\t{string.Join(' ', check.Reached)}")));
            File.Move(kept + ".new", kept, overwrite: true);
            all[judge] = measured;
        });
        return [.. _judges.SelectMany(judge => all[judge])];
    }

    private Verdict[] TryAll(Sample sample, string original, IReadOnlyList<Measured> measured)
    {
        Store store = new(Path.Combine(_kept, "results.tsv"));
        Verdict[] verdicts = new Verdict[sample.Mutants.Count];
        int done = 0;
        Share(Enumerable.Range(0, verdicts.Length), (number, worker) =>
        {
            (Mutant mutant, BuildKind kind) = sample.Mutants[number];
            if (store.Find(mutant.Id) is not { } verdict)
            {
                Stopwatch clock = Stopwatch.StartNew();
                string bin = _bin;
                if (kind == BuildKind.Alone)
                {
                    bin = Path.Combine(Job(worker), "bin");
                    Builds.Copy(original, bin);
                    Builds.Alone(mutant, ProjectOf(mutant.Path, original), bin);
                    // The native program does not contain this mutant and behaves as the original.
                    if (Directory.Exists(Path.Combine(_bin, Trial.ProgramFolder)))
                        Builds.Copy(Path.Combine(_bin, Trial.ProgramFolder), Path.Combine(bin, Trial.ProgramFolder));
                }
                verdict =
                    new Trial(Job(worker), s_leastLimit).Judge(bin, kind == BuildKind.Alone ? null : number,
                        Checks(mutant, number, kind, measured, _judges));
                store.Keep(mutant.Id, verdict);
                Say($"{Interlocked.Increment(ref done)} of {verdicts.Length}, {clock.Elapsed.TotalSeconds:F0} s: "
                    + $"{verdict.Outcome}: {mutant.Id} {verdict.Check}");
            }
            verdicts[number] = verdict;
        });
        return verdicts;
    }

    /// <summary>
    /// The checks that can detect the mutant: those that evaluate it while it is off. The checks of its own project come first, then the
    /// fastest. A static initializer runs only once, so its mutants count as evaluated by all checks of the process.
    /// </summary>
    public static IReadOnlyList<Measured> Checks(Mutant mutant, int number, BuildKind kind, IReadOnlyList<Measured> measured,
        string[] judges)
    {
        bool unknown = kind == BuildKind.Alone && mutant.Statement < 0;
        HashSet<string> projects = [.. measured.Where(check => check.Reached.Contains(number)).Select(check => check.Project)];
        return [.. measured.Where(check => unknown || check.Reached.Contains(number) || (mutant.Static && projects.Contains(check.Project)))
            .OrderBy(check => check.Project == mutant.Project ? -1 : Array.IndexOf(judges, check.Project)).ThenBy(check =>
                check.Milliseconds)];
    }

    private string Job(int worker) => Path.Combine(_kept, string.Create(CultureInfo.InvariantCulture, $"job{worker}"));

    private void Share<T>(IEnumerable<T> items, Action<T, int> work)
    {
        using BlockingCollection<T> queue = new(new ConcurrentQueue<T>(items));
        queue.CompleteAdding();
        ConcurrentQueue<Exception> failed = new();
        Thread[] workers = [.. Enumerable.Range(0, _request.Jobs).Select(worker => new Thread(() =>
        {
            foreach (T item in queue.GetConsumingEnumerable())
            {
                if (!failed.IsEmpty) return;
                try
                {
                    work(item, worker);
                }
                catch (Exception e)
                {
                    failed.Enqueue(e);
                }
            }
        }))];
        foreach (Thread worker in workers) worker.Start();
        foreach (Thread worker in workers) worker.Join();
        if (failed.TryDequeue(out Exception? first)) throw new InvalidOperationException(first.Message, first);
    }

    /// <summary>A key that depends only on the sources of product and tests, not on git.</summary>
    private string SourceKey()
    {
        IEnumerable<string> paths = new[] { "src", "interop", "tests" }.SelectMany(folder => Scope.Sources(_root, folder));
        return Hash(paths.SelectMany(path => new[] { path, File.ReadAllText(Path.Combine(_root, path)) }));
    }

    private static string Hash(IEnumerable<string> texts)
    {
        using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (string text in texts)
        {
            hash.AppendData(Encoding.UTF8.GetBytes(text));
            hash.AppendData([0]);
        }
        return Convert.ToHexStringLower(hash.GetHashAndReset())[..12];
    }
}
