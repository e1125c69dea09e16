using System;
using System.Collections.Generic;
using Xunit;

namespace Snapuserd.Tests.Block.MemoryOrder;

/// <summary>
/// The explorer against the classic litmus tests, whose answers for ARMv8 are published (Pulte et al., "Simplifying ARM Concurrency", POPL
/// 2018; herd's aarch64.cat), and against variants around branches, derived from the same rules. Each test names an outcome; the explorer
/// must find it if and only if the model allows it.
/// </summary>
public sealed class LitmusTests
{
    private static readonly Dictionary<string, (bool Allowed, Func<MemoryProgram> Make)> s_tests = new()
    {
        ["MP"] = (true, () => Message(Order.Plain, Order.Plain)),
        ["MP+release+plain"] = (true, () => Message(Order.Release, Order.Plain)),
        ["MP+plain+acquire"] = (true, () => Message(Order.Plain, Order.Acquire)),
        ["MP+release+acquire"] = (false, () => Message(Order.Release, Order.Acquire)),
        ["MP+fences"] = (false, () => Message(Order.Plain, Order.Plain, fence: true)),
        ["MP+release+control"] = (true, MessageWithBranch),
        ["MP+release+address"] = (false, MessageWithAddress),
        ["SB"] = (true, () => StoreBuffer(Order.Plain, Order.Plain)),
        ["SB+release+acquire"] = (true, () => StoreBuffer(Order.Release, Order.Acquire)),
        ["SB+stlr+ldar"] = (false, () => StoreBuffer(Order.Release, Order.AcquireAfterRelease)),
        ["SB+fences"] = (false, () => StoreBuffer(Order.Plain, Order.Plain, fence: true)),
        ["SB+one fence"] = (true, () => StoreBuffer(Order.Plain, Order.Plain, fence: true, oneOnly: true)),
        ["SB+updates"] = (false, StoreBufferWithUpdates),
        ["SB+own store first"] = (true, StoreBufferWithOwnStore),
        ["LB"] = (true, () => LoadBuffer(Order.Plain, data: false, branch: false)),
        ["LB+acquires"] = (false, () => LoadBuffer(Order.Acquire, data: false, branch: false)),
        ["LB+data"] = (false, () => LoadBuffer(Order.Plain, data: true, branch: false)),
        ["LB+control"] = (false, () => LoadBuffer(Order.Plain, data: false, branch: true)),
        ["S"] = (true, () => StoreTest(Order.Plain, data: true)),
        ["S+release+data"] = (false, () => StoreTest(Order.Release, data: true)),
        ["S+release+none"] = (true, () => StoreTest(Order.Release, data: false)),
        ["R"] = (true, () => ReadTest(fence: false)),
        ["R+fences"] = (false, () => ReadTest(fence: true)),
        ["2+2W"] = (true, () => TwoWrites(Order.Plain)),
        ["2+2W+releases"] = (false, () => TwoWrites(Order.Release)),
        ["IRIW"] = (true, () => IndependentReads(Order.Plain)),
        ["IRIW+acquires"] = (false, () => IndependentReads(Order.Acquire)),
        ["WRC"] = (true, () => WriteToRead(Order.Plain)),
        ["WRC+release+acquire"] = (false, () => WriteToRead(Order.Release)),
        ["CoRR"] = (false, CoherentReads),
        ["CoRW"] = (false, CoherentReadAndWrite),
        ["CoWW"] = (false, CoherentWrites),
        ["PPOCA"] = (true, ReadOfASpeculatedStore),
        ["lost update"] = (false, () => Counter(atomic: true)),
        ["lost update without atomicity"] = (true, () => Counter(atomic: false)),
        ["release then plain store"] = (true, StoreAfterRelease),
        ["a sleeper without a signal"] = (true, Sleepers),
        ["a sleeper before a branch"] = (true, () => SleeperBeforeBranch(guessed: false)),
        ["a sleeper before a branch, with a guess"] = (false, () => SleeperBeforeBranch(guessed: true)),
        ["MP+fence+update that is left out"] =
            (true, () => MessageAroundBranch((b, own, _) => b.Update(own, v => v, Order.Full), taken: false)),
        ["MP+fence+update that runs"] = (false, () => MessageAroundBranch((b, own, _) => b.Update(own, v => v, Order.Full), taken: true)),
        ["MP+fence+fence that is left out"] = (true, () => MessageAroundBranch((b, _, _) => b.Fence(), taken: false)),
        ["MP+fence+fence that runs"] = (false, () => MessageAroundBranch((b, _, _) => b.Fence(), taken: true)),
        ["MP+fence+lock that is left out"] = (true, () => MessageAroundBranch((b, own, _) => b.Lock(own), taken: false)),
        ["MP+fence+lock that is taken"] = (false, () => MessageAroundBranch((b, own, _) => b.Lock(own), taken: true)),
        ["MP+fence+acquire that is left out"] = (true, () => MessageAroundBranch((b, own, _) => b.Load(own, Order.Acquire), taken: false)),
        ["MP+fence+store that is left out"] = (true, () => MessageAroundBranch((b, _, data) => b.Store(data, 0), taken: false)),
        ["LB+fence that is left out"] = (false, () => LoadBufferAroundBranch(false)),
        ["LB+store of a guessed value"] = (false, () => LoadBufferAroundBranch(true)),
        ["PPOCA after the branch"] = (true, () => ReadAfterASpeculatedStore(1)),
        ["PPOCA after a branch that is not taken"] = (false, () => ReadAfterASpeculatedStore(2)),
    };

    /// <summary>Names of the litmus tests.</summary>
    public static TheoryData<string> Names => [.. s_tests.Keys];

    [Theory]
    [MemberData(nameof(Names))]
    public void Explorer_finds_an_outcome_if_and_only_if_the_architecture_allows_it(string name)
    {
        (bool allowed, Func<MemoryProgram> make) = s_tests[name];
        string? found = Explorer.FindBad(make(), out int states);
        Assert.True(states > 1, "nothing was explored");
        Assert.True(!allowed || found != null, $"{name} is allowed, but no order leads to it");
        Assert.True(allowed || found == null, $"{name} is forbidden, but this order leads to it\n{found}");
    }

    private static MemoryProgram Message(Order write, Order read, bool fence = false)
    {
        MemoryProgram p = new();
        Location x = p.Location("x"), y = p.Location("y");
        ThreadProgram a = p.Thread("a"), b = p.Thread("b");
        a.Store(x, 1);
        if (fence) a.Fence();
        a.Store(y, 1, write);
        Register flag = b.Load(y, read);
        if (fence) b.Fence();
        Register data = b.Load(x);
        p.Bad = (r, _) => r[flag] == 1 && r[data] == 0;
        return p;
    }

    private static MemoryProgram MessageWithBranch()
    {
        MemoryProgram p = new();
        Location x = p.Location("x"), y = p.Location("y");
        ThreadProgram a = p.Thread("a"), b = p.Thread("b");
        a.Store(x, 1);
        a.Store(y, 1, Order.Release);
        Register flag = b.Load(y);
        Register data;
        using (b.When(r => r[flag] == 1, flag)) data = b.Load(x);
        p.Bad = (r, _) => r[data] == 0;
        return p;
    }

    private static MemoryProgram MessageWithAddress()
    {
        MemoryProgram p = new();
        Location other = p.Location("other", 7), x = p.Location("x"), y = p.Location("y");
        ThreadProgram a = p.Thread("a"), b = p.Thread("b");
        a.Store(x, 1);
        a.Store(y, 1, Order.Release);
        Register pointer = b.Load(y), data = b.Load([other, x], pointer);
        p.Bad = (r, _) => r[pointer] == 1 && r[data] == 0;
        return p;
    }

    private static MemoryProgram StoreBuffer(Order write, Order read, bool fence = false, bool oneOnly = false)
    {
        MemoryProgram p = new();
        Location x = p.Location("x"), y = p.Location("y");
        ThreadProgram a = p.Thread("a"), b = p.Thread("b");
        a.Store(x, 1, write);
        if (fence) a.Fence();
        Register fromA = a.Load(y, read);
        b.Store(y, 1, write);
        if (fence && !oneOnly) b.Fence();
        Register fromB = b.Load(x, read);
        p.Bad = (r, _) => r[fromA] == 0 && r[fromB] == 0;
        return p;
    }

    private static MemoryProgram StoreBufferWithUpdates()
    {
        MemoryProgram p = new();
        Location x = p.Location("x"), y = p.Location("y");
        ThreadProgram a = p.Thread("a"), b = p.Thread("b");
        a.Update(x, _ => 1, Order.Full);
        Register fromA = a.Load(y);
        b.Update(y, _ => 1, Order.Full);
        Register fromB = b.Load(x);
        p.Bad = (r, _) => r[fromA] == 0 && r[fromB] == 0;
        return p;
    }

    /// <summary>Each thread sees its own store before the other thread does: an acquire load of its own location is no fence.</summary>
    private static MemoryProgram StoreBufferWithOwnStore()
    {
        MemoryProgram p = new();
        Location x = p.Location("x"), y = p.Location("y");
        ThreadProgram a = p.Thread("a"), b = p.Thread("b");
        a.Store(x, 1);
        Register ownA = a.Load(x, Order.Acquire), fromA = a.Load(y);
        b.Store(y, 1);
        Register ownB = b.Load(y, Order.Acquire), fromB = b.Load(x);
        p.Bad = (r, _) => r[ownA] == 1 && r[ownB] == 1 && r[fromA] == 0 && r[fromB] == 0;
        return p;
    }

    private static MemoryProgram LoadBuffer(Order read, bool data, bool branch)
    {
        MemoryProgram p = new();
        Location x = p.Location("x"), y = p.Location("y");
        ThreadProgram a = p.Thread("a"), b = p.Thread("b");
        Register fromA = Half(a, x, y), fromB = Half(b, y, x);
        p.Bad = (r, _) => r[fromA] == 1 && r[fromB] == 1;
        return p;

        Register Half(ThreadProgram thread, Location from, Location to)
        {
            Register value = thread.Load(from, read);
            if (branch)
                using (thread.When(r => r[value] == 1, value)) thread.Store(to, 1);
            else if (data) thread.Store(to, r => r[value], [value]);
            else thread.Store(to, 1);
            return value;
        }
    }

    private static MemoryProgram StoreTest(Order write, bool data)
    {
        MemoryProgram p = new();
        Location x = p.Location("x"), y = p.Location("y");
        ThreadProgram a = p.Thread("a"), b = p.Thread("b");
        a.Store(x, 2);
        a.Store(y, 1, write);
        Register flag = b.Load(y);
        if (data) b.Store(x, r => r[flag], [flag]);
        else b.Store(x, 1);
        p.Bad = (r, memory) => r[flag] == 1 && memory[x.Index] == 2;
        return p;
    }

    private static MemoryProgram ReadTest(bool fence)
    {
        MemoryProgram p = new();
        Location x = p.Location("x"), y = p.Location("y");
        ThreadProgram a = p.Thread("a"), b = p.Thread("b");
        a.Store(x, 1);
        if (fence) a.Fence();
        a.Store(y, 1);
        b.Store(y, 2);
        if (fence) b.Fence();
        Register seen = b.Load(x);
        p.Bad = (r, memory) => memory[y.Index] == 2 && r[seen] == 0;
        return p;
    }

    private static MemoryProgram TwoWrites(Order second)
    {
        MemoryProgram p = new();
        Location x = p.Location("x"), y = p.Location("y");
        ThreadProgram a = p.Thread("a"), b = p.Thread("b");
        a.Store(x, 1);
        a.Store(y, 2, second);
        b.Store(y, 1);
        b.Store(x, 2, second);
        p.Bad = (_, memory) => memory[x.Index] == 1 && memory[y.Index] == 1;
        return p;
    }

    private static MemoryProgram IndependentReads(Order read)
    {
        MemoryProgram p = new();
        Location x = p.Location("x"), y = p.Location("y");
        p.Thread("a").Store(x, 1);
        p.Thread("b").Store(y, 1);
        ThreadProgram c = p.Thread("c"), d = p.Thread("d");
        Register firstC = c.Load(x, read), secondC = c.Load(y, read), firstD = d.Load(y, read), secondD = d.Load(x, read);
        p.Bad = (r, _) => r[firstC] == 1 && r[secondC] == 0 && r[firstD] == 1 && r[secondD] == 0;
        return p;
    }

    private static MemoryProgram WriteToRead(Order write)
    {
        MemoryProgram p = new();
        Location x = p.Location("x"), y = p.Location("y");
        p.Thread("a").Store(x, 1);
        ThreadProgram b = p.Thread("b"), c = p.Thread("c");
        Register first = b.Load(x);
        b.Store(y, 1, write);
        Register second = c.Load(y, write == Order.Plain ? Order.Plain : Order.Acquire), third = c.Load(x);
        p.Bad = (r, _) => r[first] == 1 && r[second] == 1 && r[third] == 0;
        return p;
    }

    private static MemoryProgram CoherentReads()
    {
        MemoryProgram p = new();
        Location x = p.Location("x");
        p.Thread("a").Store(x, 1);
        ThreadProgram b = p.Thread("b");
        Register first = b.Load(x), second = b.Load(x);
        p.Bad = (r, _) => r[first] == 1 && r[second] == 0;
        return p;
    }

    private static MemoryProgram CoherentReadAndWrite()
    {
        MemoryProgram p = new();
        Location x = p.Location("x");
        ThreadProgram a = p.Thread("a");
        Register read = a.Load(x);
        a.Store(x, 1);
        p.Bad = (r, _) => r[read] == 1;
        return p;
    }

    private static MemoryProgram CoherentWrites()
    {
        MemoryProgram p = new();
        Location x = p.Location("x");
        ThreadProgram a = p.Thread("a");
        a.Store(x, 1);
        a.Store(x, 2, Order.Release);
        p.Bad = (_, memory) => memory[x.Index] == 1;
        return p;
    }

    private static MemoryProgram ReadOfASpeculatedStore()
    {
        MemoryProgram p = new();
        Location x = p.Location("x"), y = p.Location("y"), z = p.Location("z"), other = p.Location("other", 7);
        ThreadProgram a = p.Thread("a"), b = p.Thread("b");
        a.Store(x, 1);
        a.Fence();
        a.Store(y, 1);
        Register flag = b.Load(y), data;
        using (b.When(r => r[flag] == 1, flag))
        {
            b.Store(z, 1);
            Register own = b.Load(z);
            data = b.Load([other, x], own);
        }
        p.Bad = (r, _) => r[data] == 0;
        return p;
    }

    private static MemoryProgram Counter(bool atomic)
    {
        MemoryProgram p = new();
        Location x = p.Location("x");
        foreach (string name in (string[])["a", "b"])
        {
            ThreadProgram thread = p.Thread(name);
            if (atomic)
            {
                thread.Update(x, value => value + 1, Order.Plain);
                continue;
            }
            Register before = thread.Load(x);
            thread.Store(x, r => r[before] + 1, [before]);
        }
        p.Bad = (_, memory) => memory[x.Index] != 2;
        return p;
    }

    /// <summary>A release does not hold back later instructions.</summary>
    private static MemoryProgram StoreAfterRelease()
    {
        MemoryProgram p = new();
        Location x = p.Location("x"), y = p.Location("y");
        ThreadProgram a = p.Thread("a"), b = p.Thread("b");
        a.Store(x, 1, Order.Release);
        a.Store(y, 1);
        Register flag = b.Load(y, Order.Acquire), data = b.Load(x);
        p.Bad = (r, _) => r[flag] == 1 && r[data] == 0;
        return p;
    }

    private static MemoryProgram Sleepers()
    {
        MemoryProgram p = new();
        Location wakeUp = p.Location("wakeUp");
        Register woken = p.Thread("a").Sleep(wakeUp);
        p.Thread("b").Load(wakeUp);
        p.Bad = (r, _) => !r.Has(woken);
        return p;
    }

    /// <summary>The branch ends before the data is read. Only an instruction inside the branch can order the two reads.</summary>
    private static MemoryProgram MessageAroundBranch(Action<ThreadProgram, Location, Location> inside, bool taken)
    {
        MemoryProgram p = new();
        Location x = p.Location("x"), y = p.Location("y"), own = p.Location("own");
        ThreadProgram a = p.Thread("a"), b = p.Thread("b");
        a.Store(y, 1);
        a.Fence();
        a.Store(x, 2);
        Register flag = b.Load(x);
        using (b.When(r => r[flag] == (taken ? 2 : 1), flag)) inside(b, own, y);
        Register data = b.Load(y);
        p.Bad = (r, _) => r[flag] == 2 && r[data] == 0;
        return p;
    }

    /// <summary>A store after a branch does not run before the branch is decided, nor with a guessed value.</summary>
    private static MemoryProgram LoadBufferAroundBranch(bool guess)
    {
        MemoryProgram p = new();
        Location x = p.Location("x"), y = p.Location("y"), z = p.Location("z");
        ThreadProgram a = p.Thread("a"), b = p.Thread("b");
        Register first = a.Load(x);
        using (a.When(r => r[first] == 1, first))
        {
            if (guess) a.Store(z, 1);
            else a.Fence();
        }
        Register own = a.Load(z);
        a.Store(y, r => r[own] + 1, [own]);
        Register second = b.Load(y, Order.Acquire);
        b.Store(x, 2);
        p.Bad = (r, _) => r[first] == 2 && r[second] == 1;
        return p;
    }

    /// <summary>PPOCA, with the reads after the branch instead of inside it.</summary>
    private static MemoryProgram ReadAfterASpeculatedStore(int wanted)
    {
        MemoryProgram p = new();
        Location x = p.Location("x"), y = p.Location("y"), z = p.Location("z"), other = p.Location("other");
        ThreadProgram a = p.Thread("a"), b = p.Thread("b");
        a.Store(x, 1);
        a.Fence();
        a.Store(y, 1);
        Register flag = b.Load(y);
        using (b.When(r => r[flag] == wanted, flag)) b.Store(z, 1);
        Register own = b.Load(z), data = b.Load([other, x], own);
        p.Bad = (r, _) => r[flag] == 1 && r[own] == 1 && r[data] == 0;
        return p;
    }

    /// <summary>
    /// A load that could only run on a guess does not keep a thread that sleeps for ever from ending. The final state does not show it.
    /// </summary>
    private static MemoryProgram SleeperBeforeBranch(bool guessed)
    {
        MemoryProgram p = new();
        Location wakeUp = p.Location("wakeUp"), x = p.Location("x");
        ThreadProgram a = p.Thread("a");
        Register woken = a.Sleep(wakeUp);
        using (a.When(r => r.Has(woken), woken)) a.Fence();
        Register data = a.Load(x);
        p.Thread("b").Load(wakeUp);
        p.Bad = (r, _) => !r.Has(woken) && r.Has(data) == guessed;
        return p;
    }
}
