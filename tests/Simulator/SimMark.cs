using System;
using System.Buffers.Binary;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;

namespace Snapuserd.Tests.Simulator;

/// <summary>
/// The mark beside a COW, in every simulated run: it is asked before anything is written, and told that the merge has begun when the COW says so durably and nothing of Base is written, and goes when all is durably counted. What a boot concludes
/// from a mark without content, and from an untouched COW beside one with content, rests on that.
/// </summary>
public sealed class SimMark(SimDisk cow, Func<int> total) : IMergeMark
{
    private bool _written;

    /// <summary>The merge was told to look at it.</summary>
    public bool IsChecked { get; private set; }

    /// <summary>Ops that were counted when the merge began; -1 if it did not.</summary>
    public int Begun { get; private set; } = -1;

    /// <summary>The mark is gone.</summary>
    public bool IsOver { get; private set; }

    /// <summary>What was wrong first; null if nothing was.</summary>
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
        // A count says so as well.
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

    /// <summary>Looks at a request of the merge.</summary>
    public void Check(in BlockRequest request)
    {
        if (request.Verb != BlockVerb.Write) return;
        _written = true;
        if (!IsChecked) Wrong ??= "something is written before the mark was looked at";
        if (request.Device == 1 && Begun < 0) Wrong ??= "Base is written before the mark says that the merge has begun";
    }
}
