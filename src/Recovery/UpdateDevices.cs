using System;
using System.Collections.Generic;
using Snapuserd.AndroidDevice;
using Snapuserd.Block;
using Snapuserd.Merge;

namespace Snapuserd.Recovery;

/// <summary>
/// The block devices of an Android device, or files with their content, as devices of merges that consist of pieces. Each is opened once,
/// so all merges use the same page cache. The caller keeps and closes <paramref name="open"/>, which has them by their names in tables.
/// </summary>
public sealed class UpdateDevices(IReadOnlyDictionary<string, BlockDevice> open, DeviceOptions options, StopFlag stop, WakeUp wakeUp)
    : IUpdateDevices
{
    /// <summary>The kernel may still write to the memory of a merge that has failed: the devices must stay locked until then.</summary>
    public bool IsInUse { get; private set; }

    /// <summary>"uring" or "sync"; "" before the first merge was opened.</summary>
    public string Io { get; private set; } = "";

    /// <inheritdoc/>
    public IOpenMerge Open(PlannedMerge merge)
    {
        bool same = DevicePiece.Bytes(merge.Source) == DevicePiece.Bytes(merge.Base)
            && DevicePiece.AgreeUpToShorter(merge.Source, merge.Base);
        List<IReadOnlyList<DevicePiece>> roles = same ? [merge.Cow, merge.Base] : [merge.Cow, merge.Base, merge.Source];
        BlockDevice[] below = Below(roles, out PieceMap[] maps);
        EngineResources resources = new(below, options, wakeUp, maps);
        MergeDevice target = new(1, merge.Name, maps[1].Length);
        MergeDevice source = same ? target : new MergeDevice(2, "the old " + merge.Name, maps[2].Length);
        return new Opened(this, resources, below, Setup(resources, CowOf(merge.Name, maps), target, source) with
        {
            // With the type spelt out: otherwise null would be an array, and become an empty overlap, which means that nothing is shared.
            Overlap = same ? (ReadOnlyMemory<SharedRange>?)null : DevicePiece.SharedBytes(merge.Source, merge.Base).ToArray(),
            Storage = options.Writes ? new PieceReserver(new StorageReserver(below, stop, options.Report), below, maps) : null,
        });
    }

    /// <inheritdoc/>
    public IOpenMerge OpenCow(string name, IReadOnlyList<DevicePiece> pieces)
    {
        BlockDevice[] below = Below([pieces], out PieceMap[] maps);
        EngineResources resources = new(below, options, wakeUp, maps);
        MergeDevice cow = CowOf(name, maps);
        return new Opened(this, resources, below, Setup(resources, cow, cow, cow));
    }

    private static MergeDevice CowOf(string name, PieceMap[] maps) => new(0, "the COW of " + name, maps[0].Length);

    private MergeSetup Setup(EngineResources resources, MergeDevice cow, MergeDevice target, MergeDevice source) => new()
    {
        Io = resources.Io,
        Arena = resources.Arena,
        Workers = resources.Workers,
        Time = new MonotonicClock(),
        Cow = cow,
        Base = target,
        Source = source,
        Stop = stop,
    };

    /// <summary>The devices that the pieces lie on, and the pieces by the numbers of these devices.</summary>
    private BlockDevice[] Below(List<IReadOnlyList<DevicePiece>> roles, out PieceMap[] maps)
    {
        List<string> names = [];
        maps = new PieceMap[roles.Count];
        for (int role = 0; role < maps.Length; role++)
        {
            List<MappedPiece> pieces = [];
            foreach (DevicePiece piece in roles[role])
            {
                int number = piece.IsZero ? MappedPiece.Zeros : names.IndexOf(piece.Device);
                if (number < 0 && !piece.IsZero)
                {
                    number = names.Count;
                    names.Add(piece.Device);
                }
                pieces.Add(new MappedPiece(number, piece.Start * LpGeometry.SectorBytes, piece.Sectors * LpGeometry.SectorBytes));
            }
            maps[role] = new PieceMap(pieces);
        }
        return [.. names.ConvertAll(name => open[name])];
    }

    private sealed class Opened(UpdateDevices owner, EngineResources resources, BlockDevice[] below, MergeSetup setup) : IOpenMerge
    {
        public MergeSetup Setup => setup;

        public void TakeErrors()
        {
            // The result does not matter: this run ends anyway, and the next one must not fail for it.
            foreach (BlockDevice device in below) _ = FileFlush.Of(device.Fd);
        }

        public void Dispose()
        {
            owner.Io = resources.IsRing ? "uring" : "sync";
            resources.Dispose();
            owner.IsInUse |= resources.IsInUse;
        }
    }
}
