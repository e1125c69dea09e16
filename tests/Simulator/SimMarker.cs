using System;
using System.Buffers.Binary;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;

namespace Snapuserd.Tests.Simulator;

/// <summary>
/// Checks, in every simulated run, how the engine uses the marker beside a COW. The engine checks the marker before the first write. It
/// records in the marker that the merge has begun, after the COW durably says so and before any write to Base. It removes the marker after
/// everything is durably counted. A boot relies on this when it finds a marker without content, or an untouched COW beside a marker with
/// content.
/// </summary>
public sealed class SimMarker(SimDisk cow, Func<int> total) : IMergeMarker
{
    private bool _written;

    /// <summary>The engine has checked the marker.</summary>
    public bool IsChecked { get; private set; }

    /// <summary>The count at the beginning of the merge; −1 if it has not begun.</summary>
    public int Begun { get; private set; } = -1;

    /// <summary>The marker is removed.</summary>
    public bool IsOver { get; private set; }

    /// <summary>The first violation; null if there was none.</summary>
    public string? Wrong { get; private set; }

    public void Check(CowFile file)
    {
        if (_written) Wrong ??= "the marker is checked only after the first write";
        IsChecked = true;
    }

    public void Begin(CowFile file, int count)
    {
        if (!IsChecked || Begun >= 0) Wrong ??= "the marker must be checked first, and say only once that the merge has begun";
        ScratchLayout scratch = new(file.Header.HeaderBytes, file.Header.ScratchBytes);
        ReadOnlySpan<byte> head = cow.Durable[0].Bytes;
        // A count also says that the merge has begun.
        if (scratch.Window > 0 && head[scratch.StateOffset] == ScratchLayout.NeverUsed
            && BinaryPrimitives.ReadUInt64LittleEndian(head[CowHeader.MergeCountOffset..]) == 0)
            Wrong ??= "the marker says that the merge has begun, but after a power cut the COW may say that it has not";
        Begun = count;
    }

    public void End()
    {
        if (!IsChecked || IsOver) Wrong ??= "the marker must be checked first, and be removed only once";
        IsOver = true;
        if (BinaryPrimitives.ReadUInt64LittleEndian(cow.Durable[0].Bytes[CowHeader.MergeCountOffset..]) != (ulong)total())
            Wrong ??= "the marker is removed before all ops are durably counted";
    }

    /// <summary>Checks a request of the merge.</summary>
    public void Check(in BlockRequest request)
    {
        if (request.Verb != BlockVerb.Write) return;
        _written = true;
        if (!IsChecked) Wrong ??= "a write is issued before the marker is checked";
        if (request.Device == 1 && Begun < 0) Wrong ??= "Base is written before the marker says that the merge has begun";
    }
}
