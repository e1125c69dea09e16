using System;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Merge;

namespace Snapuserd.Boot;

/// <summary>
/// The state of a row's files. Waits for missing files, because devices and the file system with the COW may appear late. A missing COW
/// means "no update" only if the file system of its folder is certainly mounted (<see cref="CowFolder"/>).
/// </summary>
public sealed class RowDevices
{
    private const int PauseMilliseconds = 50;

    private RowDevices(CowState state, bool cowIsFile, MarkerState mark) => (State, CowIsFile, Marker) = (state, cowIsFile, mark);

    /// <summary>The state of the COW.</summary>
    public CowState State { get; }

    /// <summary>True if the COW is a file, so that a marker can lie beside it.</summary>
    public bool CowIsFile { get; }

    /// <summary>The state of the marker beside the COW.</summary>
    public MarkerState Marker { get; }

    /// <summary>The content of a marker that is made before the COW is merged: empty if the merge has certainly not begun.</summary>
    public MarkerState Says => State is { Kind: CowKind.Begun or CowKind.Unknown, Digest: { } digest }
        ? new MarkerState(State.Kind == CowKind.Begun ? MarkerKind.Begun : MarkerKind.Maybe, digest, State.Count)
        : new MarkerState(MarkerKind.Empty);

    /// <summary>
    /// Waits until all files of <paramref name="row"/> exist, then inspects them. Throws with exit code 66 (EX_NOINPUT) if the clock of
    /// <paramref name="system"/> reaches <paramref name="deadline"/> before that.
    /// </summary>
    public static RowDevices Find(IBootSystem system, BootRow row, long deadline)
    {
        while (true)
        {
            string? missing = null;
            long baseBytes = Length(row.Base, ref missing), sourceBytes = row.Source == null ? baseBytes : Length(row.Source, ref missing);
            bool isDevice = row.Cow.StartsWith("/dev/", StringComparison.Ordinal);
            bool exists = isDevice ? Length(row.Cow, ref missing) > 0 : IsThere(system, row.Cow, ref missing);
            if (missing == null)
            {
                RefuseSparse(row.Base);
                if (row.Source != null) RefuseSparse(row.Source);
                MarkerState mark = isDevice ? default : MergeMarker.Look(row.Cow);
                CowState state = exists ? Look(row, baseBytes, sourceBytes, isDevice, mark.Digest != null) : CowState.Absent;
                // If the COW cannot show whether its merge has begun, the marker decides.
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
                // If no merge can write to the base or the COW, the row is not served either. If the base is untouched, the boot uses the
                // old image.
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
    /// Reads the COW's state. Includes the digest if the marker has one to compare, or if a new marker will need one because the merge has
    /// begun or may have begun.
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

    /// <summary>Throws with exit code 65 (EX_DATAERR) for an Android sparse image, which can be neither mounted nor merged into.</summary>
    private static void RefuseSparse(string path)
    {
        using BlockDevice device = BlockDevice.Open(path, DeviceAccess.Read);
        ForeignFormat.RefuseSparse(device);
    }

    /// <summary>The reason why no program can merge into a device; null if programs can.</summary>
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
