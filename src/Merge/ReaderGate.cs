using System;
using System.Threading;
using Snapuserd.Block;

namespace Snapuserd.Merge;

/// <summary>
/// The locations of the ops of the merged image at one moment. The ops before <paramref name="Counted"/> are in Base, the
/// <paramref name="Window"/> ops after them in the memory of the journaled window, and all others in Source and COW.
/// </summary>
public readonly record struct OpLocations(int Counted, int Window);

/// <summary>
/// Synchronizes a merge with the readers of the merged image (design §6). A write to Base over a source, or the next window, destroys the
/// old location of an op. It happens only after the new location was published and every reader that may use the old one has left.
/// <para>
/// Readers enter and leave from any thread and never wait. The merge publishes and checks on its own thread and never waits in here either:
/// the last old-epoch reader wakes it.
/// </para>
/// </summary>
public sealed class ReaderGate : IPending
{
    /// <summary>
    /// Ints between the two counters, so that each has its own cache line. Readers of both parities are inside at once only around a
    /// switch.
    /// </summary>
    private const int Stride = 16;

    private readonly WakeUp? _wakeUp;
    private readonly int[] _inside = new int[2 * Stride];
    private long _locations;
    private int _epoch;

    /// <summary>
    /// Called between two steps at which another thread may interleave. Null except in tests, which do there what that thread might do.
    /// </summary>
    internal Action? Interleave { get; init; }

    /// <summary>Creates a gate whose last old-epoch reader signals <paramref name="wakeUp"/>; null where no reader ever enters.</summary>
    public ReaderGate(WakeUp? wakeUp = null) => _wakeUp = wakeUp;

    /// <summary>
    /// The locations for a reader that has entered. They stay valid until it leaves, whatever is published meanwhile. Stored in one 64-bit
    /// word, so that count and window change together.
    /// </summary>
    public OpLocations Locations
    {
        get
        {
            long locations = Volatile.Read(ref _locations);
            return new OpLocations((int)(locations >> 32), (int)locations);
        }
    }

    /// <summary>Every reader that entered before the last <see cref="Publish"/> has left.</summary>
    public bool IsDone => Volatile.Read(ref _inside[Place(_epoch - 1)]) == 0;

    /// <summary>
    /// Registers a reader, which then reads <see cref="Locations"/>. Returns the epoch to pass to <see cref="Leave"/>. A full fence.
    /// </summary>
    public int Enter()
    {
        while (true)
        {
            int epoch = Volatile.Read(ref _epoch);
            Interleave?.Invoke();
            Interlocked.Increment(ref _inside[Place(epoch)]);
            // A reader that read the epoch before a switch and incremented the counter after it may be counted under an epoch that the
            // merge no longer checks.
            if (Volatile.Read(ref _epoch) == epoch) return epoch;
            Leave(epoch);
        }
    }

    /// <summary>Deregisters a reader, which must already have copied all bytes into its own memory.</summary>
    public void Leave(int pass)
    {
        if (Interlocked.Decrement(ref _inside[Place(pass)]) == 0 && Volatile.Read(ref _epoch) != pass) _wakeUp?.Signal();
    }

    /// <summary>
    /// Publishes the new locations. <see cref="IsDone"/> must be true, because there are only two counters: for the readers before and
    /// after one switch.
    /// </summary>
    internal void Publish(OpLocations locations)
    {
        Volatile.Write(ref _locations, ((long)locations.Counted << 32) | (uint)locations.Window);
        Interleave?.Invoke();
        // A full fence: a reader that enters under the new epoch sees the new locations, and IsDone sees every reader that entered before.
        Interlocked.Increment(ref _epoch);
    }

    private static int Place(int epoch) => (epoch & 1) * Stride;
}
