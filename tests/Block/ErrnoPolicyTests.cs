using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Reflection;
using System.Text.RegularExpressions;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Block;

/// <summary>The exit code of every errno, and that no other file maps an errno to an exit code.</summary>
public sealed class ErrnoPolicyTests
{
    /// <summary>
    /// The codes as docs/exit-codes.md has them, in the order of <see cref="FailedCall"/>. "*" is every errno not listed.
    /// </summary>
    private const string Table = """
                         Open Create OpenDriver Command Lock Mount
        EMFILE             71     71         71      71   71    71
        ENFILE             71     71         71      71   71    71
        ENOMEM             71     71         71      71   71    71
        EACCES             77     73         77      77   77    77
        EPERM              77     73         77      77   77    77
        EROFS              77     73         77      77   77    77
        EBUSY              76     76         76      76   77    76
        ETXTBSY            76     76         76      76   77    76
        ENOENT             66     73         69      66   77    74
        ENOTDIR            66     73         69      66   77    74
        ENXIO              66     73         69      66   77    74
        ENODEV             66     73         69      66   77    69
        ENOMEDIUM          66     73         74      74   77    74
        ELOOP              66     73         74      74   77    74
        ENAMETOOLONG       66     64         74      74   77    74
        ECONNREFUSED       66     73         74      74   77    74
        EAFNOSUPPORT       66     73         69      69   77    74
        EPROTONOSUPPORT    74     73         69      69   77    74
        EINVAL             64     64         69      69   77    65
        ENOSYS             74     73         69      69   77    69
        EOPNOTSUPP         74     73         69      69   77    74
        ENOTTY             74     73         69      69   77    74
        EEXIST             74     73         76      76   77    74
        EADDRINUSE         74     76         74      74   77    74
        EUCLEAN            74     73         74      74   77    65
        EBADMSG            74     73         74      74   77    65
        ENOSPC             74     73         71      71   71    74
        ENOLCK             74     73         74      74   71    74
        EAGAIN             74     73         74      74   76    74
        *                  74     73         74      74   77    74
        """;

    /// <summary>
    /// Files with statements that name both an errno and an exit code without mapping one to the other. The errno there is not a failure,
    /// or says that a ring is unavailable or has no memory.
    /// </summary>
    private static readonly string[] s_other =
        ["src/Block/BlockDevice.cs", "src/Block/SharedCaches.cs", "src/Merge/Devices/EngineResources.cs"];

    [Fact]
    public void Every_errno_has_the_exit_code_of_the_table_for_every_call()
    {
        string[][] rows = [.. Table.Split('\n').Select(line => line.Split(' ', StringSplitOptions.RemoveEmptyEntries))];
        FailedCall[] calls = [.. rows[0].Select(Enum.Parse<FailedCall>)];
        Assert.Equal(Enum.GetValues<FailedCall>(), calls);
        Dictionary<string, string[]> codes = rows[1..].ToDictionary(row => row[0], row => row[1..]);
        FieldInfo[] all = [.. typeof(Errno).GetFields(BindingFlags.Public | BindingFlags.Static).Where(field => field.IsLiteral)];
        Assert.Empty(codes.Keys.Except(all.Select(field => field.Name).Append("*")));
        foreach (FieldInfo field in all)
        {
            int errno = (int)field.GetRawConstantValue()!;
            string[] expected = codes.GetValueOrDefault(field.Name, codes["*"]);
            for (int i = 0; i < calls.Length; i++)
            {
                Assert.Equal((field.Name, calls[i], expected[i]), (field.Name, calls[i], $"{(int)ErrnoPolicy.CodeOf(calls[i], errno)}"));
                Assert.Equal(ErrnoPolicy.CodeOf(calls[i], errno), ErrnoPolicy.CodeOf(calls[i], -errno));
            }
        }
    }

    [Fact]
    public void Failure_names_what_failed_and_the_reason()
    {
        SnapuserdException failure = ErrnoPolicy.Failure(FailedCall.Create, -Errno.EROFS, "cannot create x");
        Assert.Equal((ExitCode.CannotCreate, $"cannot create x: {ErrnoText.Of(Errno.EROFS)}"), (failure.Code, failure.Message));
    }

    [Fact]
    public void No_other_file_maps_an_errno_to_an_exit_code()
    {
        string source = Path.Combine(Binary.Root, "src");
        List<string> mapping = [];
        foreach (string path in Directory.EnumerateFiles(source, "*.cs", SearchOption.AllDirectories))
        {
            string name = Path.GetRelativePath(Binary.Root, path);
            if (!name.Contains("/obj/", StringComparison.Ordinal) && MapsErrno(File.ReadAllText(path))) mapping.Add(name);
        }
        mapping.Sort(StringComparer.Ordinal);
        Assert.Equal([.. s_other.Append("src/Block/Failures/ErrnoPolicy.cs").Order(StringComparer.Ordinal)], mapping);
    }

    [Theory]
    [InlineData("ExitCode code = result == -Errno.EIO ? ExitCode.InputOutput : ExitCode.Internal;")]
    [InlineData("throw result switch\n{\n    -Errno.EPERM =>\n        new SnapuserdException(ExitCode.Permission, \"no; never\"),\n};")]
    [InlineData("if (Errno.IsOutOfResources(fd)) throw new SnapuserdException(ExitCode.OutOfResources, \"x\");")]
    public void Planted_mapping_is_found(string code) => Assert.True(MapsErrno(code));

    [Theory]
    [InlineData("if (fd == -Errno.ENOENT) return null; throw new SnapuserdException(ExitCode.Usage, \"x\");")]
    [InlineData("throw new SnapuserdException(ExitCode.InputOutput, $\"x: {Errno.Name(fd)}\"); // Errno.EIO")]
    [InlineData("throw new SnapuserdException(ErrnoPolicy.CodeOf(FailedCall.Open, fd), fd == -Errno.EIO ? \"x\" : \"y\");")]
    public void Code_without_a_mapping_is_accepted(string code) => Assert.False(MapsErrno(code));

    /// <summary>True if a statement, without comments and strings, names both an errno and an exit code.</summary>
    private static bool MapsErrno(string source)
    {
        string code = Regex.Replace(Regex.Replace(source, "//.*", ""), @"\$?""(\\.|[^""\\])*""", "");
        return code.Split(';')
            .Any(statement => Regex.IsMatch(statement, @"\bErrno\.(E[A-Z]|Is)") && Regex.IsMatch(statement, @"\bExitCode\.[A-Z]"));
    }
}
