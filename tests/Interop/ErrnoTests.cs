using System;
using System.Collections.Generic;
using System.Globalization;
using System.Linq;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Interop;

/// <summary>The errno names and texts against the C library. <see cref="AbiTests"/> checks the values with all other constants.</summary>
public sealed partial class ErrnoTests
{
    [GeneratedRegex(@"^#define (E[A-Z0-9]+) ([0-9]+)$", RegexOptions.Multiline)]
    private static partial Regex Definition();

    /// <summary>Every number in errno.h. A second name of a number is defined by the first name and not listed.</summary>
    private static Dictionary<int, string> Header()
    {
        BinaryResult result =
            Binary.RunProgram("/bin/sh", ["-c", "echo '#include <errno.h>' | $(command -v cc clang gcc | head -n 1) -E -dM -"]);
        Assert.True(result.ExitCode == 0, result.ToString());
        return Definition().Matches(result.Output).ToDictionary(match => int.Parse(match.Groups[2].ValueSpan, CultureInfo.InvariantCulture),
            match => match.Groups[1].Value);
    }

    [Fact]
    public void Every_errno_of_the_C_headers_has_its_name_and_the_text_of_strerror()
    {
        Dictionary<int, string> header = Header();
        Assert.True(header.Count > 130, $"only {header.Count} definitions found");
        foreach ((int number, string name) in header)
        {
            Assert.Equal((name, name), (Errno.Name(number), Errno.Name(-number)));
            Assert.Equal(Marshal.GetPInvokeErrorMessage(number), Errno.Text(number), ignoreCase: true);
            Assert.Equal(Errno.Text(number), Errno.Text(-number));
        }
    }

    [Fact]
    public void Number_without_a_name_is_printed_without_a_text()
    {
        Dictionary<int, string> header = Header();
        foreach (int number in (int[])[0, 41, 58, 134, 511, 512, 530, 4095])
        {
            Assert.DoesNotContain(number, header.Keys);
            Assert.Equal($"errno {number}", Errno.Name(-number));
            Assert.Null(Errno.Text(number));
        }
    }

    [Fact]
    public void Internal_errnos_that_the_kernel_returns_by_mistake_have_a_name() =>
        Assert.Equal(("ENOTSUPP", true), (Errno.Name(-524), Errno.IsUnsupported(-524)));

    [Fact]
    public void Descriptor_with_the_number_of_an_errno_is_not_an_error()
    {
        Assert.All([Errno.ENOMEM, Errno.ENFILE, Errno.EMFILE], errno =>
        {
            Assert.True(Errno.IsOutOfResources(-errno));
            Assert.False(Errno.IsOutOfResources(errno));
        });
        Assert.All([Errno.ENOSYS, Errno.ENOTTY, Errno.EOPNOTSUPP], errno =>
        {
            Assert.True(Errno.IsUnsupported(-errno));
            Assert.False(Errno.IsUnsupported(errno));
        });
    }
}
