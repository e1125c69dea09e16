using System;
using System.Collections.Concurrent;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Serve;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Serve;

/// <summary>A view of a golden COW, or of another COW, served over NBD.</summary>
internal sealed class NbdFixture : IDisposable
{
    internal const string Zstd = "v3-zstd-256k-xor";

    private readonly TempFolder _folder = new();
    private readonly WakeUp _wakeUp = new();

    internal NbdFixture(string name = Zstd, NbdOptions? options = null)
        : this(new ViewFixture(Golden.Cow(name), Golden.Old), Golden.New, options)
    {
    }

    internal NbdFixture(ViewFixture view, byte[] target, NbdOptions? options = null, bool start = true)
    {
        (View, Target) = (view, target);
        options ??= new NbdOptions();
        Server = Make(new NbdOptions
        {
            SocketPath = options.SocketPath.Length > 0 ? options.SocketPath : Path,
            ExportName = options.ExportName,
            MemoryBytes = options.MemoryBytes,
            MaxConnections = options.MaxConnections,
            ThreadsPerConnection = options.ThreadsPerConnection,
            DrainMilliseconds = options.DrainMilliseconds,
            Workers = options.Workers,
            Time = options.Time,
            Report = Reports.Enqueue,
        });
        if (start) Server.Start();
    }

    internal ViewFixture View { get; }

    internal byte[] Target { get; }

    internal NbdServer Server { get; }

    internal ConcurrentQueue<string> Reports { get; } = new();

    internal string Path => _folder["nbd"];

    internal string Folder => _folder.Path;

    internal string Uri => $"nbd+unix:///?socket={Path}";

    internal NbdServer Make(NbdOptions options) => new(View.View, View.Devices, options, _wakeUp);

    /// <summary>Damages the payload of a compressed Replace. Returns the range of the image that is unreadable afterwards.</summary>
    internal (long Offset, int Length) Damage()
    {
        CowFile cow = View.View.Cow;
        CowOp op = Enumerable.Range(0, cow.OpCount).Select(i => cow[i])
            .Last(o => o.Type == CowOpType.Replace && !cow.IsRaw(o) && o.NewBlock > 512);
        byte[] junk = new byte[op.DataLength];
        Array.Fill(junk, (byte)0xff);
        using var file = new System.IO.FileStream(View.Devices[0].Path, System.IO.FileMode.Open, System.IO.FileAccess.Write,
            System.IO.FileShare.ReadWrite);
        file.Position = op.DataOffset;
        file.Write(junk);
        return ((long)op.NewBlock * CowOp.BlockSize, op.UnitBytes);
    }

    /// <summary>Reads ranges of all kinds and compares them with the target.</summary>
    internal void Compare(NbdClient client, bool structured, int seed, int reads)
    {
        Random random = new(seed);
        for (int i = 0; i < reads; i++)
        {
            int length = random.Next(4) switch
            {
                0 => random.Next(1, 512),
                1 => 4096,
                2 => random.Next(1, 256 << 10),
                _ => random.Next(1, 2 << 20),
            };
            int offset = random.Next(0, Target.Length - length + 1);
            if (!Target.AsSpan(offset, length).SequenceEqual(client.Read(offset, length, structured)))
                throw new InvalidOperationException($"{length} bytes at {offset} differ; seed {seed}, read {i}; {View.Failure}");
        }
    }

    public void Dispose()
    {
        Server.Dispose();
        View.Dispose();
        _wakeUp.Dispose();
        _folder.Dispose();
    }
}
