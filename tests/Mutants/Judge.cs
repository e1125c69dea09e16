using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Reflection;
using System.Runtime.InteropServices;
using System.Threading;
using Snapuserd.Tests.Simulator;
using Xunit.Abstractions;
using Xunit.Sdk;

namespace Snapuserd.Tests.Mutants;

/// <summary>
/// The process inside the sandbox: runs checks one after the other and writes each result to a file. The plan has one line for each check:
/// the check's name, a tab, and the milliseconds after which the check counts as hung. A line "PROJECT:" stands for all checks of that
/// project.
/// <code>
///   start CHECK | pass CHECK MILLISECONDS NUMBERS | fail CHECK MILLISECONDS MESSAGE | timeout CHECK | end
/// </code>
/// NUMBERS are the numbers of the evaluated mutants, if $SNAPUSERD_REACHED names a file for them. The first failure ends the process.
/// </summary>
public sealed class Judge : IDisposable
{
    /// <summary>The project name of the simulator's checks.</summary>
    public const string SimulatorName = "Simulator";

    /// <summary>The project name of the tests of the complete program.</summary>
    public const string EndToEndName = "EndToEnd";

    /// <summary>The classes of EndToEnd that need no root, no rare tool, and little time.</summary>
    private static readonly string[] s_endToEnd =
    [
        "Attach", "Ctl", "Extract", "Inspect", "Mark", "Merge", "MergeCount", "Name", "Option", "Output", "Reservation", "Serve", "Stat",
            "Stream", "Supervise", "Watch",
    ];

    private const int RandomSeeds = 10, RandomSeedsInACheck = 5;

    private readonly StreamWriter _results;
    private readonly Lock _lock = new();
    private readonly string? _reached = Environment.GetEnvironmentVariable("SNAPUSERD_REACHED");
    private readonly Dictionary<string, TestAssembly> _assemblies = [];
    private string? _running;
    private long _deadline;

    private Judge(string results) => _results = new StreamWriter(results) { AutoFlush = true };

    /// <summary>Runs the plan. Exit code 0 if every check passed, 1 if one failed, 2 if one hung.</summary>
    public static int Run(string plan, string results)
    {
        using Judge judge = new(results);
        Thread watch = new(judge.Watch) { IsBackground = true };
        watch.Start();
        foreach (string line in File.ReadLines(plan))
        {
            string[] parts = line.Split('\t');
            long limit = long.Parse(parts[1], CultureInfo.InvariantCulture);
            IEnumerable<string> checks = parts[0].EndsWith(':') ? judge.All(parts[0][..^1]) : [parts[0]];
            foreach (string check in checks)
                if (!judge.Check(check, limit)) return 1;
        }
        judge.Write("end");
        return 0;
    }

    public void Dispose() => _results.Dispose();

    private IEnumerable<string> All(string project)
    {
        if (project == EndToEndName)
            return from name in Assembly(project).Checks
                   where s_endToEnd.Contains(name.Split('.')[^2].Replace("Tests", "",
                StringComparison.Ordinal))
                   select $"{project}:{name}";
        if (project != SimulatorName) return Assembly(project).Checks.Select(name => $"{project}:{name}");
        return Battery.Names.Select(name => $"{SimulatorName}:battery:{name}")
            .Concat(Enumerable.Range(0, RandomSeeds / RandomSeedsInACheck).Select(part =>
                $"{SimulatorName}:random:{1 + part * RandomSeedsInACheck}"));
    }

    private bool Check(string check, long limit)
    {
        TakeReached();
        Write($"start\t{check}");
        Stopwatch clock = Stopwatch.StartNew();
        lock (_lock)
        {
            _running = check;
            _deadline = Environment.TickCount64 + limit;
        }
        string? failure = Try(check);
        lock (_lock) _running = null;
        long took = clock.ElapsedMilliseconds;
        if (failure is null) Write($"pass\t{check}\t{took}\t{string.Join(' ', TakeReached())}");
        else Write($"fail\t{check}\t{took}\t{failure.ReplaceLineEndings(" ").Replace('\t', ' ')}");
        return failure is null;
    }

    private string? Try(string check)
    {
        int colon = check.IndexOf(':', StringComparison.Ordinal);
        string project = check[..colon], name = check[(colon + 1)..];
        if (project != SimulatorName) return Assembly(project).Run(name);
        colon = name.IndexOf(':', StringComparison.Ordinal);
        string word = name[(colon + 1)..];
        try
        {
            if (name.StartsWith("battery", StringComparison.Ordinal)) return Battery.Simulate(new Budget { Words = [word] })
                == 0 ? null : "the battery has found a defect";
            ulong first = ulong.Parse(word, CultureInfo.InvariantCulture);
            RandomRuns.CheckAll(Enumerable.Range(0, RandomSeedsInACheck).Select(seed => first + (ulong)seed), new Tally());
            return null;
        }
        catch (Exception e)
        {
            return $"{e.GetType().Name}: {e.Message}";
        }
    }

    private TestAssembly Assembly(string project) =>
        _assemblies.TryGetValue(project, out TestAssembly? found) ? found : _assemblies[project] =
            new TestAssembly(Path.Combine(AppContext.BaseDirectory, $"Snapuserd.{project}.Tests.dll"));

    /// <summary>The mutants evaluated since the last call.</summary>
    private List<int> TakeReached()
    {
        List<int> reached = [];
        if (_reached is null) return reached;
        using FileStream file = new(_reached, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite);
        byte[] marks = new byte[file.Length];
        file.ReadExactly(marks);
        for (int number = 0; number < marks.Length; number++)
            if (marks[number] != 0) reached.Add(number);
        file.Position = 0;
        file.Write(new byte[marks.Length]);
        return reached;
    }

    private void Write(string line)
    {
        lock (_lock) _results.WriteLine(line);
    }

    private void Watch()
    {
        for (; ; Thread.Sleep(200))
            lock (_lock)
                if (_running is { } hung && Environment.TickCount64 > _deadline)
                {
                    _results.WriteLine($"timeout\t{hung}");
                    // Exit without waiting for the threads that hang.
                    Exit(2);
                }
    }

    [DllImport("libc", EntryPoint = "_exit")]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern void Exit(int code);
}

/// <summary>The tests of one assembly. Each method is a check, which xunit's own executor runs.</summary>
internal sealed class TestAssembly
{
    private readonly ITestFrameworkExecutor _executor;
    private readonly Dictionary<string, List<ITestCase>> _cases = [];

    public TestAssembly(string path)
    {
        Assembly assembly = Assembly.LoadFrom(path);
        XunitTestFramework framework = new(new Sink(_ => true));
        ITestFrameworkDiscoverer discoverer = framework.GetDiscoverer(Reflector.Wrap(assembly));
        using ManualResetEventSlim done = new();
        discoverer.Find(includeSourceInformation: false, new Sink(message =>
        {
            if (message is ITestCaseDiscoveryMessage { TestCase: var test })
            {
                string name = $"{test.TestMethod.TestClass.Class.Name}.{test.TestMethod.Method.Name}";
                if (!_cases.TryGetValue(name, out List<ITestCase>? cases)) _cases[name] = cases = [];
                cases.Add(test);
            }
            if (message is IDiscoveryCompleteMessage) done.Set();
            return true;
        }), new Options());
        done.Wait();
        _executor = framework.GetExecutor(assembly.GetName());
    }

    public IEnumerable<string> Checks => _cases.Keys.Order(StringComparer.Ordinal);

    /// <summary>Null if every case of the method passes; otherwise the message of the first failure.</summary>
    public string? Run(string name)
    {
        if (!_cases.TryGetValue(name, out List<ITestCase>? cases)) return "the assembly has no test of this name";
        string? failure = null;
        using ManualResetEventSlim done = new();
        _executor.RunTests(cases, new Sink(message =>
        {
            switch (message)
            {
                case ITestFailed failed: failure ??= $"{failed.ExceptionTypes[0]}: {failed.Messages[0]}"; break;
                case ITestClassCleanupFailure cleanup: failure ??= $"{cleanup.ExceptionTypes[0]}: {cleanup.Messages[0]}"; break;
                case IErrorMessage error: failure ??= $"{error.ExceptionTypes[0]}: {error.Messages[0]}"; break;
                case ITestAssemblyFinished: done.Set(); break;
            }
            return failure is null;
        }), new Options());
        done.Wait();
        return failure;
    }

    private sealed class Sink(Func<IMessageSinkMessage, bool> take) : Xunit.LongLivedMarshalByRefObject, IMessageSink
    {
        public bool OnMessage(IMessageSinkMessage message) => take(message);
    }

    /// <summary>Runs one test at a time, so that the mutants it evaluates are attributed to it; a theory counts as one case.</summary>
    private sealed class Options : Xunit.LongLivedMarshalByRefObject, ITestFrameworkDiscoveryOptions, ITestFrameworkExecutionOptions
    {
        private readonly Dictionary<string, object?> _values = new()
        {
            ["xunit.execution.DisableParallelization"] = true,
            ["xunit.discovery.PreEnumerateTheories"] = false,
            ["xunit.execution.SynchronousMessageReporting"] = true,
        };

        public TValue GetValue<TValue>(string name) => _values.TryGetValue(name, out object? value) && value is TValue found ? found
            : default!;

        public void SetValue<TValue>(string name, TValue value) => _values[name] = value;
    }
}
