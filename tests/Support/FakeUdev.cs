using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Interop;
using Snapuserd.Serve;
using Xunit;

namespace Snapuserd.Tests.Support;

/// <summary>A fake udev that completes an event's cookie after some milliseconds, with a clock and semaphores of its own.</summary>
internal sealed class FakeUdev : IUdev
{
    internal sealed class Set(int key, int count)
    {
        internal int Key { get; } = key;
        internal int[] Values { get; } = new int[count];
        internal bool IsOrphan { get; set; }
    }

    private readonly List<(long At, int Key)> _answers = [];
    private int _nextId = 5;
    private long _busyUntil = -1;

    /// <summary>The semaphore sets, by identifier.</summary>
    internal SortedDictionary<int, Set> Sets { get; } = [];

    /// <summary>The event numbers of all events.</summary>
    internal List<uint> Events { get; } = [];

    /// <summary>The next results of <see cref="IUdev.Random"/>, in order; after these, it returns consecutive numbers.</summary>
    internal Queue<uint> Draws { get; } = [];

    /// <summary>True if udev has been started.</summary>
    internal bool IsThere { get; set; }

    /// <summary>True if udev writes a database entry for every event, whether or not it completes the cookie.</summary>
    internal bool WritesEntries { get; set; }

    /// <summary>The time at which udev ends and removes its socket.</summary>
    internal long EndsAt { get; set; } = long.MaxValue;

    /// <summary>Milliseconds after an event at which udev completes its cookie; negative for never.</summary>
    internal int AnswersAfter { get; set; } = 300;

    /// <summary>Milliseconds after an event during which udev reports that it is busy.</summary>
    internal int BusyFor { get; set; }

    /// <summary>The time at which `dmsetup udevcomplete_all` runs.</summary>
    internal long AllRemovedAt { get; set; } = long.MaxValue;

    /// <summary>The number of further waits that a signal interrupts.</summary>
    internal int Interruptions { get; set; }

    /// <summary>The error that creating a set fails with; 0 for none.</summary>
    internal int CreationFails { get; set; }

    /// <summary>The error that setting a value fails with; 0 for none.</summary>
    internal int SettingFails { get; set; }

    internal int RulesPlaced { get; private set; }

    public bool Runs => IsThere && Milliseconds < EndsAt;

    public bool IsBusy => Milliseconds < _busyUntil;

    /// <summary>The devices whose database entries were queried.</summary>
    internal HashSet<(uint Major, uint Minor)> Asked { get; } = [];

    public ulong EntryOf(uint major, uint minor)
    {
        Asked.Add((major, minor));
        return WritesEntries && Runs ? (ulong)Events.Count : 0;
    }

    public long Milliseconds { get; private set; } = 1000;

    public uint Random => Draws.TryDequeue(out uint number) ? number : (uint)(_nextId++ * 0x10001);

    /// <summary>Sends an event to udev, as the kernel does.</summary>
    internal void Event(uint number)
    {
        Events.Add(number);
        Assert.Equal(0x0040u, number >> 16);
        _busyUntil = Milliseconds + BusyFor;
        // The rule's program (dmsetup) does not look for a semaphore if the cookie is 0.
        if (Runs && AnswersAfter >= 0 && (number & 0xffff) != 0)
            _answers.Add((Milliseconds + AnswersAfter, 0x0d4d0000 | (int)(number & 0xffff)));
    }

    public int CreateSemaphores(int key, int count)
    {
        if (CreationFails != 0) return -CreationFails;
        if (Sets.Values.Any(set => set.Key == key)) return -Errno.EEXIST;
        Sets[_nextId++] = new Set(key, count);
        return _nextId - 1;
    }

    public int SetSemaphore(int id, int number, int value)
    {
        if (SettingFails != 0) return -SettingFails;
        Sets[id].Values[number] = value;
        return 0;
    }

    public int ValueOf(int id, int number) => number < Sets[id].Values.Length ? Sets[id].Values[number] : -Errno.EINVAL;

    public int AwaitZero(int id, int milliseconds)
    {
        Assert.InRange(milliseconds, 1, 1000);
        if (Interruptions > 0)
        {
            Interruptions--;
            return -Errno.EINTR;
        }
        Set set = Sets[id];
        if (set.Values[0] == 0) return 0;
        long end = Milliseconds + milliseconds;
        (long At, int Key) answer = _answers.FirstOrDefault(known => known.Key == set.Key && known.At <= end && known.At < EndsAt);
        if (AllRemovedAt <= end && (answer.Key == 0 || AllRemovedAt < answer.At))
        {
            (Milliseconds, AllRemovedAt) = (AllRemovedAt, long.MaxValue);
            Sets.Clear();
            return -Errno.EIDRM;
        }
        if (answer.Key == 0)
        {
            Milliseconds = end;
            return -Errno.EAGAIN;
        }
        _answers.Remove(answer);
        Milliseconds = Math.Max(Milliseconds, answer.At);
        set.Values[0]--;
        return set.Values[0] == 0 ? 0 : -Errno.EAGAIN;
    }

    public int RemoveSemaphores(int id) => Sets.Remove(id) ? 0 : -Errno.EIDRM;

    public int HighestIndex() => Sets.Count == 0 ? 0 : Sets.Keys.Max();

    public int SetAtIndex(int index, out int key)
    {
        key = Sets.TryGetValue(index, out Set? set) ? set.Key : 0;
        return set == null ? -Errno.EINVAL : index;
    }

    public bool IsOrphan(int id, int number) => Sets[id].IsOrphan;

    public void PlaceRules() => RulesPlaced++;
}
