using System;
using System.Globalization;
using System.Text;

namespace Snapuserd.AndroidDevice;

/// <summary>State of an update (android-device §5); the numbers are Android's.</summary>
public enum UpdateState
{
    /// <summary>No update.</summary>
    None = 0,
    /// <summary>The update is being written.</summary>
    Initiated = 1,
    /// <summary>The update is written; its slot has not been booted, or is not known to be good.</summary>
    Unverified = 2,
    /// <summary>The merge has begun.</summary>
    Merging = 3,
    /// <summary>The merge of a kernel's snapshots ended; a reboot is needed.</summary>
    MergeNeedsReboot = 4,
    /// <summary>Everything is merged; the next boot cleans up.</summary>
    MergeCompleted = 5,
    /// <summary>A merge failed; every boot tries again.</summary>
    MergeFailed = 6,
    /// <summary>The update is cancelled; the next boot removes it.</summary>
    Cancelled = 7,
}

/// <summary>The part of a merge that Android has begun (android-device §6).</summary>
public enum MergePhase
{
    /// <summary>None.</summary>
    None = 0,
    /// <summary>Partitions that shrink.</summary>
    First = 1,
    /// <summary>All others.</summary>
    Second = 2,
}

/// <summary>
/// The file /metadata/ota/state (SnapshotUpdateStatus, android-device §5): the state of the whole update.
/// </summary>
public sealed class UpdateStatus
{
    private const int StateField = 1;

    // The order of the numbers of UpdateState.
    private static readonly string[] s_words =
        ["none", "initiated", "unverified", "merging", "merge-needs-reboot", "merge-completed", "merge-failed", "cancelled"];

    private ProtobufMessage? _message;

    /// <summary>The state of the update.</summary>
    public UpdateState State { get; private init; }
    /// <summary>Field 5: the snapshots were made for snapuserd.</summary>
    public bool UsingSnapuserd { get; private init; }
    /// <summary>Field 6: the part of the merge that Android has begun. The sizes decide what is merged first, not this field.</summary>
    public MergePhase Phase { get; private init; }
    /// <summary>Field 7: Android's number for the failure, with <see cref="UpdateState.MergeFailed"/>.</summary>
    public ulong FailureCode { get; private init; }
    /// <summary>Field 8: fingerprint of the build that wrote the update; "" if there is none.</summary>
    public string Fingerprint { get; private init; } = "";
    /// <summary>Field 9: snapuserd itself merges, not the kernel (Android 13 and later).</summary>
    public bool UserspaceSnapshots { get; private init; }
    /// <summary>Field 11: snapuserd comes from an Android 12 vendor partition.</summary>
    public bool LegacySnapuserd { get; private init; }

    /// <summary>The word for a state, as Android's own tools print it.</summary>
    public static string Word(UpdateState state) => s_words[(int)state];

    /// <summary>
    /// Parses the file; an empty one means <see cref="UpdateState.None"/>. Early builds of Android 11 wrote a word instead of a message.
    /// Returns null, or the reason why it is invalid.
    /// </summary>
    public static string? Parse(ReadOnlySpan<byte> file, out UpdateStatus status)
    {
        status = new UpdateStatus();
        // The word "initiated" would be a valid message too, of an unknown field.
        int word = Array.IndexOf(s_words, Encoding.ASCII.GetString(file));
        if (word >= 0)
        {
            status = new UpdateStatus { State = (UpdateState)word };
            return null;
        }
        if (ProtobufMessage.Parse(file) is not { } message) return "neither a protobuf message nor a word for a state";
        ulong state = message.Number(StateField), phase = message.Number(6);
        if (state > (ulong)UpdateState.Cancelled) return string.Create(CultureInfo.InvariantCulture, $"unknown state {state}");
        if (phase > (ulong)MergePhase.Second) return string.Create(CultureInfo.InvariantCulture, $"unknown merge phase {phase}");
        if (message.String(8) is not { } fingerprint) return "the fingerprint is not UTF-8";
        status = new UpdateStatus
        {
            _message = message,
            State = (UpdateState)state,
            UsingSnapuserd = message.Flag(5),
            Phase = (MergePhase)phase,
            FailureCode = message.Number(7),
            Fingerprint = fingerprint,
            UserspaceSnapshots = message.Flag(9),
            LegacySnapuserd = message.Flag(11),
        };
        return null;
    }

    /// <summary>
    /// The bytes of the file with state <see cref="UpdateState.MergeCompleted"/> and everything else as it was, also unknown fields.
    /// </summary>
    public byte[] Completed() => (_message ?? new ProtobufMessage()).With(StateField, (ulong)UpdateState.MergeCompleted);
}
