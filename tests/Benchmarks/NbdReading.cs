using System;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using System.Text.Json;
using Snapuserd.Tests.Benchmarks.Merging;

namespace Snapuserd.Tests.Benchmarks;

/// <summary>The view over NBD, compared with nbdkit serving the plain target image: the same clients, in turns.</summary>
internal static class NbdReading
{
    private static readonly string[] s_variants = ["v3-none", "v3-lz4", "v3-zstd-64k-xor", "v2-gz"];

    /// <summary>Requests of one random run, which takes a second or two.</summary>
    private const int RandomReads = 60_000;

    internal static void Run(TextWriter output, BenchOptions options)
    {
        string folder = Path.Combine(options.Data, options.Quick ? "64M" : "512M");
        Directory.CreateDirectory(folder);
        output.WriteLine("reading over NBD");
        foreach (string name in s_variants)
        {
            CowVariant variant = Array.Find(CowVariant.All, variant => variant.Name == name)!;
            if (!options.Wants($"nbd {name}")) continue;
            string cow = MergeBenchmark.Prepare(output, options, folder, variant);
            string target = Path.Combine(folder, $"new-{variant.Mix}.img");
            using Served theirs = new(target, "nbdkit", ["-f", "--readonly", "-U", "{}", "file", target]);
            using Served ours = new(target, options.Snapuserd!, ["serve", "--device", "nbd", "--socket", "{}", "--cow", cow, "--base",
                Path.Combine(folder, "old.img"), "--progress", "never"]);
            double bytes = new FileInfo(target).Length;
            Measure($"{name} nbdcopy", Copy, bytes / 1e6, "MB/s");
            Measure($"{name} 4 KiB random, 1 by 1", server => Random(server, 1), RandomReads / 4e3, "kIOPS");
            Measure($"{name} 4 KiB random, 32 at once", server => Random(server, 32), RandomReads / 1e3, "kIOPS");
            output.Flush();

            void Measure(string what, Func<Served, double> run, double amount, string unit)
            {
                double theirCpu = theirs.CpuSeconds, ourCpu = ours.CpuSeconds;
                (Times, Times) times = InTurns(() => run(theirs), () => run(ours), options.Runs);
                Turns.Print(output, what, "nbdkit file", times, amount, unit);
                // CPU time does not depend on other load of this machine.
                (theirCpu, ourCpu) = (theirs.CpuSeconds - theirCpu, ours.CpuSeconds - ourCpu);
                output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"  {"",-34} CPU seconds of a run: nbdkit "
                    + $"{theirCpu / (options.Runs + 1):0.000}, ours {ourCpu / (options.Runs + 1):0.000}, ratio {theirCpu / ourCpu:0.00}"));
            }
        }
    }

    private static (Times Theirs, Times Ours) InTurns(Func<double> theirs, Func<double> ours, int count)
    {
        double[] first = new double[count], second = new double[count];
        theirs();
        ours();
        for (int i = 0; i < count; i++)
        {
            first[i] = theirs();
            second[i] = ours();
        }
        return (Times.Of(first), Times.Of(second));
    }

    private static double Copy(Served server)
    {
        long start = Stopwatch.GetTimestamp();
        ProgramRun.Run("nbdcopy", [server.Uri, "null:"]);
        return Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    /// <summary>The duration that fio measures, without its own start.</summary>
    private static double Random(Served server, int depth)
    {
        int reads = depth == 1 ? RandomReads / 4 : RandomReads;
        ProcessStartInfo start = new("fio",
        [
            "--name=r", "--ioengine=nbd", $"--uri={server.Uri}", "--rw=randread", "--bs=4k", "--randrepeat=1", $"--iodepth={depth}",
            $"--number_ios={reads}", "--readonly", "--output-format=json",
        ])
        {
            RedirectStandardOutput = true,
        };
        using Process process = Process.Start(start)!;
        string text = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        if (process.ExitCode != 0) throw new InvalidOperationException($"fio ended with {process.ExitCode}");
        JsonElement read = JsonDocument.Parse(text[text.IndexOf('{', StringComparison.Ordinal)..]).RootElement.GetProperty("jobs")[0]
            .GetProperty("read");
        return reads / read.GetProperty("iops").GetDouble();
    }

    /// <summary>A server on its own socket; ends on disposal.</summary>
    private sealed class Served : IDisposable
    {
        private readonly string _folder = Directory.CreateTempSubdirectory("snapuserd-nbd-").FullName;
        private readonly Process _process;

        internal Served(string image, string program, string[] arguments)
        {
            string socket = Path.Combine(_folder, "socket");
            Uri = $"nbd+unix:///?socket={socket}";
            // The image is in the page cache for both servers before either is measured.
            using (FileStream file = File.OpenRead(image)) file.CopyTo(Stream.Null);
            ProcessStartInfo start = new(program, Array.ConvertAll(arguments, argument => argument == "{}" ? socket : argument))
            {
                RedirectStandardOutput = true,
            };
            _process = Process.Start(start)!;
            while (!File.Exists(socket) && !_process.HasExited) System.Threading.Thread.Sleep(1);
            if (_process.HasExited)
                throw new InvalidOperationException(
                    string.Create(CultureInfo.InvariantCulture, $"{program} ended with {_process.ExitCode}"));
        }

        internal string Uri { get; }

        internal double CpuSeconds
        {
            get
            {
                _process.Refresh();
                return _process.TotalProcessorTime.TotalSeconds;
            }
        }

        public void Dispose()
        {
            _process.Kill();
            _process.WaitForExit();
            _process.Dispose();
            Directory.Delete(_folder, recursive: true);
        }
    }
}
