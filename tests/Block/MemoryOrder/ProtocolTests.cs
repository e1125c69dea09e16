using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Text.RegularExpressions;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Block.MemoryOrder;

/// <summary>
/// The lock-free protocols hold under every order that the memory model allows. Each of their barriers is needed, or has a stated reason;
/// docs/memory-order.md lists them. A stress test would prove nothing here, because an x86 machine orders more than arm64 does, even when
/// it emulates arm64.
/// </summary>
public sealed class ProtocolTests
{
    private static readonly string s_document = File.ReadAllText(Path.Combine(Binary.Root, "docs", "memory-order.md"));

    /// <summary>
    /// The number of uses of Volatile, Interlocked and atomics in each file. docs/memory-order.md gives the reason for each use.
    /// </summary>
    private static readonly Dictionary<string, int> s_barriers = new()
    {
        ["interop/Entry/EndSignals.cs"] = 1,
        ["interop/Entry/entry.c"] = 1,
        ["interop/Entry/signals.c"] = 9,
        ["interop/IoUring/Ring.cs"] = 9,
        ["src/Block/FileFlush.cs"] = 1,
        ["src/Block/Identity/KernelTree.cs"] = 2,
        ["src/Block/StopFlag.cs"] = 2,
        ["src/Block/WakeUp.cs"] = 3,
        ["src/Block/WorkQueue.cs"] = 3,
        ["src/Create/AnchorTable.cs"] = 7,
        ["src/Create/FileImageReader.cs"] = 2,
        ["src/Create/NativeArray.cs"] = 3,
        ["src/Control/ControlServer.cs"] = 12,
        ["src/Control/ReadFailures.cs"] = 1,
        ["src/Control/SnapshotSet.cs"] = 6,
        ["src/Merge/ReaderGate.cs"] = 9,
        ["src/Serve/DmUser/DmUserServer.cs"] = 2,
        ["src/Serve/DmUser/DmUserWorker.cs"] = 3,
        ["src/Serve/Nbd/NbdConnection.cs"] = 3,
        ["src/Serve/Nbd/NbdExport.cs"] = 9,
        ["src/Serve/Nbd/NbdServer.cs"] = 7,
        ["src/Serve/SnapshotView.cs"] = 7,
        ["src/Serve/Ublk/UblkServer.cs"] = 5,
        ["src/AndroidDaemon/UpdateVerifier.cs"] = 6,
    };

    /// <summary>All protocols, by name.</summary>
    public static TheoryData<string> Names => [.. Protocols.All.Select(protocol => protocol.Name)];

    /// <summary>Every barrier of every protocol.</summary>
    public static TheoryData<string, string> Removals
    {
        get
        {
            TheoryData<string, string> removals = [];
            foreach (Protocol protocol in Protocols.All)
                foreach (string barrier in BarriersOf(protocol)) removals.Add(protocol.Name, barrier);
            return removals;
        }
    }

    private static IEnumerable<string> BarriersOf(Protocol protocol)
    {
        Barriers barriers = new();
        _ = protocol.Make(barriers);
        return barriers.Names.Distinct();
    }

    private static Protocol Find(string name) => Protocols.All.Single(protocol => protocol.Name == name);

    [Theory]
    [MemberData(nameof(Names))]
    public void Protocol_holds_in_every_order(string name)
    {
        string? found = Explorer.FindBad(Find(name).Make(new Barriers()), out int states);
        Assert.True(found == null, found);
        Assert.True(states > 5, $"only {states} states");
    }

    [Theory]
    [MemberData(nameof(Removals))]
    public void Protocol_fails_without_a_barrier_unless_the_barrier_is_listed_as_not_needed(string name, string barrier)
    {
        Protocol protocol = Find(name);
        string? found = Explorer.FindBad(protocol.Make(new Barriers(barrier)));
        bool needed = !protocol.NotNeeded.ContainsKey(barrier);
        Assert.True(needed == (found != null),
            needed ? "the model holds without the barrier" : $"the barrier is needed, but listed as not needed:\n{found}");
    }

    [Fact]
    public void Every_barrier_listed_as_not_needed_exists()
    {
        foreach (Protocol protocol in Protocols.All) Assert.Empty(protocol.NotNeeded.Keys.Except(BarriersOf(protocol)));
    }

    /// <summary>
    /// A release store is not enough for a thread that clears a flag and then looks for work: the load of the work may run before the
    /// store.
    /// </summary>
    [Fact]
    public void Signal_taken_by_a_volatile_write_can_be_lost()
    {
        Assert.Null(Explorer.FindBad(Protocols.WakeUps(new Barriers())));
        Assert.NotNull(Explorer.FindBad(Protocols.WakeUps(new Barriers(), takenByStore: true)));
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Source_has_the_barriers_of_the_model(string name)
    {
        foreach (Source source in Find(name).Sources)
        {
            string text = Member(source);
            int at = 0;
            foreach (string pattern in source.Patterns)
            {
                Match match = new Regex(pattern, RegexOptions.Singleline).Match(text, at);
                Assert.True(match.Success, $"{source.File}: {source.Member} does not have {pattern} after the preceding patterns:\n{text}");
                at = match.Index + match.Length;
            }
        }
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Shared_field_is_used_only_with_its_barriers(string name)
    {
        foreach ((string file, string field, string[] plainUses) in Find(name).Fields)
        {
            int uses = 0;
            foreach (string line in File.ReadLines(Path.Combine(Binary.Root, file)))
            {
                string code = line.Split("//")[0];
                // Skips declarations, and the constructor's assignment of a pointer.
                if (Regex.IsMatch(code, $@"^\s*private .*\b{field}\b( =|;)") || Regex.IsMatch(code, $@"^\s*{field} = \(uint\*\)")) continue;
                string rest = Regex.Replace(code, $@"(Volatile|Interlocked)\.\w+\(ref \*?{field}\b", "");
                uses += code == rest ? 0 : 1;
                if (!Regex.IsMatch(rest, $@"\b{field}\b")) continue;
                bool known = Array.Exists(plainUses, plain => Regex.IsMatch(code, plain));
                Assert.True(known, $"{file} uses {field} without a barrier: {line.Trim()}");
            }
            Assert.True(uses >= 1, $"{file} has {uses} uses of {field} with a barrier: was the field renamed?");
        }
    }

    [Fact]
    public void Document_names_every_protocol_and_every_file_with_a_barrier()
    {
        foreach (Protocol protocol in Protocols.All)
            foreach (string name in BarriersOf(protocol).Append(protocol.Name)) Assert.Contains(name, s_document);
        foreach (string path in s_barriers.Keys)
            Assert.Contains(Path.GetFileName(path), s_document);
    }

    /// <summary>
    /// Fails on any new use, also in a listed file, until the table above counts it. The change that counts it also describes it in the
    /// document.
    /// </summary>
    [Fact]
    public void Every_use_of_a_barrier_is_counted()
    {
        const string barrier = @"\b(Volatile\.|Interlocked\.|MemoryBarrier|ThreadStatic|atomic_(?!int\b)|volatile (?!char)\w+ \w+)";
        SortedDictionary<string, int> found = new(StringComparer.Ordinal);
        foreach (string folder in (string[])["interop", "src"])
        {
            foreach (string file in Directory.EnumerateFiles(Path.Combine(Binary.Root, folder), "*", SearchOption.AllDirectories))
            {
                string path = Path.GetRelativePath(Binary.Root, file);
                if (!Regex.IsMatch(path, @"\.cs?$") || Regex.IsMatch(path, "/(obj|bin)/")) continue;
                int uses = File.ReadLines(file).Sum(line => Regex.Count(line.Split("//")[0], barrier));
                if (uses > 0) found.Add(path, uses);
            }
        }
        string[] differing = [.. found.Keys.Union(s_barriers.Keys)
            .Where(path => found.GetValueOrDefault(path) != s_barriers.GetValueOrDefault(path))
            .Select(path => $"{path}: {found.GetValueOrDefault(path)} uses, {s_barriers.GetValueOrDefault(path)} in this table")];
        Assert.True(differing.Length == 0,
            "describe these uses in docs/memory-order.md, then correct this table:\n" + string.Join('\n', differing));
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Member_that_relies_on_the_lock_of_its_callers_has_no_new_caller(string name)
    {
        foreach ((string file, string member, int times) in Find(name).Mentions)
        {
            string mention = $@"(?<![\w.]){member}\(";
            int found = File.ReadLines(Path.Combine(Binary.Root, file)).Sum(line => Regex.Count(line.Split("//")[0], mention));
            Assert.True(found == times, $"{file} mentions {member} {found} times, not {times}: which lock does the new caller hold?");
        }
    }

    /// <summary>The source text of a member, from the given beginning to the end of its body.</summary>
    private static string Member(Source source)
    {
        string text = File.ReadAllText(Path.Combine(Binary.Root, source.File));
        int start = text.IndexOf(source.Member, StringComparison.Ordinal);
        Assert.True(start >= 0, $"{source.File} has no {source.Member}");
        bool once = text.IndexOf(source.Member, start + 1, StringComparison.Ordinal) < 0;
        Assert.True(once, $"{source.File} has {source.Member} more than once");
        int depth = 0;
        for (int i = start; i < text.Length; i++)
        {
            if (text[i] == '{') depth++;
            if ((text[i] == ';' && depth == 0) || (text[i] == '}' && --depth == 0)) return text[start..(i + 1)];
        }
        throw new InvalidDataException($"{source.File}: {source.Member} does not end");
    }
}
