using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Text.RegularExpressions;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Block.MemoryOrder;

/// <summary>
/// The protocols without a lock hold under every order that the memory model allows, and each of their barriers is needed or says why it
/// is there; docs/memory-order.md lists them. Stress would prove nothing here: an x86 machine orders more than arm64, also where it
/// emulates one.
/// </summary>
public sealed class ProtocolTests
{
    private static readonly string s_document = File.ReadAllText(Path.Combine(Binary.Root, "docs", "memory-order.md"));

    /// <summary>All protocols, by name.</summary>
    public static TheoryData<string> Names => [.. Protocols.All.Select(protocol => protocol.Name)];

    /// <summary>All barriers of each.</summary>
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
    public void It_holds_in_every_order(string name)
    {
        string? found = Explorer.FindBad(Find(name).Make(new Barriers()), out int states);
        Assert.True(found == null, found);
        Assert.True(states > 5, $"only {states} states");
    }

    [Theory]
    [MemberData(nameof(Removals))]
    public void Without_one_barrier_it_fails_unless_that_one_says_why_it_is_there(string name, string barrier)
    {
        Protocol protocol = Find(name);
        string? found = Explorer.FindBad(protocol.Make(new Barriers(barrier)));
        bool needed = !protocol.NotNeeded.ContainsKey(barrier);
        Assert.True(needed == (found != null), needed ? "no order shows a fault" : $"it is needed after all:\n{found}");
    }

    [Fact]
    public void What_is_said_not_to_be_needed_is_there()
    {
        foreach (Protocol protocol in Protocols.All) Assert.Empty(protocol.NotNeeded.Keys.Except(BarriersOf(protocol)));
    }

    /// <summary>A store with release is not enough where a flag is taken back and work is looked for: the look may come first.</summary>
    [Fact]
    public void A_signal_that_is_taken_by_a_volatile_write_is_lost()
    {
        Assert.Null(Explorer.FindBad(Protocols.WakeUps(new Barriers())));
        Assert.NotNull(Explorer.FindBad(Protocols.WakeUps(new Barriers(), takenByStore: true)));
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void The_source_has_the_barriers_that_the_model_has(string name)
    {
        foreach (Source source in Find(name).Sources)
        {
            string text = Member(source);
            int at = 0;
            foreach (string pattern in source.Patterns)
            {
                Match match = new Regex(pattern, RegexOptions.Singleline).Match(text, at);
                Assert.True(match.Success, $"{source.File}: {source.Member} has no {pattern} any more, or not at this place:\n{text}");
                at = match.Index + match.Length;
            }
        }
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void A_shared_field_is_used_with_its_barriers_only(string name)
    {
        foreach ((string file, string field, string[] plainUses) in Find(name).Fields)
        {
            int uses = 0;
            foreach (string line in File.ReadLines(Path.Combine(Binary.Root, file)))
            {
                string code = line.Split("//")[0];
                // Declarations, and the constructor's assignment of a pointer.
                if (Regex.IsMatch(code, $@"^\s*private .*\b{field}\b( =|;)") || Regex.IsMatch(code, $@"^\s*{field} = \(uint\*\)")) continue;
                string rest = Regex.Replace(code, $@"(Volatile|Interlocked)\.\w+\(ref \*?{field}\b", "");
                uses += code == rest ? 0 : 1;
                if (!Regex.IsMatch(rest, $@"\b{field}\b")) continue;
                bool known = Array.Exists(plainUses, plain => Regex.IsMatch(code, plain));
                Assert.True(known, $"{file} uses {field} without a barrier: {line.Trim()}");
            }
            Assert.True(uses >= 1, $"{file} has {uses} uses of {field} with a barrier: is that still its name?");
        }
    }

    [Fact]
    public void The_document_names_every_protocol_and_every_file_that_has_a_barrier()
    {
        foreach (Protocol protocol in Protocols.All)
            foreach (string name in BarriersOf(protocol).Append(protocol.Name)) Assert.Contains(name, s_document);
        const string barrier = @"\b(Volatile\.|Interlocked\.|MemoryBarrier|ThreadStatic|atomic_|volatile (?!char)\w+ \w+)";
        string[] files = [.. new[] { "src", "interop" }
            .SelectMany(folder => Directory.EnumerateFiles(Path.Combine(Binary.Root, folder), "*", SearchOption.AllDirectories))
            .Where(file => file.EndsWith(".cs", StringComparison.Ordinal) || file.EndsWith(".c", StringComparison.Ordinal))
            .Where(file => !file.Contains("/obj/", StringComparison.Ordinal) && !file.Contains("/bin/", StringComparison.Ordinal))
            .Where(file => Regex.IsMatch(File.ReadAllText(file), barrier))
            .Select(file => Path.GetFileName(file))];
        Assert.True(files.Length > 20, $"only {files.Length} files: the pattern finds nothing any more");
        foreach (string file in files)
            Assert.True(s_document.Contains(file, StringComparison.Ordinal), $"docs/memory-order.md does not name {file}");
    }

    /// <summary>The text from where the member begins to the end of its body.</summary>
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
