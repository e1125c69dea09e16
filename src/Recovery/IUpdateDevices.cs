using System;
using System.Collections.Generic;
using Snapuserd.AndroidDevice;
using Snapuserd.Merge;

namespace Snapuserd.Recovery;

/// <summary>The devices of one merge of an update, opened: a setup for the engine. Disposing closes them.</summary>
public interface IOpenMerge : IDisposable
{
    /// <summary>The setup. Observer, options and storage are those of the devices; the caller may replace them.</summary>
    MergeSetup Setup { get; }

    /// <summary>
    /// After an I/O error: takes the report of other writes that failed, which the kernel gives only once
    /// (<see cref="DeviceSet.TakeErrors"/>).
    /// </summary>
    void TakeErrors();
}

/// <summary>The block devices that an update lies on. Real ones, or simulated ones in tests.</summary>
public interface IUpdateDevices
{
    /// <summary>Opens base, source and COW of a merge.</summary>
    IOpenMerge Open(PlannedMerge merge);

    /// <summary>Opens a COW alone, as base, source and COW of the setup; only for reading.</summary>
    IOpenMerge OpenCow(string name, IReadOnlyList<DevicePiece> pieces);
}
