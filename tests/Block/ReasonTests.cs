using System.Linq;
using System.Reflection;
using Snapuserd.Block;
using Snapuserd.Interop;
using Xunit;

namespace Snapuserd.Tests.Block;

/// <summary>The text for an errno.</summary>
public sealed class ReasonTests
{
    [Fact]
    public void Every_errno_keeps_its_name_in_the_sentence_whatever_its_sign()
    {
        FieldInfo[] all = typeof(Errno).GetFields(BindingFlags.Public | BindingFlags.Static).Where(field => field.IsLiteral).ToArray();
        Assert.True(all.Length > 30);
        foreach (FieldInfo field in all)
        {
            int errno = (int)field.GetRawConstantValue()!;
            Assert.Contains(field.Name, Reason.Of(errno));
            Assert.Equal(Reason.Of(errno), Reason.Of(-errno));
        }
    }

    [Fact]
    public void Failures_with_different_remedies_have_different_words()
    {
        int[] errnos = [Errno.ENOENT, Errno.ENOTDIR, Errno.ELOOP, Errno.ENAMETOOLONG, Errno.EMFILE, Errno.ENFILE, Errno.ENOMEM, Errno.ENOSPC, Errno.EFBIG, Errno.EROFS, Errno.EACCES, Errno.EIO];
        string[] words = errnos.Select(errno => Reason.Of(errno).Split('(')[0]).ToArray();
        Assert.Equal(words.Distinct(), words);
        Assert.Equal("the system answered errno 4095", Reason.Of(4095));
    }
}
