using System.IO;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// Links that another user has planted under names that the program itself chooses. The program opens these with O_NOFOLLOW, whose number
/// differs between architectures.
/// </summary>
public sealed class LinkTests
{
    [Fact]
    public void Link_under_the_name_of_the_marker_of_a_begun_merge_is_not_followed()
    {
        using TempFolder folder = new();
        string cow = folder["cow"], link = cow + ".merging";
        File.WriteAllBytes(cow, Golden.Cow("v3-lz4-64k-xor"));
        File.WriteAllBytes(folder["base"], Golden.Old);
        // An empty file would be accepted as the marker, which is removed when the merge is done.
        File.WriteAllText(folder["other"], "");
        File.CreateSymbolicLink(link, folder["other"]);
        BinaryResult result = Binary.Run("merge", "--cow", cow, "--base", folder["base"], "--progress", "never");
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Equal(folder["other"], File.ResolveLinkTarget(link, returnFinalTarget: false)?.FullName);
    }
}
