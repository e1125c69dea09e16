using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// Starts in address spaces in which the .NET runtime with its default settings does not start. By default the runtime reserves twice the
/// machine's memory, up to 256 GiB. A sandbox, or a kernel with 36 or 39 address bits, may offer less (src/Collector.props). On this
/// machine's architecture a filter refuses every mapping beyond a size; the emulator of another architecture gets a smaller space.
/// RLIMIT_AS cannot be used here, because the runtime reads it and reserves less.
/// </summary>
public sealed class AddressSpaceTests
{
    private const string Vector = "v3-zstd-4k-xor";

    private static string[] Small => Binary.IsEmulated ? ["0x4000000000", "0x1000000000"] : ["1073741824"];

    /// <summary>Every small address space, with the command that must start there.</summary>
    public static TheoryData<string, string> Starts
    {
        get
        {
            TheoryData<string, string> starts = [];
            foreach (string space in Small)
            {
                starts.Add(space, "version");
                starts.Add(space, "help");
                starts.Add(space, "inspect COW");
                starts.Add(space, "merge --io sync --cow COW --base BASE --progress never");
                starts.Add(space, "create --source BASE --target NEW --output OUTPUT --progress never");
            }
            return starts;
        }
    }

    [Theory]
    [MemberData(nameof(Starts))]
    public void Verb_works_in_a_small_address_space(string space, string words)
    {
        using TempFolder folder = new();
        BinaryResult result = Run(folder, space, words);
        Assert.True(result.ExitCode == 0, result.ToString());
        if (words.StartsWith("merge", StringComparison.Ordinal)) Assert.Equal(Golden.New, File.ReadAllBytes(folder["base"]));
        else if (words.StartsWith("create", StringComparison.Ordinal)) Assert.True(new FileInfo(folder["output"]).Length > 4096);
        else Assert.NotEmpty(result.Output);
    }

    /// <summary>The limit takes effect: with less than the program reserves, it does not start and reports why.</summary>
    [Fact]
    public void Too_small_an_address_space_is_71()
    {
        using TempFolder folder = new();
        BinaryResult result = Run(folder, Binary.IsEmulated ? "0x4000000" : "33554432", "version");
        Assert.Equal(71, result.ExitCode);
        Assert.Matches("^snapuserd: the .NET runtime cannot start: [^\\n]+\\n$", result.Error);
    }

    private static BinaryResult Run(TempFolder folder, string space, string words)
    {
        File.WriteAllBytes(folder["cow"], Golden.Cow(Vector));
        File.WriteAllBytes(folder["base"], Golden.Old);
        File.WriteAllBytes(folder["new"], Golden.New);
        IEnumerable<string> arguments = words.Split(' ')
            .Select(word => word is "COW" or "BASE" or "NEW" or "OUTPUT" ? folder[word.ToLowerInvariant()] : word);
        // qemu-user reads its option -R from this variable, even if another program starts it.
        if (Binary.IsEmulated)
            return Binary.RunProgram(Binary.Path, arguments, new Dictionary<string, string> { ["QEMU_RESERVED_VA"] = space });
        return Binary.RunProgram(CProgram.Compile("Support", "refuse"), ["map", space, Binary.Path, .. arguments]);
    }
}
