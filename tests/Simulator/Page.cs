using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Tests.Simulator;

/// <summary>4096 bytes that never change, with their hash. Disks share pages, so that a copy of a disk costs one array of references.</summary>
public sealed class Page
{
    public const int Size = 4096;
    public const int Sector = 512;
    public const int Sectors = Size / Sector;

    private readonly byte[] _bytes;

    public Page(ReadOnlySpan<byte> bytes)
    {
        _bytes = new byte[Size];
        bytes.CopyTo(_bytes);
        ulong hash = 0x243f6a8885a308d3;
        foreach (ulong word in MemoryMarshal.Cast<byte, ulong>(_bytes)) hash = (hash ^ word) * 0x9fb21c651e98df25 ^ (hash >> 29);
        Hash = Chance.Mix(hash);
    }

    public ulong Hash { get; }

    public ReadOnlySpan<byte> Bytes => _bytes;

    public ReadOnlySpan<byte> SectorBytes(int sector) => _bytes.AsSpan(sector * Sector, Sector);
}

/// <summary>The contents of a device: pages by number, and the exact length in bytes.</summary>
public sealed class Image
{
    private readonly Page[] _pages;

    public Image(ReadOnlySpan<byte> bytes)
    {
        Length = bytes.Length;
        _pages = new Page[(bytes.Length + Page.Size - 1) / Page.Size];
        for (int i = 0; i < _pages.Length; i++)
        {
            Set(i, new Page(bytes.Slice(i * Page.Size, Math.Min(Page.Size, bytes.Length - (i * Page.Size)))));
        }
    }

    private Image(Image other)
    {
        Length = other.Length;
        Hash = other.Hash;
        _pages = (Page[])other._pages.Clone();
    }

    public int Length { get; }

    /// <summary>Sum of the pages' hashes, each mixed with its number: kept up to date by every change.</summary>
    public ulong Hash { get; private set; }

    public int Pages => _pages.Length;

    public Page this[int page] => _pages[page];

    public Image Copy() => new(this);

    public void Set(int page, Page contents)
    {
        if (_pages[page] is { } old) Hash -= Weight(page, old);
        _pages[page] = contents;
        Hash += Weight(page, contents);
    }

    /// <summary>What a page adds to the hash of its image.</summary>
    public static ulong Weight(int page, Page contents) => Chance.Mix(contents.Hash + ((ulong)page * 0x2545f4914f6cdd1d));

    public void Read(long offset, Span<byte> destination)
    {
        while (destination.Length > 0)
        {
            int page = (int)(offset / Page.Size), from = (int)(offset % Page.Size);
            int count = Math.Min(destination.Length, Page.Size - from);
            _pages[page].Bytes.Slice(from, count).CopyTo(destination);
            destination = destination[count..];
            offset += count;
        }
    }

    public byte[] ToArray()
    {
        byte[] bytes = new byte[Length];
        Read(0, bytes);
        return bytes;
    }

    /// <summary>Number of the first page that differs, or −1.</summary>
    public int FirstDifference(Image other)
    {
        for (int i = 0; i < _pages.Length; i++)
            if (_pages[i] != other._pages[i] && !_pages[i].Bytes.SequenceEqual(other._pages[i].Bytes)) return i;
        return -1;
    }
}
