using System;
using System.Collections.Generic;

namespace Snapuserd.Block;

/// <summary>Relation between the storage of two devices or files.</summary>
public enum StorageRelation
{
    /// <summary>No byte in common.</summary>
    Disjoint,
    /// <summary>The same bytes in the same order.</summary>
    Equal,
    /// <summary>Some bytes in common, or all in another order.</summary>
    Overlapping,
    /// <summary>
    /// Both may lie on the same bytes of a device below, but a layer in between does not show where its bytes lie. Counts as overlapping
    /// where the program writes.
    /// </summary>
    Unknown,
}

/// <summary>
/// A layer below a bottom, which does not show where its bytes lie (dm-crypt, md, a file system): its name for messages, and the ranges
/// below it that may hold any byte of the bottom.
/// </summary>
internal sealed record StorageLayer(string Name, List<StoragePiece> Below);

/// <summary>
/// The storage of a device or file: an ordered list of pieces, found through loop devices, partitions and dm-linear, independent of node
/// and path.
/// <code>
///   /dev/loop3p1   ->  partition 1 of loop3  ->  loop3 over disk.img from 1 MiB on  ->  [ disk.img: 2 MiB .. 10 MiB ]
///   /dev/dm-0      ->  linear, two targets   ->  [ sda: 64 MiB .. 96 MiB ] [ sdb: 0 .. 32 MiB ]
///   /dev/dm-1      ->  crypt over sda2       ->  [ dm-1: 0 .. end ], with a layer "crypt" over [ sda: 1 GiB .. 2 GiB ]
/// </code>
/// </summary>
public sealed class StorageIdentity
{
    private readonly Dictionary<StorageBottom, StorageLayer> _layers;

    private readonly Dictionary<StorageBottom, uint> _loops;

    internal StorageIdentity(List<StoragePiece> pieces, Dictionary<StorageBottom, StorageLayer> layers,
        Dictionary<StorageBottom, uint>? loops = null)
    {
        Pieces = Joined(pieces);
        _layers = layers;
        _loops = loops ?? [];
    }

    /// <summary>The pieces in the order of the device's bytes; adjacent pieces that continue each other are merged.</summary>
    internal List<StoragePiece> Pieces { get; }

    /// <summary>
    /// How this relates to <paramref name="other"/>. With <see cref="StorageRelation.Unknown"/>, <paramref name="layer"/> names the layer
    /// in between; it is empty otherwise.
    /// </summary>
    public StorageRelation RelationTo(StorageIdentity other, out string layer)
    {
        layer = "";
        foreach (StoragePiece mine in Pieces)
            foreach (StoragePiece theirs in other.Pieces)
                if (mine.Overlaps(theirs)) return IsSameAs(other) ? StorageRelation.Equal : StorageRelation.Overlapping;
        layer = LayerOver(other, thereToo: true) ?? other.LayerOver(this, thereToo: false) ?? "";
        return layer.Length > 0 ? StorageRelation.Unknown : StorageRelation.Disjoint;
    }

    /// <summary>The bytes that this, as a source, shares with <paramref name="target"/>, as a base; in source order.</summary>
    public List<SharedRange> SharedWith(StorageIdentity target)
    {
        List<SharedRange> shared = [];
        long sourceAt = 0;
        foreach (StoragePiece mine in Pieces)
        {
            long targetAt = 0;
            foreach (StoragePiece theirs in target.Pieces)
            {
                if (mine.Overlaps(theirs))
                {
                    long from = Math.Max(mine.Offset, theirs.Offset), to = Math.Min(mine.End, theirs.End);
                    shared.Add(new SharedRange(sourceAt + from - mine.Offset, targetAt + from - theirs.Offset, to - from));
                }
                targetAt += theirs.Length;
            }
            sourceAt += mine.Length;
        }
        return shared;
    }

    /// <summary>
    /// The parts of the device that lie in files below loop devices. Yields one file at a time, opened for writing; a file that cannot be
    /// opened is left out. The part at device bytes [DeviceOffset, + Length) is at file bytes [FileOffset, + Length).
    /// </summary>
    public IEnumerable<(LoopBackingFile File, long DeviceOffset, long FileOffset, long Length)> FilesBelow()
    {
        long at = 0;
        foreach (StoragePiece piece in Pieces)
        {
            if (_loops.TryGetValue(piece.Bottom, out uint minor) && LoopBackingFile.Open(minor) is { } file)
            {
                using (file) yield return (file, at, piece.Offset, piece.Length);
            }
            at += piece.Length;
        }
    }

    /// <summary>True if two pieces of this storage share bytes, so that a write at one offset is visible at another.</summary>
    public bool OverlapsItself
    {
        get
        {
            for (int i = 0; i < Pieces.Count; i++)
                for (int j = 0; j < i; j++)
                    if (Pieces[i].Overlaps(Pieces[j])) return true;
            return false;
        }
    }

    /// <summary>
    /// Everything below the bottoms that are devices, for locks: a writer through a layer and a writer below it must exclude each other.
    /// </summary>
    internal IEnumerable<StoragePiece> BelowDevices()
    {
        foreach (StoragePiece piece in Pieces)
            if (!piece.Bottom.IsFile)
                foreach (StoragePiece below in Below(piece.Bottom)) yield return below;
    }

    private static List<StoragePiece> Joined(List<StoragePiece> pieces)
    {
        List<StoragePiece> joined = [];
        foreach (StoragePiece piece in pieces)
        {
            if (joined.Count > 0 && joined[^1] is var last && last.Bottom == piece.Bottom && last.End == piece.Offset)
                joined[^1] = last with { Length = last.Length + piece.Length };
            else joined.Add(piece);
        }
        return joined;
    }

    /// <summary>The same pieces in the same order.</summary>
    internal bool IsSameAs(StorageIdentity other)
    {
        if (Pieces.Count != other.Pieces.Count) return false;
        for (int i = 0; i < Pieces.Count; i++)
            if (Pieces[i] != other.Pieces[i]) return false;
        return true;
    }

    /// <summary>
    /// The name of a layer of this storage that lies over pieces of <paramref name="other"/> or, if <paramref name="thereToo"/>, over
    /// storage below those pieces. Null if there is none.
    /// </summary>
    private string? LayerOver(StorageIdentity other, bool thereToo)
    {
        foreach (StoragePiece mine in Pieces)
        {
            if (!_layers.TryGetValue(mine.Bottom, out StorageLayer? layer)) continue;
            foreach (StoragePiece below in Below(mine.Bottom))
                foreach (StoragePiece theirs in other.Pieces)
                {
                    if (below.Overlaps(theirs)) return layer.Name;
                    // Storage below both matters only for two different devices. Disjoint ranges of one bottom share no bytes, nor do two
                    // files. A file lies within its file system's volume and shares no bytes with another volume.
                    if (!thereToo || mine.Bottom == theirs.Bottom || mine.Bottom.IsFile || theirs.Bottom.IsFile) continue;
                    foreach (StoragePiece deeper in other.Below(theirs.Bottom))
                        if (below.Overlaps(deeper)) return layer.Name;
                }
        }
        return null;
    }

    private List<StoragePiece> Below(StorageBottom bottom)
    {
        List<StoragePiece> all = [];
        Collect(bottom);
        return all;

        void Collect(StorageBottom at)
        {
            if (!_layers.TryGetValue(at, out StorageLayer? layer)) return;
            foreach (StoragePiece piece in layer.Below)
            {
                // A stack has no cycles; storage shared by two branches is listed once.
                if (all.Contains(piece)) continue;
                all.Add(piece);
                Collect(piece.Bottom);
            }
        }
    }
}
