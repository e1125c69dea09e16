using System;
using System.Linq;
using System.Reflection;
using System.Runtime.InteropServices;
using Snapuserd.Interop;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.Interop;

/// <summary>Checks with the C compiler that every struct and constant of interop equals its declaration in the headers.</summary>
public sealed class AbiTests(ITestOutputHelper output)
{
    private static Type[] Interop => typeof(Libc).Assembly.GetTypes();

    private static bool Has<T>(Type type) where T : Attribute => type.IsDefined(typeof(T), false);

    private static Type[] With<T>(Architecture architecture) where T : Attribute => Interop
        .Where(type => Has<T>(type) && (type.GetCustomAttribute<OnlyOnAttribute>() is not { } only || only.Architecture == architecture))
        .ToArray();

    [Theory]
    [InlineData(Architecture.X64)]
    [InlineData(Architecture.Arm64)]
    public void Structs_and_constants_of_the_kernel_equal_those_of_its_headers(Architecture architecture)
    {
        Type[] types = With<KernelHeaderAttribute>(architecture);
        string program = AbiProgram.Write(AbiProgram.Headers<KernelHeaderAttribute>(types), types, out int assertions);
        string complaints = CCompiler.CheckAgainstKernel(program, architecture, out string version);
        output.WriteLine($"{assertions} assertions against Linux {version} for {architecture}");
        Assert.True(complaints.Length == 0, complaints);
        Assert.True(assertions > 300, $"only {assertions} assertions: the reflection finds nothing any more");
    }

    [Theory]
    [InlineData(Architecture.X64)]
    [InlineData(Architecture.Arm64)]
    public void Structs_and_constants_of_libraries_equal_those_of_their_headers(Architecture architecture)
    {
        Type[] types = With<LibraryHeaderAttribute>(architecture);
        string program = AbiProgram.Write(AbiProgram.Headers<LibraryHeaderAttribute>(types), types, out int assertions);
        string complaints = CCompiler.CheckAgainstLibraries(program, architecture);
        output.WriteLine($"{assertions} assertions for {architecture}");
        string? missing = CCompiler.MissingPackage(complaints);
        Assert.True(complaints.Length == 0, missing != null ? $"a header is missing: apt install {missing}\n{complaints}" : complaints);
        Assert.True(assertions > 300, $"only {assertions} assertions: the reflection finds nothing any more");
    }

    [Fact]
    public void Every_foreign_struct_names_its_C_type_and_header()
    {
        string[] unsaid = Interop.Where(AbiProgram.IsForeignStruct)
            .Where(t => !Has<OutOfTreeAttribute>(t)
                && !(Has<CTypeAttribute>(t) && (Has<KernelHeaderAttribute>(t) || Has<LibraryHeaderAttribute>(t))))
            .Select(t => t.FullName!).ToArray();
        Assert.Empty(unsaid);
    }

    [Fact]
    public void Every_constant_with_a_C_name_names_its_header()
    {
        string[] unsaid = Interop
            .Where(t => !Has<OutOfTreeAttribute>(t) && !Has<KernelHeaderAttribute>(t) && !Has<LibraryHeaderAttribute>(t))
            .SelectMany(t => AbiProgram.Constants(t).Select(c => $"{t.FullName}.{c.Name}")).ToArray();
        Assert.Empty(unsaid);
    }

    [Theory]
    [InlineData(typeof(WrongValue), "WrongValue.EPERM is 2")]
    [InlineData(typeof(UnknownConstant), "NO_SUCH_CONSTANT")]
    [InlineData(typeof(WrongSize), "WrongSize has 24 bytes")]
    [InlineData(typeof(WrongOffset), "WrongOffset.Nsec lies at 0")]
    [InlineData(typeof(WrongFieldSize), "WrongFieldSize.Nsec has 4 bytes")]
    [InlineData(typeof(UnknownField), "tv_fortnight")]
    public void Checker_detects_a_wrong_declaration(Type type, string complaint)
    {
        string program = AbiProgram.Write(["time.h", "errno.h"], [type], out _);
        Assert.Contains(complaint, CCompiler.CheckAgainstLibraries(program, Architecture.X64), StringComparison.Ordinal);
        Assert.Contains(complaint, CCompiler.CheckAgainstLibraries(program, Architecture.Arm64), StringComparison.Ordinal);
    }

    /// <summary>Each architecture is checked against its own headers: x86-64's values pass for x86-64 and fail for arm64.</summary>
    [Fact]
    public void Each_architecture_is_checked_against_its_own_headers()
    {
        string program = AbiProgram.Write(["fcntl.h", "sys/stat.h"], [typeof(OfX64), typeof(StatOfX64)], out _);
        Assert.Equal("", CCompiler.CheckAgainstLibraries(program, Architecture.X64));
        string complaints = CCompiler.CheckAgainstLibraries(program, Architecture.Arm64);
        foreach (string complaint in new[] { "O_DIRECT is", "O_DIRECTORY is", "O_NOFOLLOW is", "StatOfX64 has 144 bytes" })
            Assert.Contains(complaint, complaints, StringComparison.Ordinal);

        program = AbiProgram.Write(["linux/fcntl.h"], [typeof(OfX64)], out _);
        Assert.Equal("", CCompiler.CheckAgainstKernel(program, Architecture.X64, out _));
        Assert.Contains("O_DIRECT is", CCompiler.CheckAgainstKernel(program, Architecture.Arm64, out _), StringComparison.Ordinal);
    }

    /// <summary>A property of the same name returns the value of the running architecture.</summary>
    [Fact]
    public void Property_returns_the_constant_of_the_running_architecture()
    {
        Architecture own = RuntimeInformation.ProcessArchitecture;
        FieldInfo[] constants = Interop.Where(type => type.GetCustomAttribute<OnlyOnAttribute>()?.Architecture == own)
            .SelectMany(AbiProgram.Constants).ToArray();
        Assert.NotEmpty(constants);
        Assert.All(constants, one => Assert.Equal(one.GetRawConstantValue(), typeof(Libc).GetProperty(one.Name)?.GetValue(null)));
    }

    [Fact]
    public void Constant_of_one_architecture_has_a_counterpart_on_the_other()
    {
        string[] OfArchitecture(Architecture architecture) => Interop
            .Where(type => type.GetCustomAttribute<OnlyOnAttribute>()?.Architecture == architecture)
            .SelectMany(type =>
                AbiProgram.Constants(type).Select(one => one.Name).Prepend(type.GetCustomAttribute<CTypeAttribute>()?.Name ?? ""))
            .Order(StringComparer.Ordinal).ToArray();
        Assert.Equal(OfArchitecture(Architecture.X64), OfArchitecture(Architecture.Arm64));
    }

    [Fact]
    public void Missing_header_is_reported_with_its_package()
    {
        string complaints = CCompiler.CheckAgainstLibraries("#include <brotli/no_such_thing.h>\n", RuntimeInformation.OSArchitecture);
        Assert.Equal("libbrotli-dev", CCompiler.MissingPackage(complaints));
    }

    private static class OfX64
    {
        public const int O_DIRECT = 0x4000;
        public const int O_DIRECTORY = 0x10000;
        public const int O_NOFOLLOW = 0x20000;
    }

    [CType("struct stat", FieldPrefix = "st_")]
    [StructLayout(LayoutKind.Sequential, Size = 144)]
    private struct StatOfX64
    {
        public ulong Dev;
    }

    private static class WrongValue
    {
        public const int EPERM = 2;
    }

    private static class UnknownConstant
    {
        public const int NO_SUCH_CONSTANT = 1;
    }

    [CType("struct timespec", FieldPrefix = "tv_")]
    [StructLayout(LayoutKind.Sequential)]
    private struct WrongSize
    {
        public long Sec;
        public long Nsec;
        public long Reserved;
    }

    [CType("struct timespec", FieldPrefix = "tv_")]
    [StructLayout(LayoutKind.Sequential)]
    private struct WrongOffset
    {
        public long Nsec;
        public long Sec;
    }

    [CType("struct timespec", FieldPrefix = "tv_")]
    [StructLayout(LayoutKind.Sequential)]
    private struct WrongFieldSize
    {
        public long Sec;
        public int Nsec;
        public int Reserved;
    }

    [CType("struct timespec", FieldPrefix = "tv_")]
    [StructLayout(LayoutKind.Sequential)]
    private struct UnknownField
    {
        public long Sec;
        public long Fortnight;
    }
}
