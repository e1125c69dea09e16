using System;
using Snapuserd.Block;
using Snapuserd.Interop;
using static Snapuserd.Interop.DeviceMapperAbi;

namespace Snapuserd.Serve;

/// <summary>
/// /dev/mapper/NAME: a mapped device whose target can be swapped while it is mounted. Its first target is the served device. After the
/// merge it is the base, which then has the same content.
/// <para>
/// The steps of the hand-over, and the state after a SIGKILL or a power cut at each step:
/// </para>
/// <code>
///   1 the merge's last count is durable     power cut: the COW says "all merged", and the next boot uses the base. All later steps change
///                                           only memory
///   2 the server releases the base          kill: NAME is still on the served device, whose readers wait. The next server repeats all
///                                           steps
///   3 the new table is loaded               kill: the table stays in the inactive slot and claims the base. The next server drops it first
///                                           (Discard)
///   4 resume: the kernel waits for the      kill before the swap: the wait ends, the old table stays, and the new one is lost, as at step
///     reads in flight, and swaps            2. Kill after the swap: as at step 5. There is no state in between, because resume is one
///                                           system call
///   5 the served device is removed          kill: NAME is on the base. The next server sees that and the count, and repeats only this step
/// </code>
/// <para>
/// During step 4 the thread that executes the hand-over waits, while the server's other threads answer the reads in flight. They also
/// answer the reads of udev, whose end the thread awaits as well (<see cref="UdevCookie"/>). The file system is not frozen
/// (DM_SKIP_LOCKFS_FLAG), because a read-only device has no writes.
/// </para>
/// </summary>
public sealed class MappedDevice : IDisposable
{
    /// <summary>
    /// The maximum number of attempts, <see cref="TryMilliseconds"/> apart, while a device is busy. It may be busy for a moment with this
    /// process's last reads of the base, which take longer on a slow disk, or with udev's probes.
    /// </summary>
    private const int MostTries = 500, TryMilliseconds = 20;

    /// <summary>The maximum number of resumes that a signal may interrupt.</summary>
    private const int MostInterruptions = 20;

    private readonly IMapperDriver _driver;
    private bool _isForeign;

    private MappedDevice(string name, IMapperDriver driver) => (Name, _driver) = (name, driver);

    /// <summary>The device's name.</summary>
    public string Name { get; }

    /// <summary>/dev/mapper/NAME.</summary>
    public string Path => _driver.PathOf(Name);

    /// <summary>True if the device exists.</summary>
    public bool Exists { get; private set; }

    /// <summary>The device's active table; null if the device does not exist or has no table.</summary>
    public MapperTable? Table { get; private set; }

    /// <summary>The number of times that the device is open or mounted.</summary>
    public int OpenCount { get; private set; }

    /// <summary>
    /// True if the inactive slot has a table, because the process that loaded it was killed. Such a table claims the device that it names.
    /// </summary>
    public bool HasPending { get; private set; }

    private bool IsSuspended { get; set; }

    private uint Major { get; set; }

    private uint Minor { get; set; }

    /// <summary>
    /// Reads the state of the mapped device <paramref name="name"/>, which need not exist. Throws with exit code 64 for an invalid name, 69
    /// without a device mapper, 76 if a device of that name exists that this program did not create, and 77 without permission.
    /// </summary>
    public static MappedDevice Open(string name)
    {
        CheckName(name);
        return Open(name, new MapperDriver());
    }

    /// <summary>As <see cref="Open(string)"/>, but null if another program created the device of that name.</summary>
    public static MappedDevice? OpenOwn(string name)
    {
        CheckName(name);
        MappedDevice device = Open(name, new MapperDriver(), refusesForeign: false);
        if (!device._isForeign) return device;
        device.Dispose();
        return null;
    }

    internal static MappedDevice Open(string name, IMapperDriver driver, bool refusesForeign = true)
    {
        try
        {
            CheckName(name);
            MappedDevice device = new(name, driver);
            device.Look(refusesForeign);
            return device;
        }
        catch
        {
            driver.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Checks that <paramref name="name"/> is a valid device name; throws with exit code 64 otherwise. A valid name has at most 118 ASCII
    /// letters, digits and characters of "#+-.:=@_", which udev and dmsetup do not escape. The limit is that of the identifier that marks
    /// the device as ours, which contains the name. "control" is reserved for the control device.
    /// </summary>
    public static void CheckName(string name)
    {
        string? wrong = name.Length == 0 ? "it is empty"
            : name.Length > MapperMessage.LongestName ? $"it has more than {MapperMessage.LongestName} characters"
            : name is "." or ".." or "control" ? "the name is reserved"
            : null;
        foreach (char c in name)
            if (!char.IsAsciiLetterOrDigit(c) && !"#+-.:=@_".Contains(c, StringComparison.Ordinal))
                wrong ??= "only letters, digits and #+-.:=@_ are allowed";
        if (wrong != null) throw new SnapuserdException(ExitCode.Usage, $"\"{name}\" cannot be the name of a mapped device: {wrong}");
    }

    /// <summary>Reads the current state from the kernel. Throws with exit code 76 if another program created the device.</summary>
    public void Look() => Look(refusesForeign: true);

    private void Look(bool refusesForeign)
    {
        Span<byte> message = stackalloc byte[MapperMessage.Bytes];
        _isForeign = false;
        (Exists, Table, HasPending, OpenCount, IsSuspended) = (false, null, false, 0, false);
        MapperMessage.Write(message, Name, DM_STATUS_TABLE_FLAG);
        int result = _driver.Control(DM_TABLE_STATUS, message);
        if (result == -Errno.ENXIO) return;
        Check(result, "cannot be looked at");
        ref DmIoctl header = ref MapperMessage.Head(message);
        _isForeign = MapperMessage.Text(header.UuidBytes) != MapperMessage.Identifier(Name);
        if (_isForeign && !refusesForeign) return;
        if (_isForeign)
            throw new SnapuserdException(ExitCode.InUse,
                $"there is a mapped device {Name} already, and it is not ours (dmsetup info {Name})");
        (Major, Minor) = Libc.DecodeDevice(header.Dev);
        (Exists, HasPending, OpenCount, IsSuspended) =
            (true, (header.Flags & DM_INACTIVE_PRESENT_FLAG) != 0, header.OpenCount, (header.Flags & DM_SUSPEND_FLAG) != 0);
        if ((header.Flags & DM_ACTIVE_PRESENT_FLAG) != 0) Table = MapperMessage.ReadTable(message);
    }

    /// <summary>
    /// Maps the device to <paramref name="target"/>: creates it if it does not exist, and swaps its table if that is for another target.
    /// After the swap, open descriptors read from the new target. Throws with exit code 66 if the target is gone, 76 if another program
    /// holds it, and with 71, 74 or 77. After a failure the device keeps its old target, or is removed if this call created it.
    /// </summary>
    public void StandOn(in MapperTarget target)
    {
        _driver.Udev.PlaceRules();
        Look();
        bool created = !Exists;
        if (created) Create();
        try
        {
            if (!target.IsSameAs(Table) || IsSuspended) Swap(target);
            else Discard();
            Check(_driver.MakeNode(Name, Major, Minor), "has no node");
        }
        catch
        {
            if (created) TryRemove();
            throw;
        }
    }

    /// <summary>
    /// Creates the device, read-only, out of these pieces. Throws with exit code 76 if there is a device of that name, or if another
    /// program holds what is below, and with 66, 71, 74 or 77. After a failure there is no device.
    /// </summary>
    public void CreateFrom(ReadOnlySpan<MapperPiece> pieces)
    {
        if (Exists)
            throw new SnapuserdException(ExitCode.InUse, $"there is a mapped device {Name} already (snapuserd android unmap removes it)");
        _driver.Udev.PlaceRules();
        Create();
        try
        {
            byte[] message = new byte[MapperMessage.BytesFor(pieces.Length)];
            MapperMessage.WriteTable(message, Name, pieces, readOnly: true);
            Check(_driver.Control(DM_TABLE_LOAD, message), "cannot be mapped");
            Span<byte> resume = message.AsSpan(0, MapperMessage.Bytes);
            MapperMessage.Write(resume, Name, DM_SKIP_LOCKFS_FLAG);
            Check(ControlAndAwaitUdev(DM_DEV_SUSPEND, resume), "cannot be mapped");
            Check(_driver.MakeNode(Name, Major, Minor), "has no node");
        }
        catch
        {
            TryRemove();
            throw;
        }
    }

    /// <summary>Drops the table in the inactive slot, which releases the device that it names.</summary>
    public void Discard()
    {
        if (!HasPending) return;
        Span<byte> message = stackalloc byte[MapperMessage.Bytes];
        MapperMessage.Write(message, Name, 0);
        Check(_driver.Control(DM_TABLE_CLEAR, message), "cannot drop its inactive table");
        HasPending = false;
        // A device without a table is of no use: its creator was killed before the first resume.
        if (Table == null) TryRemove();
    }

    /// <summary>Removes the device. Throws with exit code 76 while a program has it open or mounted.</summary>
    public void Remove()
    {
        if (!Exists) return;
        Span<byte> message = stackalloc byte[MapperMessage.Bytes];
        int result;
        for (int tries = MostTries / 5; ; tries--)
        {
            MapperMessage.Write(message, Name, 0);
            result = ControlAndAwaitUdev(DM_DEV_REMOVE, message);
            if (result != -Errno.EBUSY || tries == 0) break;
            _driver.Pause(TryMilliseconds);
        }
        if (result != -Errno.ENXIO) Check(result, "cannot be removed");
        _driver.RemoveNode(Name, Major, Minor);
        (Exists, Table, HasPending) = (false, null, false);
    }

    /// <summary>Closes the control device; the mapped device stays.</summary>
    public void Dispose() => _driver.Dispose();

    private void Create()
    {
        Span<byte> message = stackalloc byte[MapperMessage.Bytes];
        MapperMessage.WriteCreation(message, Name);
        Check(_driver.Control(DM_DEV_CREATE, message), "cannot be created");
        (Major, Minor) = Libc.DecodeDevice(MapperMessage.Head(message).Dev);
        Exists = true;
    }

    private void Swap(in MapperTarget target)
    {
        Span<byte> message = stackalloc byte[MapperMessage.Bytes];
        for (int interruptions = 0; ; interruptions++)
        {
            Load(target, message);
            MapperMessage.Write(message, Name, DM_SKIP_LOCKFS_FLAG);
            int result = ControlAndAwaitUdev(DM_DEV_SUSPEND, message);
            Look();
            // Check the table instead of the result: a resume also succeeds if another process has cleared the new table meanwhile.
            if (target.IsSameAs(Table)) return;
            if (result == 0) result = -Errno.EINTR;
            // A signal ends the wait for reads in flight; the kernel drops the new table and reports EINVAL.
            if (result is not (-Errno.EINVAL or -Errno.EINTR) || interruptions == MostInterruptions)
            {
                Discard();
                Check(result, $"cannot be put on {target.Path}");
            }
        }
    }

    /// <summary>Sends a command that makes the kernel send an event, and waits until udev has processed the event.</summary>
    private int ControlAndAwaitUdev(uint command, Span<byte> message)
    {
        using UdevCookie cookie = UdevCookie.Take(_driver.Udev, Major, Minor);
        ref DmIoctl header = ref MapperMessage.Head(message);
        header.EventNr = cookie.EventNumber;
        int result = _driver.Control(command, message);
        if (result >= 0 && (header.Flags & DM_UEVENT_GENERATED_FLAG) != 0) _ = cookie.Await();
        return result;
    }

    private void Load(in MapperTarget target, Span<byte> message)
    {
        for (int tries = MostTries; ; tries--)
        {
            MapperMessage.WriteTable(message, Name, target);
            int result = _driver.Control(DM_TABLE_LOAD, message);
            if (result == 0) return;
            if (result is not (-Errno.EBUSY or -Errno.EINTR) || tries == 0)
            {
                if (result == -Errno.EBUSY)
                {
                    throw new SnapuserdException(ErrnoPolicy.CodeOf(FailedCall.Command, result),
                        $"{Path} cannot be put on {target.Path}: that is in use: mounted, mapped, or held by another program (EBUSY)");
                }
                Check(result, $"cannot be put on {target.Path}");
            }
            _driver.Pause(TryMilliseconds);
        }
    }

    private void TryRemove()
    {
        try
        {
            Remove();
        }
        catch (SnapuserdException)
        {
            // The caller already has an error to report. A next server treats a device without a table as absent.
        }
    }

    private void Check(int result, string what)
    {
        if (result >= 0) return;
        throw new SnapuserdException(ErrnoPolicy.CodeOf(FailedCall.Command, result),
            $"{Path} {what}: {ErrnoText.Of(result)}{(result == -Errno.EINVAL ? "; the kernel's log says more" : "")}");
    }
}
