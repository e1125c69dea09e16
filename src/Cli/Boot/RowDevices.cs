using System;
using Snapuserd.Block;
using Snapuserd.Daemon;
using Snapuserd.Interop;

namespace Snapuserd.Cli.Boot;

/// <summary>
/// What there is of a row's files. Devices may come late, and so may the file system that the COW lies on: what is not there is waited for. A COW that is not there means "no update" only
/// where it would be seen if there were one (<see cref="CowFolder"/>): a folder may be only the place that a file system has yet to be mounted on.
/// </summary>
internal sealed class RowDevices
{
    private const int PauseMilliseconds = 50;

    private RowDevices(CowState state, bool cowIsFile, MarkState mark) => (State, CowIsFile, Mark) = (state, cowIsFile, mark);

    /// <summary>The COW's.</summary>
    internal CowState State { get; }

    /// <summary>The COW is a file, beside which a mark can lie.</summary>
    internal bool CowIsFile { get; }

    /// <summary>The mark beside it.</summary>
    internal MarkState Mark { get; }

    /// <summary>What a mark says of the COW before it is merged: nothing if nothing of it is merged for certain.</summary>
    internal MarkState Says => State is { Kind: CowKind.Begun or CowKind.Doubtful, Digest: { } digest }
        ? new MarkState(State.Kind == CowKind.Begun ? MarkKind.Begun : MarkKind.Maybe, digest, State.Count) : new MarkState(MarkKind.Empty);

    /// <summary>Waits until everything of <paramref name="row"/> is there, then looks at it. Exit code 66 when the clock of <paramref name="system"/> shows <paramref name="deadline"/> before that.</summary>
    internal static RowDevices Find(IBootSystem system, BootRow row, long deadline)
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
                MarkState mark = isDevice ? default : MergingMark.Look(row.Cow);
                CowState state = there ? Look(row, baseBytes, sourceBytes, isDevice, mark.Digest != null) : CowState.Absent;
                // What the COW cannot say, its mark can.
                if (state.Kind == CowKind.Doubtful && mark.Kind == MarkKind.Begun) state = state with { Kind = CowKind.Begun, Sentence = $"the merge of {row.Cow} has begun, says {MergingMark.PathOf(row.Cow)}" };
                if (state.IsIncomplete && (mark.Kind == MarkKind.None || (mark.Kind == MarkKind.Empty && MergingMark.IsDurable(row.Cow)))) state = state with { BaseIsUntouched = true };
                // What no merge may write to is not served either: with an untouched base the old image is what there is to boot from.
                if (state.Kind is CowKind.Untouched or CowKind.Begun or CowKind.Doubtful && (Unwritable(row.Base) ?? Unwritable(row.Cow)) is { } reason)
                    state = state with { Kind = CowKind.Corrupt, BaseIsUntouched = state.Kind == CowKind.Untouched, Code = reason.Code, Sentence = reason.Message };
                return new RowDevices(state, !isDevice, mark);
            }
            if (system.Milliseconds >= deadline) throw new SnapuserdException(ExitCode.InputMissing, missing);
            system.Pause(PauseMilliseconds);
        }
    }

    /// <summary>With the digest where a mark has one to compare, or will need one: a COW that has begun, or may have.</summary>
    private static CowState Look(BootRow row, long baseBytes, long sourceBytes, bool isDevice, bool identify)
    {
        CowState state = CowState.Read(row.Cow, baseBytes, sourceBytes, row.Source == null, identify);
        return state.Kind is CowKind.Begun or CowKind.Doubtful && !isDevice && !identify ? CowState.Read(row.Cow, baseBytes, sourceBytes, row.Source == null, identify: true) : state;
    }

    /// <summary>Looks again, without waiting.</summary>
    internal static CowState LookAgain(IBootSystem system, BootRow row) => Find(system, row, long.MinValue).State;

    /// <summary>Bytes of a device or file. One that is not there, or a device that nothing is behind yet, is <paramref name="missing"/>; whatever else is wrong will not pass, and is thrown.</summary>
    private static long Length(string path, ref string? missing)
    {
        try
        {
            using BlockDevice device = BlockDevice.Open(path, DeviceAccess.Read);
            if (device.IsBlockDevice && device.Length == 0) missing ??= $"{path} has no bytes: nothing is behind that device";
            return device.Length;
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.InputMissing)
        {
            missing ??= e.Message;
            return 0;
        }
    }

    /// <summary>Exit code 65 for an Android sparse image, which is no image that could be mounted or merged into.</summary>
    private static void RefuseSparse(string path)
    {
        using BlockDevice device = BlockDevice.Open(path, DeviceAccess.Read);
        ForeignFormat.RefuseSparse(device);
    }

    /// <summary>Why a merge may not write to a device, whichever program asks; null if it may.</summary>
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
        // A link to nothing is something that is not there, and not nothing.
        bool isLink = Libc.Statx(Libc.AT_FDCWD, cow, Libc.AT_SYMLINK_NOFOLLOW, Libc.STATX_BASIC_STATS, out _) == 0;
        string folder = cow.LastIndexOf('/') is > 0 and int slash ? cow[..slash] : "/";
        int fd = Libc.OpenAt(Libc.AT_FDCWD, folder, Libc.O_RDONLY | Libc.O_DIRECTORY | Libc.O_CLOEXEC);
        if (fd >= 0) _ = Libc.Close(fd);
        if (isLink || result != -Errno.ENOENT) missing ??= $"{cow} cannot be seen: {Reason.Of(result)}";
        else if (fd < 0) missing ??= $"{folder}, the folder of the COW, cannot be seen: {Reason.Of(fd)}";
        else if (system.Doubt(folder) is { } doubt) missing ??= $"{cow} is not there, and {doubt}";
        return false;
    }
}
