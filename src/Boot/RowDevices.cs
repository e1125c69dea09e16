using System;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Merge;

namespace Snapuserd.Boot;

/// <summary>
/// The state of a row's files. Devices may appear late, and so may the file system with the COW: missing ones are waited for. A missing COW
/// means "no update" only if it would be visible (<see cref="CowFolder"/>): the folder may be a mount point on which a file system is not
/// mounted yet.
/// </summary>
public sealed class RowDevices
{
    private const int PauseMilliseconds = 50;

    private RowDevices(CowState state, bool cowIsFile, MarkerState mark) => (State, CowIsFile, Marker) = (state, cowIsFile, mark);

    /// <summary>The state of the COW.</summary>
    public CowState State { get; }

    /// <summary>The COW is a file, so a marker can lie beside it.</summary>
    public bool CowIsFile { get; }

    /// <summary>The state of the marker beside the COW.</summary>
    public MarkerState Marker { get; }

    /// <summary>The content for a new marker before the COW is merged: empty if certainly nothing of it is merged.</summary>
    public MarkerState Says => State is { Kind: CowKind.Begun or CowKind.Unknown, Digest: { } digest }
        ? new MarkerState(State.Kind == CowKind.Begun ? MarkerKind.Begun : MarkerKind.Maybe, digest,
            State.Count) : new MarkerState(MarkerKind.Empty);

    /// <summary>
    /// Waits until all files of <paramref name="row"/> exist, then inspects them. Exit code 66 when the clock of <paramref name="system"/>
    /// shows <paramref name="deadline"/> before that.
    /// </summary>
    public static RowDevices Find(IBootSystem system, BootRow row, long deadline)
    {
        while (true)
        {
            string? missing = null;
            long baseBytes = Length(row.Base, ref missing), sourceBytes = row.Source == null ? baseBytes : Length(row.Source, ref missing);
            bool isDevice = row.Cow.StartsWith("/dev/", StringComparison.Ordinal);
            bool there = isDevice ? Length(row.Cow, ref missing) > 0 : IsThere(system, row.Cow, ref missing);
            if (missing == null)
            {
                RefuseSparse(row.Base);
                if (row.Source != null) RefuseSparse(row.Source);
                MarkerState mark = isDevice ? default : MergeMarker.Look(row.Cow);
                CowState state = there ? Look(row, baseBytes, sourceBytes, isDevice, mark.Digest != null) : CowState.Absent;
                // The marker decides where the COW cannot.
                if (state is { Kind: CowKind.Unknown, IsNotBegunHere: false } && mark.Kind == MarkerKind.Begun)
                    state = state with
                    {
                        Kind = CowKind.Begun,
                        Sentence = $"the merge of {row.Cow} has begun, says {MergeMarker.PathOf(row.Cow)}",
                    };
                if (state.IsNotBegunHere && !state.BaseIsUntouched && mark.Kind == MarkerKind.Empty && MergeMarker.IsDurable(row.Cow))
                {
                    state = state with { BaseIsUntouched = true };
                    if (state.Kind == CowKind.Unknown)
                        state = state with
                        {
                            Kind = CowKind.Untouched,
                            Sentence = $"nothing of {row.Cow} is merged, says {MergeMarker.PathOf(row.Cow)}",
                        };
                }
                if (state.IsIncomplete
                    && (mark.Kind == MarkerKind.None || (mark.Kind == MarkerKind.Empty && MergeMarker.IsDurable(row.Cow))))
                    state = state with { BaseIsUntouched = true };
                // A base that no merge may write to is not served either: if it is untouched, the boot uses the old image.
                if (state.Kind is CowKind.Untouched or CowKind.Begun or CowKind.Unknown
                    && (Unwritable(row.Base) ?? Unwritable(row.Cow)) is { } reason)
                    state = state with
                    {
                        Kind = CowKind.Corrupt,
                        BaseIsUntouched = state.Kind == CowKind.Untouched,
                        Code = reason.Code,
                        Sentence = reason.Message,
                    };
                return new RowDevices(state, !isDevice, mark);
            }
            if (system.Milliseconds >= deadline) throw new SnapuserdException(ExitCode.InputMissing, missing);
            system.Pause(PauseMilliseconds);
        }
    }

    /// <summary>
    /// Reads the COW's state, with the digest if a marker has one to compare or will need one: for a COW whose merge has begun, or may
    /// have.
    /// </summary>
    private static CowState Look(BootRow row, long baseBytes, long sourceBytes, bool isDevice, bool identify)
    {
        CowState state = CowState.Read(row.Cow, baseBytes, sourceBytes, row.Source == null, identify);
        return state.Kind is CowKind.Begun or CowKind.Unknown && !isDevice
            && !identify ? CowState.Read(row.Cow, baseBytes, sourceBytes, row.Source == null, identify: true) : state;
    }

    /// <summary>Inspects the row again, without waiting.</summary>
    public static CowState LookAgain(IBootSystem system, BootRow row) => Find(system, row, long.MinValue).State;

    /// <summary>
    /// Bytes of a device or file. If it does not exist, or the device has no medium yet, sets <paramref name="missing"/>; other errors are
    /// permanent and are thrown.
    /// </summary>
    private static long Length(string path, ref string? missing)
    {
        try
        {
            using BlockDevice device = BlockDevice.Open(path, DeviceAccess.Read);
            if (device.IsBlockDevice && device.Length == 0) missing ??= $"{path} has no bytes: nothing is attached to that device";
            return device.Length;
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.InputMissing)
        {
            missing ??= e.Message;
            return 0;
        }
    }

    /// <summary>Exit code 65 for an Android sparse image, which can be neither mounted nor merged into.</summary>
    private static void RefuseSparse(string path)
    {
        using BlockDevice device = BlockDevice.Open(path, DeviceAccess.Read);
        ForeignFormat.RefuseSparse(device);
    }

    /// <summary>Why no merge may write to a device, of this or another program; null if a merge may.</summary>
    private static LargeSectorException? Unwritable(string path)
    {
        try
        {
            using BlockDevice device = BlockDevice.Open(path, DeviceAccess.Read);
            device.RefuseLargeSectors();
            return null;
        }
        catch (LargeSectorException e)
        {
            return e;
        }
    }

    private static bool IsThere(IBootSystem system, string cow, ref string? missing)
    {
        int result = Libc.Statx(Libc.AT_FDCWD, cow, 0, Libc.STATX_BASIC_STATS, out _);
        if (result == 0) return true;
        // A dangling link means that the target is not there yet, not that there is no COW.
        bool isLink = Libc.Statx(Libc.AT_FDCWD, cow, Libc.AT_SYMLINK_NOFOLLOW, Libc.STATX_BASIC_STATS, out _) == 0;
        string folder = cow.LastIndexOf('/') is > 0 and int slash ? cow[..slash] : "/";
        int fd = Libc.OpenAt(Libc.AT_FDCWD, folder, Libc.O_RDONLY | Libc.O_DIRECTORY | Libc.O_CLOEXEC);
        if (fd >= 0) _ = Libc.Close(fd);
        if (isLink || result != -Errno.ENOENT) missing ??= $"{cow} cannot be seen: {ErrnoText.Of(result)}";
        else if (fd < 0) missing ??= $"{folder}, the folder of the COW, cannot be seen: {ErrnoText.Of(fd)}";
        else if (system.Doubt(folder) is { } doubt) missing ??= $"{cow} is not there, and {doubt}";
        return false;
    }
}
