using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Text;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>The program's file type and layout, read from the file itself (elf(5), 64 bits, little-endian).</summary>
public sealed class ElfTests
{
    private const int TypeDynamic = 3;
    private const uint SegmentLoad = 1, SegmentDynamic = 2, SegmentInterpreter = 3, SegmentStack = 0x6474e551,
        SegmentRelocated = 0x6474e552;
    private const long TagNeeded = 1, TagFlags1 = 0x6ffffffb;
    private const ulong FlagPositionIndependent = 0x08000000;
    private const ulong SmallestPage = 4096;
    private const uint Executable = 1, Writable = 2;

    private readonly byte[] _file = File.ReadAllBytes(Binary.CompiledFile);

    [Fact]
    public void Program_is_a_position_independent_executable()
    {
        Assert.Equal("\x7f" + "ELF\x02\x01\x01", Encoding.Latin1.GetString(_file, 0, 7));
        Assert.Equal(TypeDynamic, BinaryPrimitives.ReadUInt16LittleEndian(_file.AsSpan(16)));
        ulong flags = Dynamic().Single(entry => entry.Tag == TagFlags1).Value;
        Assert.Equal(FlagPositionIndependent, flags & FlagPositionIndependent);
    }

    [Fact]
    public void Program_needs_no_interpreter_and_no_library()
    {
        Assert.DoesNotContain(Segments(), segment => segment.Type == SegmentInterpreter);
        Assert.DoesNotContain(Dynamic(), entry => entry.Tag == TagNeeded);
    }

    [Fact]
    public void No_memory_is_writable_and_executable_at_once()
    {
        Assert.Contains(Segments(), segment => segment.Type == SegmentStack);
        Assert.All(Segments(),
            segment => Assert.True((segment.Flags & (Executable | Writable)) != (Executable | Writable), $"segment type {segment.Type:x}"));
        Assert.Equal(0u, Segments().Single(segment => segment.Type == SegmentStack).Flags & Executable);
    }

    [Fact]
    public void Program_has_at_most_5_and_a_half_MB() => Assert.InRange(_file.Length, 1, 5_500_000);

    [Fact]
    public void Program_is_stripped_and_does_not_contain_the_path_of_its_build()
    {
        string text = Encoding.Latin1.GetString(_file);
        Assert.DoesNotContain(".debug_info", text);
        Assert.DoesNotContain(Binary.Root, text);
    }

    /// <summary>
    /// Segments, and the part that is read-only after relocation, end on boundaries of the architecture's largest page size. With smaller
    /// boundaries, a part of the read-only data would stay writable on systems with such pages.
    /// </summary>
    [Fact]
    public void Program_is_linked_for_the_largest_pages_of_its_architecture()
    {
        const ushort arm64 = 183;
        ulong page = BinaryPrimitives.ReadUInt16LittleEndian(_file.AsSpan(18)) == arm64 ? 65536u : 4096u;
        (ulong Address, ulong Size, ulong Alignment)[] loaded = [.. Memory(SegmentLoad)], relocated = [.. Memory(SegmentRelocated)];
        Assert.All(loaded, segment => Assert.Equal(page, segment.Alignment));
        Assert.All(relocated, segment => Assert.Equal(0u, (segment.Address + segment.Size) % page));
        // The whole read-only part must be loaded: padding that the linker adds up to a page is not memory, and protecting it fails.
        Assert.All(relocated, segment => Assert.Contains(loaded, one =>
            one.Address <= segment.Address
            && segment.Address + segment.Size <= (one.Address + one.Size + SmallestPage - 1) / SmallestPage * SmallestPage));
        Assert.NotEmpty(relocated);
    }

    /// <summary>The addresses of the segments of a type.</summary>
    private List<(ulong Address, ulong Size, ulong Alignment)> Memory(uint type)
    {
        List<(ulong, ulong, ulong)> segments = [];
        long table = BinaryPrimitives.ReadInt64LittleEndian(_file.AsSpan(32));
        int size = BinaryPrimitives.ReadUInt16LittleEndian(_file.AsSpan(54));
        int count = BinaryPrimitives.ReadUInt16LittleEndian(_file.AsSpan(56));
        for (int i = 0; i < count; i++)
        {
            ReadOnlySpan<byte> entry = _file.AsSpan((int)table + (i * size), size);
            if (BinaryPrimitives.ReadUInt32LittleEndian(entry) != type) continue;
            segments.Add((BinaryPrimitives.ReadUInt64LittleEndian(entry[16..]), BinaryPrimitives.ReadUInt64LittleEndian(entry[40..]),
                BinaryPrimitives.ReadUInt64LittleEndian(entry[48..])));
        }
        return segments;
    }

    private List<(uint Type, uint Flags, ulong Offset, ulong Size)> Segments()
    {
        var segments = new List<(uint, uint, ulong, ulong)>();
        long table = BinaryPrimitives.ReadInt64LittleEndian(_file.AsSpan(32));
        int size = BinaryPrimitives.ReadUInt16LittleEndian(_file.AsSpan(54));
        int count = BinaryPrimitives.ReadUInt16LittleEndian(_file.AsSpan(56));
        for (int i = 0; i < count; i++)
        {
            ReadOnlySpan<byte> entry = _file.AsSpan((int)table + (i * size), size);
            segments.Add((BinaryPrimitives.ReadUInt32LittleEndian(entry), BinaryPrimitives.ReadUInt32LittleEndian(entry[4..]),
                BinaryPrimitives.ReadUInt64LittleEndian(entry[8..]), BinaryPrimitives.ReadUInt64LittleEndian(entry[32..])));
        }
        Assert.Contains(segments, segment => segment.Item1 == SegmentLoad);
        return segments;
    }

    private List<(long Tag, ulong Value)> Dynamic()
    {
        (_, _, ulong offset, ulong size) = Segments().Single(segment => segment.Type == SegmentDynamic);
        var entries = new List<(long, ulong)>();
        for (int at = (int)offset; at < (int)(offset + size); at += 16)
        {
            long tag = BinaryPrimitives.ReadInt64LittleEndian(_file.AsSpan(at));
            if (tag == 0) break;
            entries.Add((tag, BinaryPrimitives.ReadUInt64LittleEndian(_file.AsSpan(at + 8))));
        }
        Assert.NotEmpty(entries);
        return entries;
    }
}
