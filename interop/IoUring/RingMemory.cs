namespace Snapuserd.Interop;

/// <summary>Location of a ring's parts in this process: three base addresses and the offsets that io_uring_setup returned.</summary>
/// <param name="SubmissionRing">Address of the submission ring's mapping.</param>
/// <param name="CompletionRing">Address of the completion ring's mapping; the same one with IORING_FEAT_SINGLE_MMAP.</param>
/// <param name="Entries">Address of the request entries.</param>
/// <param name="EntrySize">Bytes per request entry: 64 or 128.</param>
/// <param name="Submission">Offsets in the submission ring.</param>
/// <param name="Completion">Offsets in the completion ring.</param>
public readonly record struct RingMemory(
    nint SubmissionRing, nint CompletionRing, nint Entries, int EntrySize, IoSqringOffsets Submission, IoCqringOffsets Completion);
