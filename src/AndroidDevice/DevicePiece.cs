using System;
using System.Collections.Generic;
using System.Globalization;
using Snapuserd.Block;

namespace Snapuserd.AndroidDevice;

/// <summary>
/// A part of a device that consists of pieces: <paramref name="Sectors"/> sectors of 512 bytes from <paramref name="Start"/> on, on the
/// block device <paramref name="Device"/>; zeros without a device if that is "".
/// </summary>
public readonly record struct DevicePiece(string Device, long Start, long Sectors)
{
    /// <summary>The first sector after the piece.</summary>
    public long End => Start + Sectors;

    /// <summary>The piece lies on no device and reads as zeros.</summary>
    public bool IsZero => Device.Length == 0;

    /// <inheritdoc/>
    public override string ToString() =>
        string.Create(CultureInfo.InvariantCulture, $"{(IsZero ? "zero" : Device)}:{Start}+{Sectors}");

    /// <summary>Bytes of all pieces together.</summary>
    public static long Bytes(IReadOnlyList<DevicePiece> pieces)
    {
        long sum = 0;
        foreach (DevicePiece piece in pieces) sum += piece.Sectors;
        return sum * LpGeometry.SectorBytes;
    }

    /// <summary>
    /// A piece of <paramref name="first"/> that shares a sector with one of <paramref name="second"/>; null if there is none. The pieces
    /// within each list must be disjoint.
    /// </summary>
    public static DevicePiece? Overlap(IReadOnlyList<DevicePiece> first, IReadOnlyList<DevicePiece> second)
    {
        DevicePiece[] a = Sorted(first), b = Sorted(second);
        for (int i = 0, j = 0; i < a.Length && j < b.Length;)
        {
            int order = string.CompareOrdinal(a[i].Device, b[j].Device);
            if (order == 0 && a[i].Start < b[j].End && b[j].Start < a[i].End) return a[i];
            if (order < 0 || (order == 0 && a[i].End <= b[j].Start)) i++;
            else j++;
        }
        return null;
    }

    /// <summary>A piece that shares a sector with another one of the list; null if there is none.</summary>
    public static DevicePiece? OverlapWithin(IReadOnlyList<DevicePiece> pieces)
    {
        DevicePiece[] sorted = Sorted(pieces);
        for (int i = 1; i < sorted.Length; i++)
            if (sorted[i].Device == sorted[i - 1].Device && sorted[i].Start < sorted[i - 1].End) return sorted[i];
        return null;
    }

    /// <summary>
    /// True if both devices have the same sectors in the same order, up to the end of the shorter one, however they are cut into pieces.
    /// </summary>
    public static bool AgreeUpToShorter(IReadOnlyList<DevicePiece> first, IReadOnlyList<DevicePiece> second)
    {
        long inFirst = 0, inSecond = 0;
        for (int i = 0, j = 0; i < first.Count && j < second.Count;)
        {
            DevicePiece a = first[i], b = second[j];
            long count = Math.Min(a.Sectors - inFirst, b.Sectors - inSecond);
            if (count > 0 && (a.Device != b.Device || (!a.IsZero && a.Start + inFirst != b.Start + inSecond))) return false;
            if ((inFirst += count) == a.Sectors) (i, inFirst) = (i + 1, 0);
            if ((inSecond += count) == b.Sectors) (j, inSecond) = (j + 1, 0);
        }
        return true;
    }

    /// <summary>The bytes that <paramref name="source"/> shares with <paramref name="target"/>, in the order of the source.</summary>
    public static List<SharedRange> SharedBytes(IReadOnlyList<DevicePiece> source, IReadOnlyList<DevicePiece> target)
    {
        List<SharedRange> shared = [];
        long sourceAt = 0;
        foreach (DevicePiece mine in source)
        {
            long targetAt = 0;
            foreach (DevicePiece theirs in target)
            {
                long from = Math.Max(mine.Start, theirs.Start), to = Math.Min(mine.End, theirs.End);
                if (!mine.IsZero && mine.Device == theirs.Device && from < to)
                    shared.Add(new SharedRange((sourceAt + from - mine.Start) * LpGeometry.SectorBytes,
                        (targetAt + from - theirs.Start) * LpGeometry.SectorBytes, (to - from) * LpGeometry.SectorBytes));
                targetAt += theirs.Sectors;
            }
            sourceAt += mine.Sectors;
        }
        return shared;
    }

    /// <summary>The pieces on devices that have at least one sector, by device and sector.</summary>
    private static DevicePiece[] Sorted(IReadOnlyList<DevicePiece> pieces)
    {
        List<DevicePiece> sorted = [];
        foreach (DevicePiece piece in pieces)
            if (!piece.IsZero && piece.Sectors > 0) sorted.Add(piece);
        sorted.Sort((a, b) => string.CompareOrdinal(a.Device, b.Device) is var order && order != 0 ? order : a.Start.CompareTo(b.Start));
        return [.. sorted];
    }
}
