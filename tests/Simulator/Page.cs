using System;
using System.Collections.Generic;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Snapuserd.Tests.Simulator;

/// <summary>
/// 4096 bytes that never change, with their hashes. Disks share pages, so that a copy of a disk costs one array of references.
/// </summary>
public sealed class Page
{
    public const int Size = 4096;
    public const int Sector = 512;
    public const int Sectors = Size / Sector;

    [InlineArray(Sectors)]
    private struct SectorHashes
    {
        private ulong _first;
    }

    private readonly byte[] _bytes;
    private readonly SectorHashes _sectors;

    /// <summary>A page that begins with <paramref name="bytes"/> and is filled up with zeros.</summary>
    public Page(ReadOnlySpan<byte> bytes)
    {
        _bytes = new byte[Size];
        bytes.CopyTo(_bytes);
        Hash = HashOf(_bytes, _sectors);
    }

    public ulong Hash { get; }

    public ReadOnlySpan<byte> Bytes => _bytes;

    public ReadOnlySpan<byte> SectorBytes(int sector) => _bytes.AsSpan(sector * Sector, Sector);

    public ulong SectorHash(int sector) => _sectors[sector];

    /// <summary>The hash of a page with these 4096 bytes.</summary>
    public static ulong HashOf(ReadOnlySpan<byte> page)
    {
        Span<ulong> sectors = stackalloc ulong[Sectors];
        return HashOf(page, sectors);
    }

    private static ulong HashOf(ReadOnlySpan<byte> page, Span<ulong> sectors)
    {
        const ulong Factor = 0x9fb21c651e98df25;
        ReadOnlySpan<ulong> words = MemoryMarshal.Cast<byte, ulong>(page);
        ulong all = 0;
        for (int sector = 0; sector < Sectors; sector++)
        {
            // Four lanes, because one lane would wait for each of its multiplications.
            ReadOnlySpan<ulong> here = words.Slice(sector * (Sector / 8), Sector / 8);
            ulong a = 1, b = 2, c = 3, d = 4;
            for (int i = 0; i < here.Length; i += 4)
            {
                a = ((a ^ here[i]) * Factor) ^ (a >> 29);
                b = ((b ^ here[i + 1]) * Factor) ^ (b >> 29);
                c = ((c ^ here[i + 2]) * Factor) ^ (c >> 29);
                d = ((d ^ here[i + 3]) * Factor) ^ (d >> 29);
            }
            sectors[sector] = Chance.Mix(Chance.Mix(Chance.Mix(Chance.Mix(a) + b) + c) + d);
            all = Chance.Mix(all + sectors[sector]);
        }
        return all;
    }
}

/// <summary>
/// Keeps one <see cref="Page"/> for each distinct contents, so that repeated writes of the same data take no new memory. For one thread.
/// </summary>
public sealed class PageStore
{
    // At this size the store is emptied: 64 Ki pages are 256 MiB, more than any single case needs.
    private const int Most = 1 << 16;

    private readonly Dictionary<ulong, Page> _pages = [];

    /// <summary>The page with these 4096 bytes.</summary>
    public Page Of(ReadOnlySpan<byte> bytes)
    {
        ulong hash = Page.HashOf(bytes);
        if (_pages.TryGetValue(hash, out Page? known)) return known.Bytes.SequenceEqual(bytes) ? known : new Page(bytes);
        if (_pages.Count == Most) _pages.Clear();
        Page page = new(bytes);
        _pages.Add(hash, page);
        return page;
    }
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

    /// <summary>
    /// Sum of the sectors' hashes, each mixed with its number. Every change updates it, so the hash after a change can be computed without
    /// making the change.
    /// </summary>
    public ulong Hash { get; private set; }

    public int Pages => _pages.Length;

    public Page this[int page] => _pages[page];

    public Image Copy() => new(this);

    public void Set(int page, Page contents)
    {
        if (_pages[page] is { } old)
        {
            if (old == contents) return;
            Hash -= Weight(page, old);
        }
        _pages[page] = contents;
        Hash += Weight(page, contents);
    }

    /// <summary>A page's contribution to the hash of its image.</summary>
    public static ulong Weight(int page, Page contents)
    {
        ulong weight = 0;
        for (int sector = 0; sector < Page.Sectors; sector++) weight += Weight(page, contents, sector);
        return weight;
    }

    /// <summary>One sector's contribution to the hash of its image.</summary>
    public static ulong Weight(int page, Page contents, int sector) =>
        Chance.Mix(contents.SectorHash(sector) + (((ulong)(page * Page.Sectors) + (ulong)sector) * 0x2545f4914f6cdd1d));

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
