using System;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>A source and a base that are two parts of one disk: loop devices with different offsets and lengths over one file.</summary>
public sealed class OverlapTests(ITestOutputHelper output)
{
    /// <summary>A disk with a base and a source on it, and a random COW.</summary>
    private sealed class Disk : IDisposable
    {
        private const int DiskSectors = 800;
        private readonly TempFolder _folder = new();
        private readonly byte[] _bytes;
        private readonly int _baseStart;
        private readonly LoopDevice _base;
        private readonly LoopDevice _source;

        public Disk(ulong seed)
        {
            Chance chance = new(seed);
            int blocks = 8 + chance.Below(30), sourceStart = 100 + chance.Below(50), length = (blocks * 8) + chance.Below(60) - 10;
            _baseStart = chance.Percent(20) ? sourceStart : sourceStart + chance.Below(41) - 20;
            Geometry geometry = Geometry.Shifted(sourceStart - _baseStart, length, blocks * 8)!;
            LongOverlap ops = new(chance, blocks, geometry);
            Verdict = ops.Model.From(0);
            _bytes = SmallCases.Random((long)seed, DiskSectors / 8);
            Old = _bytes[(_baseStart * 512)..][..(blocks * 4096)];
            New = NaiveMerger.Merge(ops.Cow.Ops, _bytes[(sourceStart * 512)..][..(length * 512)], Old);
            File.WriteAllBytes(_folder["disk"], _bytes);
            File.WriteAllBytes(_folder["cow"], ops.Cow.Build());
            _base = new LoopDevice(_folder["disk"], Window(_baseStart, blocks * 8));
            _source = new LoopDevice(_folder["disk"], Window(sourceStart, length));
            Say = $"seed {seed}: base at sector {_baseStart}, source {geometry}, {Verdict}";
        }

        public OverlapVerdict Verdict { get; }
        public byte[] Old { get; }
        public byte[] New { get; }
        public string Say { get; }
        public string[] Devices => ["--cow", _folder["cow"], "--base", _base.Path, "--source", _source.Path];
        public string this[string name] => _folder[name];

        public BinaryResult Run(string verb, params string[] more) => Binary.Run([verb, .. Devices, .. more]);

        /// <summary>The disk must hold <paramref name="due"/> in the base's range, and its original contents elsewhere.</summary>
        public void Check(byte[] due)
        {
            LoopDevice.Call("blockdev", "--flushbufs", _base.Path);
            byte[] all = (byte[])_bytes.Clone();
            due.CopyTo(all, _baseStart * 512);
            Assert.True(all.AsSpan().SequenceEqual(File.ReadAllBytes(_folder["disk"])), $"{Say}: the disk has the wrong content");
        }

        /// <summary>Waits until no request of a killed process is in flight.</summary>
        public void Settle() => Unlocked.Settle(_folder["cow"], _base.Path);

        public void Dispose()
        {
            _source.Dispose();
            _base.Dispose();
            _folder.Dispose();
        }

        private static string[] Window(int start, int sectors) =>
            ["--offset", (start * 512).ToString(CultureInfo.InvariantCulture), "--sizelimit",
                (sectors * 512).ToString(CultureInfo.InvariantCulture)];
    }

    [RootFact]
    public void Source_and_base_that_overlap_on_one_disk_end_in_the_target_or_are_refused_untouched_and_are_read_in_any_case()
    {
        int merged = 0, refused = 0;
        for (ulong seed = 1; seed <= 24; seed++)
        {
            using Disk disk = new(seed);
            BinaryResult extracted = disk.Run("extract", "--output", disk["image"], "--progress", "never");
            Assert.True(extracted.ExitCode == 0, $"{disk.Say}: {extracted}");
            Assert.True(disk.New.AsSpan().SequenceEqual(File.ReadAllBytes(disk["image"])), $"{disk.Say}: extracted wrong");
            BinaryResult verified = disk.Run("verify", "--progress", "never");
            Assert.True(verified.ExitCode == 0, $"{disk.Say}: {verified}");

            string io = seed % 2 == 0 && !Binary.IsEmulated ? "uring" : "sync";
            BinaryResult result = disk.Run("merge", "--io", io, "--progress", "never");
            bool mergeable = disk.Verdict == OverlapVerdict.Mergeable;
            Assert.True(result.ExitCode == (mergeable ? 0 : 64), $"{disk.Say}: {result}");
            disk.Check(mergeable ? disk.New : disk.Old);
            if (mergeable) merged++;
            else refused++;
        }
        output.WriteLine($"{merged} merged, {refused} refused");
        Assert.True(merged >= 5 && refused >= 5);
    }

    [RootFact]
    public void A_merge_of_overlapping_windows_that_is_killed_is_finished_by_the_next_run()
    {
        int killed = 0;
        for (ulong seed = 1; killed < 12; seed++)
        {
            using Disk disk = new(seed);
            if (disk.Verdict != OverlapVerdict.Mergeable) continue;
            Chance chance = new(seed + 1000);
            for (int run = 0; run < 2; run++)
            {
                BinaryResult result =
                    KillAt.Serve(150 + chance.Below(250), ["merge", .. disk.Devices, "--io", "sync", "--progress", "never"]);
                Assert.True(result.ExitCode is 0 or 137, $"{disk.Say}: {result}");
                if (result.ExitCode == 137) killed++;
                disk.Settle();
            }
            BinaryResult last = disk.Run("merge", "--progress", "never");
            Assert.True(last.ExitCode == 0, $"{disk.Say}: {last}");
            disk.Check(disk.New);
        }
    }

    [RootFact]
    public void Server_whose_merge_is_refused_continues_to_serve()
    {
        ulong seed = 1;
        Disk disk = new(seed);
        while (disk.Verdict == OverlapVerdict.Mergeable)
        {
            disk.Dispose();
            disk = new Disk(++seed);
        }
        using (disk)
        {
            using Process server =
                Binary.Start(["serve", .. disk.Devices, "--device", "nbd", "--socket", disk["socket"], "--merge", "--json"]);
            try
            {
                Assert.Contains("\"ready\"", server.StandardOutput.ReadLine(), StringComparison.Ordinal);
                Assert.Contains("\"exit_code\":64", server.StandardOutput.ReadLine(), StringComparison.Ordinal);
                BinaryResult copied = Binary.RunProgram("nbdcopy", [$"nbd+unix:///?socket={disk["socket"]}", disk["copy"]]);
                Assert.True(copied.ExitCode == 0, $"{disk.Say}: {copied}");
                Assert.True(disk.New.AsSpan().SequenceEqual(File.ReadAllBytes(disk["copy"])), $"{disk.Say}: served wrong");
            }
            finally
            {
                server.Kill();
                server.WaitForExit();
            }
            disk.Check(disk.Old);
        }
    }
}
