using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Linq;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// `serve --socket` of the built binary with many clients that stall or idle. Tests of deadlines are in tests/Serve, where time is
/// injected.
/// </summary>
public sealed class NbdClientTests : IDisposable
{
    private const string Vector = "v3-lz4-descending";
    private readonly TempFolder _folder = new();
    private readonly List<NbdClient> _clients = [];
    private Process? _server;

    public NbdClientTests()
    {
        File.WriteAllBytes(_folder["cow"], Golden.Cow(Vector));
        File.WriteAllBytes(_folder["base"], Golden.Old);
    }

    public void Dispose()
    {
        foreach (NbdClient client in _clients) client.Dispose();
        if (_server is { HasExited: false }) _server.Kill();
        _server?.Dispose();
        _folder.Dispose();
    }

    [Fact]
    public void Stalled_clients_do_not_block_other_clients()
    {
        Start();
        NbdClient idle = Ready();
        Compare(idle);
        for (int i = 0; i < 100; i++)
        {
            NbdClient client = Kept(i % 3 == 0 ? new NbdClient(_folder["nbd"]) : NbdClient.Ready(_folder["nbd"], structured: i % 2 == 0));
            if (i % 3 == 1) client.SendRequest(0, 1, 0, (uint)Golden.New.Length);
        }
        Compare(idle);
        Compare(Ready());
        string copy = _folder["copy"];
        BinaryResult copied = Binary.RunProgram("nbdcopy", [$"nbd+unix:///?socket={_folder["nbd"]}", copy]);
        Assert.True(copied.ExitCode == 0, copied.ToString());
        Assert.Equal(Golden.New, File.ReadAllBytes(copy));
    }

    [Fact]
    public void Thousand_idle_clients_cost_no_thread_and_all_of_them_read()
    {
        Start();
        // The first client reads, so that memory for reads is allocated before the measurement.
        Compare(Ready());
        int threads = Threads();
        long memory = Memory();
        for (int i = 0; i < 1000; i++) Ready();
        Assert.Equal(threads, Threads());
        // An idle client costs a descriptor and an object. A buffer for each would be 64 MB or more.
        Assert.InRange(Memory() - memory, long.MinValue, 16 << 20);
        for (int i = 0; i < _clients.Count; i += 7) Compare(_clients[i]);
        Assert.Equal(threads, Threads());
    }

    [Fact]
    public void With_few_descriptors_connected_clients_are_served_and_new_ones_wait()
    {
        Start("ulimit -n 64;");
        // Half of the limit; the rest is for devices, sockets and rings.
        for (int i = 0; i < 32; i++) Compare(Ready());
        NbdClient late = Kept(new NbdClient(_folder["nbd"]));
        foreach (NbdClient client in _clients.Take(32)) Compare(client);
        Assert.Contains("there are 32 clients; new ones have to wait", _server!.StandardError.ReadLine(), StringComparison.Ordinal);
        _clients[5].Dispose();
        late.Greet();
        late.SendOption(1);
        late.Take(10);
        Compare(late);
    }

    [Fact]
    public void Soft_limit_of_descriptors_is_raised_to_the_hard_limit()
    {
        Start("ulimit -Sn 64;");
        for (int i = 0; i < 200; i++) Ready();
        Compare(_clients[199]);
    }

    private void Start(string before = "")
    {
        string[] serve = ["serve", "--cow", _folder["cow"], "--base", _folder["base"], "--device", "nbd", "--socket", _folder["nbd"]];
        _server = Binary.StartProgram("sh", ["-c", $"{before} exec \"$0\" \"$@\"", Binary.Path, .. serve, "--progress", "never"]);
        Assert.Equal(_folder["nbd"], _server.StandardOutput.ReadLine());
    }

    private NbdClient Kept(NbdClient client)
    {
        _clients.Add(client);
        return client;
    }

    private NbdClient Ready() => Kept(NbdClient.Ready(_folder["nbd"]));

    private static void Compare(NbdClient client)
    {
        foreach ((int offset, int length) in ((int, int)[])[(0, 4096), (12345, 70_000), (Golden.New.Length - 100, 100)])
        {
            byte[] got = client.Read(offset, length, structured: false);
            Assert.True(Golden.New.AsSpan(offset, length).SequenceEqual(got), $"{length} bytes at {offset}");
        }
    }

    private string Status(string field)
    {
        string found = File.ReadLines($"/proc/{_server!.Id}/status").First(line => line.StartsWith(field + ":", StringComparison.Ordinal));
        return found[(field.Length + 1)..].Trim();
    }

    private int Threads() => int.Parse(Status("Threads"), System.Globalization.CultureInfo.InvariantCulture);

    private long Memory() => 1024 * long.Parse(Status("RssAnon").Split(' ')[0], System.Globalization.CultureInfo.InvariantCulture);
}
