using System;
using System.Buffers.Binary;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;

namespace Snapuserd.Tests.Simulator;

/// <summary>
/// Checks, in every simulated run, how the engine uses the mark beside a COW. The engine checks the mark before the first write. It records
/// that the merge has begun after the COW says so durably and before any write to Base. It removes the mark after everything is durably
/// counted. A boot relies on this when it finds a mark without content, or an untouched COW beside a mark with content.
/// </summary>
public sealed class SimMark(SimDisk cow, Func<int> total) : IMergeMark
{
    private bool _written;

    /// <summary>The engine has checked the mark.</summary>
    public bool IsChecked { get; private set; }

    /// <summary>Ops counted when the merge began; −1 if it did not.</summary>
    public int Begun { get; private set; } = -1;

    /// <summary>The mark is removed.</summary>
    public bool IsOver { get; private set; }

    /// <summary>The first violation; null if there was none.</summary>
    public string? Wrong { get; private set; }

    public void Check(CowFile file)
    {
        if (_written) Wrong ??= "the mark is looked at after the first write";
        IsChecked = true;
    }

    public void Begin(CowFile file, int count)
    {
        if (!IsChecked || Begun >= 0) Wrong ??= "the mark says once that the merge has begun, after it was looked at";
        ScratchLayout scratch = new(file.Header.HeaderBytes, file.Header.ScratchBytes);
        ReadOnlySpan<byte> head = cow.Durable[0].Bytes;
        // A count also says that the merge has begun.
        if (scratch.Window > 0 && head[scratch.StateOffset] == ScratchLayout.NeverUsed && BinaryPrimitives.ReadUInt64LittleEndian(head[CowHeader.MergeCountOffset..]) == 0)
            Wrong ??= "the mark says that the merge has begun while the COW may still say after a cut that it has not";
        Begun = count;
    }

    public void End()
    {
        if (!IsChecked || IsOver) Wrong ??= "the mark goes once, after it was looked at";
        IsOver = true;
        if (BinaryPrimitives.ReadUInt64LittleEndian(cow.Durable[0].Bytes[CowHeader.MergeCountOffset..]) != (ulong)total()) Wrong ??= "the mark goes before all is durably counted";
    }

    /// <summary>Checks a request of the merge.</summary>
    public void Check(in BlockRequest request)
    {
        if (request.Verb != BlockVerb.Write) return;
        _written = true;
        if (!IsChecked) Wrong ??= "something is written before the mark was looked at";
        if (request.Device == 1 && Begun < 0) Wrong ??= "Base is written before the mark says that the merge has begun";
    }
}
