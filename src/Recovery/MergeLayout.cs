using System;
using System.Collections.Generic;
using Snapuserd.AndroidDevice;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;

namespace Snapuserd.Recovery;

/// <summary>
/// The devices of one merge of an update as the engine sees them: 0 is the COW, 1 the base, 2 the source if it is not the base itself. Each
/// consists of pieces of the block devices below. Immutable.
/// </summary>
public sealed class MergeLayout
{
    private readonly string _name;
    private readonly bool _hasBase;
    private readonly SharedRange[]? _overlap;

    private MergeLayout(string name, List<IReadOnlyList<DevicePiece>> roles, SharedRange[]? overlap)
    {
        (_name, _hasBase, _overlap) = (name, roles.Count > 1, overlap);
        List<string> names = [];
        PieceMap[] maps = new PieceMap[roles.Count];
        for (int role = 0; role < maps.Length; role++) maps[role] = MapOf(roles[role], names);
        (Devices, Maps) = (names, maps);
    }

    /// <summary>The names of the block devices below, by their numbers in <see cref="Maps"/>.</summary>
    public IReadOnlyList<string> Devices { get; }

    /// <summary>The pieces of each device of the engine, by its number.</summary>
    public PieceMap[] Maps { get; }

    /// <summary>COW, base and source of a merge.</summary>
    public static MergeLayout Of(PlannedMerge merge)
    {
        bool same = DevicePiece.Bytes(merge.Source) == DevicePiece.Bytes(merge.Base)
            && DevicePiece.AgreeUpToShorter(merge.Source, merge.Base);
        return same ? new MergeLayout(merge.Name, [merge.Cow, merge.Base], null)
            : new MergeLayout(merge.Name, [merge.Cow, merge.Base, merge.Source],
                DevicePiece.SharedBytes(merge.Source, merge.Base).ToArray());
    }

    /// <summary>A COW alone, which stands for base and source too; only for reading.</summary>
    public static MergeLayout OfCow(string name, IReadOnlyList<DevicePiece> pieces) => new(name, [pieces], null);

    /// <summary>The setup of the engine over a queue whose devices are <see cref="Maps"/>.</summary>
    public MergeSetup Setup(IoScheduler io, Arena arena, IWorkQueue<DecodeJob> workers, ITimeSource time, StopFlag stop)
    {
        MergeDevice cow = new(0, "the COW of " + _name, Maps[0].Length);
        MergeDevice target = _hasBase ? new MergeDevice(1, _name, Maps[1].Length) : cow;
        return new MergeSetup
        {
            Io = io,
            Arena = arena,
            Workers = workers,
            Time = time,
            Cow = cow,
            Base = target,
            Source = Maps.Length > 2 ? new MergeDevice(2, "the old " + _name, Maps[2].Length) : target,
            // A null array would convert to an empty list, which means that nothing is shared.
            Overlap = _overlap is { } ranges ? new ReadOnlyMemory<SharedRange>(ranges) : default(ReadOnlyMemory<SharedRange>?),
            Stop = stop,
        };
    }

    private static PieceMap MapOf(IReadOnlyList<DevicePiece> role, List<string> names)
    {
        List<MappedPiece> pieces = [];
        foreach (DevicePiece piece in role)
        {
            int number = piece.IsZero ? MappedPiece.Zeros : names.IndexOf(piece.Device);
            if (number < 0 && !piece.IsZero)
            {
                number = names.Count;
                names.Add(piece.Device);
            }
            pieces.Add(new MappedPiece(number, piece.Start * LpGeometry.SectorBytes, piece.Sectors * LpGeometry.SectorBytes));
        }
        return new PieceMap(pieces);
    }
}
