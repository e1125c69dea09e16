using System;
using System.Threading;
using Snapuserd.Block;

namespace Snapuserd.Merge;

/// <summary>
/// Where the ops of the merged image are to be read at a moment: those before <paramref name="Counted"/> from Base, the
/// <paramref name="Window"/> ops behind them from the memory of the journaled window, all others from Source and COW.
/// </summary>
public readonly record struct OpHomes(int Counted, int Window);

/// <summary>
/// Between a merge and those who read the merged image meanwhile (design §6). A home of an op is destroyed, by a write to Base over a source or
/// by the next window, only after the switch to another home was published and every reader who may still use the old one has left.
/// <para>
/// Readers enter and leave from any thread and never wait. The merge publishes and looks, on its own thread, and never waits in here either: the
/// last reader it has to look out for wakes it.
/// </para>
/// </summary>
public sealed class ReaderGate : IPending
{
    /// <summary>Ints between the two counters, so that each has a cache line: readers of both parities are there at once only around a switch.</summary>
    private const int Stride = 16;

    private readonly WakeUp? _wakeUp;
    private readonly int[] _inside = new int[2 * Stride];
    private long _homes;
    private int _epoch;

    /// <summary>Called where another thread may come between two steps that only work together. Null but in tests, which are the other thread.</summary>
    internal Action? Interleave { get; init; }

    /// <summary>A gate whose last reader signals <paramref name="wakeUp"/>; null where nobody ever enters.</summary>
    public ReaderGate(WakeUp? wakeUp = null) => _wakeUp = wakeUp;

    /// <summary>What holds for a reader who has entered: it stays true until that reader leaves, whatever is published meanwhile. One word, so that count and window go together.</summary>
    public OpHomes Homes
    {
        get
        {
            long homes = Volatile.Read(ref _homes);
            return new OpHomes((int)(homes >> 32), (int)homes);
        }
    }

    /// <summary>Every reader who entered before the last <see cref="Publish"/> has left.</summary>
    public bool IsDone => Volatile.Read(ref _inside[Place(_epoch - 1)]) == 0;

    /// <summary>Registers a reader, who then asks for <see cref="Homes"/>. Returns what <see cref="Leave"/> takes. A full fence.</summary>
    public int Enter()
    {
        while (true)
        {
            int epoch = Volatile.Read(ref _epoch);
            Interleave?.Invoke();
            Interlocked.Increment(ref _inside[Place(epoch)]);
            // Who read the number before a switch and counted behind it may stand under a number that nobody looks at any more.
            if (Volatile.Read(ref _epoch) == epoch) return epoch;
            Leave(epoch);
        }
    }

    /// <summary>The reader has all bytes in memory of its own.</summary>
    public void Leave(int pass)
    {
        if (Interlocked.Decrement(ref _inside[Place(pass)]) == 0 && Volatile.Read(ref _epoch) != pass) _wakeUp?.Signal();
    }

    /// <summary>Publishes where ops are from here on. Only when <see cref="IsDone"/>: there are two counters, for readers before and behind one switch.</summary>
    internal void Publish(OpHomes homes)
    {
        Volatile.Write(ref _homes, ((long)homes.Counted << 32) | (uint)homes.Window);
        Interleave?.Invoke();
        // A full fence: whoever enters under the new number sees the new homes, and who entered before is seen by IsDone.
        Interlocked.Increment(ref _epoch);
    }

    private static int Place(int epoch) => (epoch & 1) * Stride;
}
