using System;
using System.Collections.Generic;
using System.IO;
using Snapuserd.Block;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Block;

/// <summary>One file, an arena, a wake-up, and a queue of either kind over them. The test's own thread creates and uses them.</summary>
internal sealed class QueueFixture : IDisposable
{
    public QueueFixture(string kind, long length, int depth, int arenaSize = 1 << 20, bool direct = false)
    {
        byte[] content = new byte[length];
        new Random(20240611).NextBytes(content);
        Content = content;
        File.WriteAllBytes(Folder["device"], content);
        Arena = new Arena(arenaSize);
        Device = BlockDevice.Open(Folder["device"], DeviceAccess.Write | (direct ? DeviceAccess.Direct : 0));
        Queue = Make(kind, [Device], Arena, WakeUp, depth);
    }

    public TempFolder Folder { get; } = new();

    public byte[] Content { get; }

    public Arena Arena { get; }

    public WakeUp WakeUp { get; } = new();

    public BlockDevice Device { get; }

    public IBlockQueue Queue { get; }

    public static IBlockQueue Make(string kind, BlockDevice[] devices, Arena arena, WakeUp wakeUp, int depth)
    {
        if (kind == "sync") return new SyncQueue(devices, arena, wakeUp, depth);
        if (RingQueue.TryCreate(devices, arena, wakeUp, depth, out RingQueue? ring) is { } refusal)
            throw new InvalidOperationException("these tests need io_uring, and " + refusal.Sentence);
        return ring!;
    }

    /// <summary>Waits until <paramref name="count"/> requests have ended. Returns their results by tag.</summary>
    public Dictionary<uint, int> Reap(int count)
    {
        Dictionary<uint, int> results = [];
        BlockCompletion[] completions = new BlockCompletion[Queue.Depth];
        while (results.Count < count)
        {
            int done = Queue.Wait(completions);
            if (done < 0) throw new InvalidOperationException($"the queue failed: {done}");
            foreach (BlockCompletion completion in completions.AsSpan(0, done)) results.Add(completion.Tag, completion.Result);
        }
        return results;
    }

    public void Dispose()
    {
        Queue.Dispose();
        Device.Dispose();
        WakeUp.Dispose();
        Arena.Dispose();
        Folder.Dispose();
    }
}
