using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;

namespace Snapuserd.Merge;

/// <summary>
/// The metadata image of the COW: the file from byte 0 to the end of scratch, in memory. It holds the header with <c>num_merge_ops</c>, the
/// state byte, the entries and the slots (<see cref="ScratchLayout"/>). Every write to the COW comes from this image, in whole pages, and
/// never extends the file. Rule 2 of design §5 is asserted here, on every write.
/// <para>
/// Methods that write and flush several times are iterators: each step begins I/O and yields the group that must be done before the next
/// step. The caller can do other work between steps.
/// </para>
/// </summary>
internal sealed class MetadataImage
{
    private const int Page = Sizes.Block;

    private readonly IoScheduler _io;
    private readonly Arena _arena;
    private readonly MergeDevice _cow;
    private readonly Slice _image;
    private readonly int _requestBytes;
    private readonly IoGroup _transfers = new();
    private readonly byte[] _durablePage0;
    private bool _durableKnown;
    private bool _page0Unflushed;
    private bool _changed;

    /// <summary>
    /// Takes memory for the metadata image, sized for windows of up to <paramref name="slots"/> ops, with the slots on page boundaries in
    /// memory. Exit code 71 if there is not enough.
    /// </summary>
    public MetadataImage(MergeSetup setup, ScratchLayout layout, int slots)
    {
        Layout = layout;
        Slots = slots;
        _io = setup.Io;
        _arena = setup.Arena;
        _cow = setup.Cow;
        _requestBytes = setup.Options.RequestBytes;
        long bytes = Math.Min(layout.HeadBytes(slots), _cow.Length);
        Slice? image = bytes <= _arena.Free ? _arena.Take((int)bytes, Page, (int)layout.DataOffset) : null;
        _image = image ?? throw new SnapuserdException(ExitCode.OutOfResources,
            $"{_cow.Name}: windows of {slots} ops take {(bytes >> 20) + 1} MiB of buffer memory beside what the ops need, "
            + $"{_arena.Free >> 20} MiB are left; try a larger --memory");
        _durablePage0 = new byte[Math.Min(Page, _image.Length)];
    }

    /// <summary>The layout of scratch in the COW.</summary>
    public ScratchLayout Layout { get; }

    /// <summary>Slots in the image; 0 if no op from the count on can go through scratch.</summary>
    public int Slots { get; }

    /// <summary>Flushes of the COW so far.</summary>
    public int Flushes { get; private set; }

    /// <summary>Bytes written to the COW so far.</summary>
    public long BytesWritten { get; private set; }

    /// <summary>The image's bytes, for reading.</summary>
    public ReadOnlySpan<byte> Image => _arena[_image];

    private Span<byte> Change()
    {
        _changed = true;
        return _arena[_image];
    }

    /// <summary>
    /// <c>num_merge_ops</c> in the image. It can be any number if another process writes to the device between two reads. Numbers above
    /// <see cref="int.MaxValue"/>, which no COW has, are returned as that.
    /// </summary>
    public int Count
    {
        get => (int)Math.Min(int.MaxValue, BinaryPrimitives.ReadUInt64LittleEndian(Image[CowHeader.MergeCountOffset..]));
        set => BinaryPrimitives.WriteUInt64LittleEndian(Change()[CowHeader.MergeCountOffset..], (ulong)value);
    }

    /// <summary>The magic in the image.</summary>
    public ulong Magic
    {
        get => BinaryPrimitives.ReadUInt64LittleEndian(Image);
        set => BinaryPrimitives.WriteUInt64LittleEndian(Change(), value);
    }

    /// <summary>The scratch state byte in the image; always <see cref="ScratchLayout.NeverUsed"/> without scratch.</summary>
    public byte State
    {
        get => Layout.Window == 0 ? ScratchLayout.NeverUsed : Image[Layout.StateOffset];
        set => Change()[Layout.StateOffset] = value;
    }

    /// <summary>
    /// The state byte on disk after a power cut. It is unknown until the first flush of the run; until then this is 2, so that scratch is
    /// not overwritten.
    /// </summary>
    public byte DurableState => !_durableKnown ? ScratchLayout.Valid : Layout.Window == 0 ? ScratchLayout.NeverUsed
        : _durablePage0[Layout.StateOffset];

    /// <summary>
    /// True once page 0 and the slots of the previous run have been written back, durable or not. Payloads may be read only after that: if
    /// another process changed the file between two reads, the write-back can change their bytes.
    /// </summary>
    public bool IsWrittenBack { get; private set; }

    /// <summary>The arena slice of a slot, for reading.</summary>
    public Slice Slot(int index) => _image.Part((int)Layout.SlotOffset(index), CowOp.BlockSize);

    /// <summary>Copies into the image the contents that the op of a slot will write.</summary>
    public void SetSlot(int index, Slice contents)
    {
        _changed = true;
        _arena[contents].CopyTo(_arena[Slot(index)]);
    }

    /// <summary>The entry of the metadata list at <paramref name="index"/>, from the image.</summary>
    public (ulong NewBlock, ulong FileOffset) Entry(int index)
    {
        ReadOnlySpan<byte> bytes = Image.Slice((int)Layout.EntryOffset(index), ScratchLayout.EntryBytes);
        return (BinaryPrimitives.ReadUInt64LittleEndian(bytes), BinaryPrimitives.ReadUInt64LittleEndian(bytes[8..]));
    }

    /// <summary>Reads the image from the COW.</summary>
    public IEnumerable<IoGroup> Load()
    {
        _io.Read(_cow.Number, 0, _image, _transfers);
        yield return _transfers;
        Check("reading the metadata of");
    }

    /// <summary>
    /// Makes the previous run's metadata durable, at the start of a run: writes page 0 back as it was read, and with state 2 also the pages
    /// of the first <paramref name="entries"/> slots, and flushes. After a kill or a failed flush these pages may be in the page cache
    /// only. The slots are flushed first, because after a power cut the next run would trust state 2 even if the slots are lost.
    /// <para>
    /// For a merge that <paramref name="begins"/>, a state byte of 0 becomes 1, which every engine accepts. The count cannot show that the
    /// merge has begun, because ops are written to Base before they are counted. So count 0 with state byte 0 proves that this program has
    /// not begun (docs/states.md §3).
    /// </para>
    /// </summary>
    public IEnumerable<IoGroup> MakeDurable(int entries, bool begins)
    {
        Assert(!_durableKnown && !_changed, "the previous run's metadata is not written back as it was read");
        if (begins && Layout.Window > 0 && State == ScratchLayout.NeverUsed) State = ScratchLayout.Invalid;
        const string doing = "writing back the metadata of";
        if (entries > 0)
        {
            WriteSlots(entries);
            yield return _transfers;
            Check(doing);
            Flush();
            yield return _transfers;
            Check("flushing");
        }
        WritePage0();
        yield return _transfers;
        Check(doing);
        IsWrittenBack = true;
        Flush();
        yield return _transfers;
        Check("flushing");
        Page0IsDurable();
    }

    /// <summary>
    /// Writes all pages that a window of <paramref name="entries"/> ops uses, page 0 included, and flushes. Rule 2: there must be no valid
    /// window on disk, and the state byte in the image must not be 2.
    /// </summary>
    public IEnumerable<IoGroup> WriteScratch(int entries)
    {
        Assert(_durableKnown && DurableState != ScratchLayout.Valid, "rule 2: scratch is written while a valid window is on disk");
        Assert(State != ScratchLayout.Valid, "rule 2: scratch is written together with a state byte that calls it valid");
        Assert(SameAsDurable(0, Layout.StateOffset), "rule 3: the header changes together with scratch");
        WritePage0();
        WriteSlots(entries);
        yield return _transfers;
        Check("writing the scratch of");
        Flush();
        yield return _transfers;
        Check("flushing");
        Page0IsDurable();
    }

    /// <summary>Writes page 0 and flushes. Only magic, count and state byte may have changed; they are durable at the end.</summary>
    public IEnumerable<IoGroup> Commit()
    {
        Assert(_durableKnown, "page 0 is written before the previous run's metadata is durable");
        Assert(SameAsDurable(sizeof(ulong), CowHeader.MergeCountOffset)
            && SameAsDurable(CowHeader.MergeCountOffset + sizeof(ulong), Layout.StateOffset)
            && SameAsDurable(Layout.StateOffset + 1, _durablePage0.Length), "rule 2: more than magic, count and state changes on page 0");
        WritePage0();
        yield return _transfers;
        Check("writing the header of");
        Flush();
        yield return _transfers;
        Check("flushing");
        Page0IsDurable();
    }

    /// <summary>Writes the entries of the window of <paramref name="blocks"/> into the image: one per slot, and the terminator.</summary>
    public void SetEntries(ReadOnlySpan<uint> blocks)
    {
        for (int i = 0; i <= blocks.Length; i++)
        {
            Span<byte> bytes = Change().Slice((int)Layout.EntryOffset(i), ScratchLayout.EntryBytes);
            BinaryPrimitives.WriteUInt64LittleEndian(bytes, i < blocks.Length ? blocks[i] : 0);
            BinaryPrimitives.WriteUInt64LittleEndian(bytes[8..], i < blocks.Length ? (ulong)Layout.SlotOffset(i) : 0);
        }
    }

    /// <summary>Writes the pages after page 0 that hold entries and slots of a window, each page once.</summary>
    private void WriteSlots(int entries)
    {
        long entriesEnd = (Layout.EntryOffset(entries + 1) + Page - 1) & -Page;
        long slotsEnd = (Layout.SlotOffset(entries) + Page - 1) & -Page;
        long slotsFrom = Math.Max(Layout.DataOffset & -Page, entriesEnd);
        Write(Page, entriesEnd);
        Write(Math.Max(Page, slotsFrom), slotsEnd);
    }

    private void WritePage0()
    {
        Assert(!_page0Unflushed, "page 0 is written while an earlier write of it is not flushed");
        _page0Unflushed = true;
        Write(0, Page);
    }

    /// <summary>Writes whole pages of the image, but nothing past the file's end.</summary>
    private void Write(long from, long to)
    {
        to = Math.Min(to, _image.Length);
        for (; from < to; from += _requestBytes)
        {
            int length = (int)Math.Min(_requestBytes, to - from);
            _io.Write(_cow.Number, from, _image.Part((int)from, length), _transfers);
            BytesWritten += length;
        }
    }

    private void Flush()
    {
        Flushes++;
        _io.Flush(_cow.Number, _transfers);
    }

    private void Page0IsDurable()
    {
        Image[.._durablePage0.Length].CopyTo(_durablePage0);
        _durableKnown = true;
        _page0Unflushed = false;
    }

    private void Check(string doing)
    {
        if (_transfers.TakeFailure() is { } failure)
            throw new SnapuserdException(ExitCode.InputOutput,
                $"{_cow.Name}: {doing} the COW at byte {failure.Request.Offset + failure.Done} failed: {ErrnoText.Of(failure.Errno)}");
    }

    private bool SameAsDurable(int from, int to) => from >= to || Image[from..to].SequenceEqual(_durablePage0.AsSpan(from, to - from));

    private static void Assert(bool holds, string rule)
    {
        if (!holds) throw new InvalidOperationException(rule);
    }
}
