using System.Linq;
using System.Reflection;
using Snapuserd.Block;
using Snapuserd.Interop;
using Xunit;

namespace Snapuserd.Tests.Block;

/// <summary>The text for an errno.</summary>
public sealed class ErrnoTextTests
{
    [Fact]
    public void Text_contains_the_name_of_the_errno_of_either_sign()
    {
        FieldInfo[] all = typeof(Errno).GetFields(BindingFlags.Public | BindingFlags.Static).Where(field => field.IsLiteral).ToArray();
        Assert.True(all.Length > 30);
        foreach (FieldInfo field in all)
        {
            int errno = (int)field.GetRawConstantValue()!;
            Assert.Contains(field.Name, ErrnoText.Of(errno));
            Assert.Equal(ErrnoText.Of(errno), ErrnoText.Of(-errno));
        }
    }

    [Fact]
    public void Failures_with_different_remedies_have_different_texts()
    {
        int[] errnos = [Errno.ENOENT, Errno.ENOTDIR, Errno.ELOOP, Errno.ENAMETOOLONG, Errno.EMFILE, Errno.ENFILE, Errno.ENOMEM,
            Errno.ENOSPC, Errno.EFBIG, Errno.EROFS, Errno.EACCES, Errno.EIO];
        string[] words = errnos.Select(errno => ErrnoText.Of(errno).Split('(')[0]).ToArray();
        Assert.Equal(words.Distinct(), words);
        Assert.Equal("errno 4095", ErrnoText.Of(4095));
        Assert.Equal("invalid argument (EINVAL)", ErrnoText.Of(-Errno.EINVAL));
        Assert.Equal("too many open files (EMFILE; see ulimit -n)", ErrnoText.Of(-Errno.EMFILE));
    }
}
