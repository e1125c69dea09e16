using System.Collections.Generic;
using System.IO;
using Snapuserd.Block;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>Not parallel, because every process started during a claim inherits it, including those of other tests.</summary>
[CollectionDefinition(nameof(ClaimTests), DisableParallelization = true)]
[Collection(nameof(ClaimTests))]
public sealed class ClaimTests
{
    [RootFact]
    public void Claimed_storage_is_76_for_other_processes_and_free_for_a_child()
    {
        using TempFolder folder = new();
        (string cow, string target) = (folder["cow"], folder["base"]);
        File.WriteAllBytes(cow, Golden.Cow("v3-lz4-4k-xor"));
        File.WriteAllBytes(target, Golden.Old);
        using StorageClaim claim = StorageClaim.Take(cow, target, folder["missing"]);
        using LoopDevice window = new(target);
        string[][] rivals =
        [
            ["merge", "--cow", cow, "--base", target],
            ["merge", "--cow", cow, "--base", window.Path],
            ["create", "--source", target, "--target", cow, "--output", folder["out"]],
        ];
        foreach (string[] rival in rivals)
        {
            BinaryResult refused = Binary.Run(rival);
            Assert.True(refused.ExitCode == 76, refused.ToString());
        }
        Assert.Equal(Golden.Old, File.ReadAllBytes(target));
        BinaryResult child = Binary.RunProgram(Binary.Path, rivals[0],
            new Dictionary<string, string> { [InheritedHolds.Variable] = InheritedHolds.ForChild([]) });
        Assert.True(child.ExitCode == 0, child.ToString());
        Assert.Equal(Golden.New, File.ReadAllBytes(target));
    }
}
