using System;
using System.Collections.Generic;

namespace Snapuserd.Block;

/// <summary>
/// A part of a device that consists of pieces: <paramref name="Length"/> bytes from <paramref name="Offset"/> on, on the device with number
/// <paramref name="Device"/> of the queue below. <see cref="Zeros"/> as the number stands for no device: the piece reads as zeros.
/// </summary>
public readonly record struct MappedPiece(int Device, long Offset, long Length)
{
    /// <summary>The number of a piece that lies on no device.</summary>
    public const int Zeros = -1;
}

/// <summary>A device that consists of pieces of other devices, one after the other, as dm-linear would map it. Immutable.</summary>
public sealed class PieceMap
{
    private readonly MappedPiece[] _pieces;
    private readonly long[] _ends;

    /// <summary>A device of these pieces, in this order; empty ones are left out.</summary>
    public PieceMap(IEnumerable<MappedPiece> pieces)
    {
        List<MappedPiece> kept = [];
        foreach (MappedPiece piece in pieces)
        {
            if (piece.Length < 0 || piece.Offset < 0) throw new ArgumentException($"{piece} is no range", nameof(pieces));
            if (piece.Length > 0) kept.Add(piece);
        }
        _pieces = [.. kept];
        _ends = new long[_pieces.Length];
        for (int i = 0; i < _pieces.Length; i++) _ends[i] = Length += _pieces[i].Length;
    }

    /// <summary>Length in bytes.</summary>
    public long Length { get; }

    /// <summary>The numbers of the devices below, each once, ascending.</summary>
    public IReadOnlyList<int> Devices
    {
        get
        {
            SortedSet<int> numbers = [];
            foreach (MappedPiece piece in _pieces)
                if (piece.Device != MappedPiece.Zeros) numbers.Add(piece.Device);
            return [.. numbers];
        }
    }

    /// <summary>True if every piece begins and ends at a multiple of <paramref name="granule"/> bytes, also on its device.</summary>
    public bool IsAligned(int granule)
    {
        foreach (MappedPiece piece in _pieces)
            if (piece.Length % granule != 0 || (piece.Device != MappedPiece.Zeros && piece.Offset % granule != 0)) return false;
        return true;
    }

    /// <summary>
    /// The part of [<paramref name="offset"/>, + <paramref name="length"/>) that begins at <paramref name="offset"/> and lies in one piece.
    /// Its length is 0 at the end of the device.
    /// </summary>
    public MappedPiece Locate(long offset, long length)
    {
        int index = Array.BinarySearch(_ends, offset);
        // A match is the end of a piece, so the next one begins there.
        index = index < 0 ? ~index : index + 1;
        if (index >= _pieces.Length) return default;
        MappedPiece piece = _pieces[index];
        long within = offset - (_ends[index] - piece.Length);
        return new MappedPiece(piece.Device, piece.Offset + within, Math.Min(length, piece.Length - within));
    }
}
