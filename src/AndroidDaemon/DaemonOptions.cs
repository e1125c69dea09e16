using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Control;
using Snapuserd.Merge;
using Snapuserd.Serve;

namespace Snapuserd.AndroidDaemon;

/// <summary>The kind of device that readers of a snapshot see.</summary>
public enum DaemonDevice
{
    /// <summary>A dm-user device, made by another process.</summary>
    DmUser,
    /// <summary>A ublk device.</summary>
    Ublk,
    /// <summary>An nbd device, or with <see cref="DaemonOptions.SocketFolder"/> a socket that speaks NBD.</summary>
    Nbd,
}

/// <summary>The options of a <see cref="SnapshotDaemon"/>.</summary>
public sealed record DaemonOptions
{
    /// <summary>
    /// The control socket: a path, or the name of a socket that init has opened. If null, the daemon serves <see cref="Snapshots"/> and has
    /// no socket until the proxy hands one over.
    /// </summary>
    public string? Socket { get; init; }

    /// <summary>The snapshots to serve from the start, if there is no socket.</summary>
    public IReadOnlyList<SnapshotRequest> Snapshots { get; init; } = [];

    /// <summary>The kind of device that readers see.</summary>
    public DaemonDevice Device { get; init; }

    /// <summary>The folder for sockets that speak NBD; null for kernel devices.</summary>
    public string? SocketFolder { get; init; }

    /// <summary>The I/O method for devices.</summary>
    public IoChoice Io { get; init; }

    /// <summary>Do not lock devices.</summary>
    public bool WithoutLock { get; init; }

    /// <summary>Decoding threads of one snapshot. 0 means one per processor, within limits.</summary>
    public int Threads { get; init; }

    /// <summary>Threads that answer the reads of one dm-user device, if there is no control socket.</summary>
    public int Workers { get; init; } = 4;

    /// <summary>Decode all payloads before a merge writes anything.</summary>
    public bool VerifyFirst { get; init; } = true;

    /// <summary>Limits the merges that run at the same time, and their memory.</summary>
    public required MergeSlots Slots { get; init; }

    /// <summary>Receives the events of every merge.</summary>
    public required ISnapshotObserver Observer { get; init; }

    /// <summary>Returns an action for one snapshot. It is called with one sentence for each read that fails.</summary>
    public required Func<Action<string>> ReadFailed { get; init; }

    /// <summary>Sets a property of Android to "true"; does nothing on other systems.</summary>
    public required Action<string> SetProperty { get; init; }

    /// <summary>Receives records about snapshots.</summary>
    public required ILog Log { get; init; }
}
