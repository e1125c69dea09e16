using System;
using System.Reflection;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Control;
using Snapuserd.Merge;
using Xunit;

namespace Snapuserd.Tests.Control;

/// <summary>The order of the locks of snapshots and of the queue in which they wait for their merges.</summary>
public sealed class MergeSlotsTests : IDisposable
{
    private readonly WakeUp _wakeUp = new();
    private readonly MergeSlots _slots = new(new MemoryBudget(16 << 20, 1), 1);
    private readonly Snapshot _first, _second;

    public MergeSlotsTests() => (_first, _second) = (Make("first"), Make("second"));

    public void Dispose()
    {
        _first.Dispose();
        _second.Dispose();
        _wakeUp.Dispose();
    }

    private Snapshot Make(string name) => new(new SnapshotOptions
    {
        Name = name,
        Devices = new DeviceOptions { Cow = "/none", Base = "/none", ArenaBytes = 1 << 20 },
        CacheBytes = 1 << 20,
        ServerBytes = 1 << 20,
        Slots = _slots,
    }, new StopFlag(), _wakeUp);

    private static object LockOf(object one) =>
        one.GetType().GetField("_gate", BindingFlags.Instance | BindingFlags.NonPublic)!.GetValue(one)!;

    /// <summary>
    /// This thread holds the lock of a snapshot, as a request to merge does. Another thread wakes that snapshot through the queue, and
    /// must wait for the lock. If it held the lock of the queue meanwhile, a request of this thread would never end.
    /// </summary>
    [Theory]
    [InlineData("wake")]
    [InlineData("enter")]
    [InlineData("leave")]
    [InlineData("give up")]
    public void A_snapshot_is_woken_without_the_lock_of_the_queue(string action)
    {
        MergeSlots slots = action == "enter" ? new(new MemoryBudget(32 << 20, 2), 2) : _slots;
        MemoryQuota? share = null;
        if (action == "leave")
        {
            slots.Queue(_second);
            share = slots.TryEnter(_second);
            Assert.NotNull(share);
        }
        if (action is "enter" or "give up") slots.Queue(_second);
        slots.Queue(_first);
        Thread other = new(() =>
        {
            switch (action)
            {
                case "wake": slots.WakeFirst(); break;
                case "enter": share = slots.TryEnter(_second); break;
                case "leave": slots.Leave(share!); break;
                default: slots.GiveUp(_second); break;
            }
        });
        bool isFree;
        lock (LockOf(_first))
        {
            other.Start();
            // The other thread waits for the lock that this thread holds: it can wait for nothing else.
            while ((other.ThreadState & ThreadState.WaitSleepJoin) == 0 && other.IsAlive) Thread.Yield();
            Assert.True(other.IsAlive, "the snapshot was not woken");
            isFree = Monitor.TryEnter(LockOf(slots));
            if (isFree) Monitor.Exit(LockOf(slots));
        }
        other.Join();
        Assert.True(isFree, "the lock of the queue is held while a snapshot is woken");
    }
}
