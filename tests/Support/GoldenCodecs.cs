using System;
using System.Collections.Generic;
using System.Linq;
using System.Reflection;
using System.Runtime.InteropServices;
using Snapuserd.Cow;
using Xunit;
using Xunit.Sdk;

namespace Snapuserd.Tests.Support;

/// <summary>
/// The codec versions that wrote the golden files. Another version may compress the same content to other bytes. So tests that compare
/// compressed bytes run only with the golden version; with any other version they are skipped, with the reason. With
/// SNAPUSERD_GOLDEN_CODECS=required, as in CI, they always run. Tests that compare decoded content run with every version.
/// </summary>
public static unsafe class GoldenCodecs
{
    /// <summary>The versions of Debian 12.</summary>
    private static readonly Dictionary<CowCompression, (string Library, string Version)> s_golden = new()
    {
        [CowCompression.Gz] = ("zlib", "1.2.13"),
        [CowCompression.Brotli] = ("libbrotlienc", "1.0.9"),
        [CowCompression.Lz4] = ("liblz4", "1.9.4"),
        [CowCompression.Zstd] = ("libzstd", "1.5.4"),
    };

    private static bool Required => Environment.GetEnvironmentVariable("SNAPUSERD_GOLDEN_CODECS") == "required";

    /// <summary>Why golden bytes of <paramref name="algorithm"/> are not compared on this machine; null if they are compared.</summary>
    public static string? WhyNot(CowCompression algorithm) => WhyNot(algorithm, Version(algorithm), Required);

    /// <summary>
    /// Why golden bytes are not compared with a library that reports version <paramref name="found"/>; null if they are compared.
    /// </summary>
    public static string? WhyNot(CowCompression algorithm, string found, bool required)
    {
        if (required || !s_golden.TryGetValue(algorithm, out (string Library, string Version) golden) || found == golden.Version)
            return null;
        return $"{golden.Library} has version {found}; the golden bytes are those of {golden.Version}";
    }

    /// <summary>The version that the library of <paramref name="algorithm"/> reports; empty if there is no library.</summary>
    public static string Version(CowCompression algorithm) => algorithm switch
    {
        CowCompression.Gz => Marshal.PtrToStringAnsi((nint)zlibVersion())!,
        CowCompression.Brotli => BrotliEncoderVersion() is var brotli ? $"{brotli >> 24}.{(brotli >> 12) & 0xfff}.{brotli & 0xfff}" : "",
        CowCompression.Lz4 => Decimal((uint)LZ4_versionNumber()),
        CowCompression.Zstd => Decimal(ZSTD_versionNumber()),
        _ => "",
    };

    private static string Decimal(uint number) => $"{number / 10000}.{number / 100 % 100}.{number % 100}";

    [DllImport("libz")]
    private static extern byte* zlibVersion();

    [DllImport("libbrotlienc")]
    private static extern uint BrotliEncoderVersion();

    [DllImport("liblz4")]
    private static extern int LZ4_versionNumber();

    [DllImport("libzstd")]
    private static extern uint ZSTD_versionNumber();
}

/// <summary>A test that compares golden bytes of one codec.</summary>
public sealed class GoldenFactAttribute : FactAttribute
{
    public GoldenFactAttribute(CowCompression algorithm) => Skip = GoldenCodecs.WhyNot(algorithm);
}

/// <summary>A row of a test that compares golden bytes of one codec, which is the first argument.</summary>
[AttributeUsage(AttributeTargets.Method, AllowMultiple = true)]
public sealed class GoldenDataAttribute : DataAttribute
{
    private readonly object[] _row;

    public GoldenDataAttribute(CowCompression algorithm, params object[] more)
    {
        _row = [algorithm, .. more];
        Skip = GoldenCodecs.WhyNot(algorithm);
    }

    public override IEnumerable<object[]> GetData(MethodInfo testMethod) => [_row];
}

/// <summary>
/// The names of all golden COWs of one codec as rows of a test that compares their bytes. If numbers are given, each name is combined with
/// each number.
/// </summary>
[AttributeUsage(AttributeTargets.Method, AllowMultiple = true)]
public sealed class GoldenCowsAttribute : DataAttribute
{
    private readonly CowCompression _algorithm;
    private readonly int[] _numbers;

    public GoldenCowsAttribute(CowCompression algorithm, params int[] numbers)
    {
        _algorithm = algorithm;
        _numbers = numbers;
        Skip = GoldenCodecs.WhyNot(algorithm);
    }

    public override IEnumerable<object[]> GetData(MethodInfo testMethod) => Golden.Cows
        .Where(cow => CowWriterOptions.ParseCompression(cow.Compression).Compression == _algorithm)
        .SelectMany(cow => _numbers.Length == 0 ? [[cow.Name]] : _numbers.Select(number => new object[] { cow.Name, number }));
}
