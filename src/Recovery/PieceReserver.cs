using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Merge;

namespace Snapuserd.Recovery;

/// <summary>
/// Reserves storage for devices that consist of pieces: passes each range on to the devices below, whose holes it may lie in when they are
/// files, as in a dump of a device.
/// </summary>
/// <param name="below">Reserves storage on the devices below.</param>
/// <param name="devices">The devices below, by number.</param>
/// <param name="maps">The devices of the merge, by number.</param>
internal sealed class PieceReserver(IStorageReserver below, BlockDevice[] devices, PieceMap[] maps) : IStorageReserver
{
    /// <inheritdoc/>
    public void Reserve(MergeDevice device, IEnumerable<ByteRange> ranges)
    {
        PieceMap map = maps[device.Number];
        foreach (int number in map.Devices)
            below.Reserve(new MergeDevice(number, devices[number].Path, devices[number].Length), Below(map, ranges, number));
    }

    /// <summary>The parts of the ranges that lie on one device below, ascending.</summary>
    private static List<ByteRange> Below(PieceMap map, IEnumerable<ByteRange> ranges, int number)
    {
        List<ByteRange> parts = [];
        foreach (ByteRange range in ranges)
        {
            for (long at = range.Offset, end = range.Offset + range.Length; at < end;)
            {
                MappedPiece piece = map.Locate(at, end - at);
                if (piece.Length == 0) break;
                if (piece.Device == number) parts.Add(new ByteRange(piece.Offset, piece.Length));
                at += piece.Length;
            }
        }
        parts.Sort((a, b) => a.Offset.CompareTo(b.Offset));
        return parts;
    }
}
