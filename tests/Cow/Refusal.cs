using System;
using System.Buffers.Binary;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cow;

/// <summary>Returns the error message with which a file or a call is refused.</summary>
internal static class Refusal
{
    public const string Name = "/dev/block/bad.cow";

    /// <summary>
    /// The message with which reading <paramref name="file"/> fails. The exit code must be 65, and the message names the file.
    /// </summary>
    public static string Of(byte[] file) => Of(() => CowFile.Read(new MemorySource(file, Name)).Dispose());

    /// <summary>The message with which <paramref name="action"/> fails. The exit code must be 65, and the message names the file.</summary>
    public static string Of(Action action)
    {
        SnapuserdException refusal = Assert.ThrowsAny<SnapuserdException>(action);
        Assert.Equal(ExitCode.CowCorrupt, refusal.Code);
        Assert.StartsWith(Name, refusal.Message, StringComparison.Ordinal);
        Assert.DoesNotContain("\n", refusal.Message, StringComparison.Ordinal);
        return refusal.Message;
    }

    /// <summary>
    /// Expects <paramref name="action"/> to fail with <paramref name="code"/> and a message that contains <paramref name="part"/>.
    /// </summary>
    public static void With(ExitCode code, string part, Action action)
    {
        SnapuserdException refusal = Assert.ThrowsAny<SnapuserdException>(action);
        Assert.Equal(code, refusal.Code);
        Assert.Contains(part, refusal.Message, StringComparison.Ordinal);
    }

    /// <summary>Writes the lowest <paramref name="size"/> bytes of <paramref name="value"/>.</summary>
    public static void Put(byte[] file, long offset, int size, ulong value)
    {
        Span<byte> bytes = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        bytes[..size].CopyTo(file.AsSpan((int)offset));
    }
}
