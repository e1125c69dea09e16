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
        MergeLayout layout = MergeLayout.Of(merge);
        Opened opened = OpenLayout(layout, out BlockDevice[] below);
        if (!options.Writes) return opened;
        return opened.With(new PieceReserver(new StorageReserver(below, stop, options.Report), below, layout.Maps));
    }

    /// <inheritdoc/>
    public IOpenMerge OpenCow(string name, IReadOnlyList<DevicePiece> pieces) => OpenLayout(MergeLayout.OfCow(name, pieces), out _);

    private Opened OpenLayout(MergeLayout layout, out BlockDevice[] below)
    {
        below = new BlockDevice[layout.Devices.Count];
        for (int i = 0; i < below.Length; i++) below[i] = open[layout.Devices[i]];
        EngineResources resources = new(below, options, wakeUp, layout.Maps);
        return new Opened(this, resources, below,
            layout.Setup(resources.Io, resources.Arena, resources.Workers, new MonotonicClock(), stop));
    }

    private sealed class Opened(UpdateDevices owner, EngineResources resources, BlockDevice[] below, MergeSetup setup) : IOpenMerge
    {
        public MergeSetup Setup { get; private set; } = setup;

        internal Opened With(IStorageReserver storage)
        {
            Setup = Setup with { Storage = storage };
            return this;
        }

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
