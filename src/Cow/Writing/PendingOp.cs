using Snapuserd.Block;

namespace Snapuserd.Cow;

/// <summary>
/// An op on its way to the file. <paramref name="Blocks"/> is the length of a run of Copy or Zero ops, or of the one unit of a Replace.
/// <paramref name="Plain"/> is the payload as the caller gave it. <paramref name="Stored"/> is the buffer for the encoded payload and,
/// once encoded, the bytes that go to the file.
/// </summary>
internal record struct PendingOp(CowOpType Type, uint NewBlock, int Blocks, ulong Source, Slice Plain, Slice Stored);

/// <summary>Lays out ops in the file; one implementation per version. All calls come from the writer's own thread, in file order.</summary>
internal interface IOpWriter
{
    /// <summary>Size in bytes if the file were finished now, as Android reports it (cow-format §11).</summary>
    long Size { get; }

    /// <summary>Op slots of the file: v3's op_count_max, no limit in v2.</summary>
    ulong OpCountMax { get; }

    /// <summary>Adds an op or a run. Exit code 74, with nothing of the op written, when op and payload do not fit the output.</summary>
    void Add(in PendingOp op, System.ReadOnlySpan<byte> stored);

    /// <summary>Adds the sequence list, or the next part of it in v2.</summary>
    void Sequence(System.ReadOnlySpan<uint> blocks);

    /// <summary>Makes everything added so far durable, then adds the label, durably.</summary>
    void Label(ulong label);

    /// <summary>Makes everything added so far durable, then writes the parts that complete the file, durably.</summary>
    void Finish();
}
