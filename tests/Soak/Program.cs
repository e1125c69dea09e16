using System;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using System.Runtime.InteropServices;
using Snapuserd.Interop;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Soak;

/// <summary>
/// `soak [--minutes N] [--rounds N] [--seed N]` simulates the life of a machine repeatedly. The last line of its output has the counts. The
/// exit code is 1 if a check failed, and 130 after SIGINT or SIGTERM. It must run as root in its own mount and process namespaces
/// (build.sh).
/// </summary>
internal static class Program
{
    private const int MostFailures = 5;
    private const int Interrupted = 130;
    private const int ProgressSeconds = 30;

    private static int Main(string[] arguments)
    {
        double minutes = double.PositiveInfinity;
        long rounds = long.MaxValue;
        ulong seed = (ulong)Stopwatch.GetTimestamp() & uint.MaxValue;
        for (int i = 0; i < arguments.Length; i += 2)
        {
            string value = i + 1 < arguments.Length ? arguments[i + 1] : "";
            bool known = arguments[i] switch
            {
                "--minutes" => double.TryParse(value, CultureInfo.InvariantCulture, out minutes),
                "--rounds" => long.TryParse(value, NumberStyles.None, CultureInfo.InvariantCulture, out rounds),
                "--seed" => ulong.TryParse(value, NumberStyles.None, CultureInfo.InvariantCulture, out seed),
                _ => false,
            };
            if (known) continue;
            Console.Error.WriteLine("usage: soak [--minutes N] [--rounds N] [--seed N]");
            return 64;
        }
        if (Libc.GetEUid() != 0)
        {
            Console.Error.WriteLine("soak: needs root, because it mounts file systems and makes loop devices");
            return 77;
        }
        // Without namespaces of its own this program would change the machine's mounts. In them, process 1 is the shell that started this
        // program.
        if (!File.ReadAllText("/proc/1/cmdline").Contains("soak.dll", StringComparison.Ordinal))
        {
            Console.Error.WriteLine("soak: start it with `make soak`, which gives it namespaces of its own");
            return 64;
        }
        using PosixSignalRegistration interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, Stop),
            end = PosixSignalRegistration.Create(PosixSignal.SIGTERM, Stop);
        DirectoryInfo scratch = Directory.CreateTempSubdirectory("snapuserd-soak-");
        try
        {
            return Run(scratch.FullName, minutes, rounds, seed);
        }
        catch (Exception e)
        {
            Console.WriteLine(Interrupt.IsAsked ? "soak: interrupted" : $"soak: cannot continue: {e}");
            return Interrupt.IsAsked ? Interrupted : 1;
        }
        finally
        {
            scratch.Delete(recursive: true);
        }
    }

    private static void Stop(PosixSignalContext signal)
    {
        signal.Cancel = true;
        Interrupt.Ask();
    }

    private static int Run(string scratch, double minutes, long rounds, ulong seed)
    {
        Console.WriteLine($"soak: seed {seed}");
        Totals totals = new();
        Stopwatch clock = Stopwatch.StartNew();
        double told = 0;
        using Machine machine = new(scratch);
        using Arenas arenas = new();
        MemoryWatch memory = new();
        machine.StartDaemon();
        Warm(machine);
        Remains before = Remains.Now(machine);
        for (ulong now = seed; totals.Rounds < rounds && clock.Elapsed.TotalMinutes < minutes
            && !Interrupt.IsAsked; now = RoundPlan.Next(now))
        {
            RoundPlan plan = RoundPlan.From(now);
            try
            {
                Round.Run(plan, machine, totals);
                SimulatedLife.Live(now, arenas, totals);
                Remains.Settle(machine, before);
                totals.Rounds++;
            }
            catch (Exception) when (Interrupt.IsAsked)
            {
                break;
            }
            catch (Exception e)
            {
                totals.Rounds++;
                totals.Failures++;
                string what = e is SoakException ? e.Message : e.ToString();
                Console.WriteLine($"soak: FAILED: {what}\n  {plan}\n  repeat with: make soak SEED={now} ROUNDS=1");
                if (totals.Failures == MostFailures) break;
                // The remains of the failed round must not make the following rounds fail.
                machine.Restart();
                Warm(machine);
                before = Remains.Now(machine);
                memory = new MemoryWatch(totals.Rounds);
                continue;
            }
            try
            {
                memory.Check(totals.Rounds, machine);
            }
            catch (SoakException e)
            {
                // A single round does not show this failure, so repeat all rounds.
                totals.Failures++;
                Console.WriteLine($"soak: FAILED: {e.Message}\n  repeat with: make soak SEED={seed} ROUNDS={totals.Rounds}");
                break;
            }
            if (clock.Elapsed.TotalSeconds - told < ProgressSeconds) continue;
            told = clock.Elapsed.TotalSeconds;
            Console.WriteLine($"soak: {clock.Elapsed.TotalMinutes:F1} minutes, {totals}{memory.Text}; next seed {RoundPlan.Next(now)}");
        }
        Console.WriteLine($"soak, seed {seed}{(Interrupt.IsAsked ? ", interrupted" : "")}: {totals}");
        return totals.Failures > 0 ? 1 : Interrupt.IsAsked ? Interrupted : 0;
    }

    /// <summary>
    /// Runs two small rounds, because some objects in this program and the daemon are created at their first use. Later rounds must not
    /// leave new ones.
    /// </summary>
    private static void Warm(Machine machine)
    {
        _ = (machine.Ext4, machine.Xfs);
        _ = KillAt.Command("0");
        RoundPlan plan = RoundPlan.From(1);
        Totals none = new();
        foreach (Finisher finisher in new[] { Finisher.Serve, Finisher.Daemon })
        {
            UpdatePlan update = plan.Updates[0] with
            {
                Breaks = [],
                Finisher = finisher,
                Create = CreateWay.By(new Chance(1)) with { KilledAt = 0 },
                StagedTwice = 0
            };
            Round.Run(plan with { Blocks = 64, Cow = Place.Tmpfs, Base = Place.Tmpfs, Updates = [update] }, machine, none);
        }
    }
}
