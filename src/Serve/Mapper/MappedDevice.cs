using System;
using Snapuserd.Block;
using Snapuserd.Interop;
using static Snapuserd.Interop.DeviceMapperAbi;

namespace Snapuserd.Serve;

/// <summary>
/// /dev/mapper/NAME: a mapped device whose target can be swapped while it is mounted. Its first target is the served device. After the
/// merge the target is the base, which has the same bytes by then.
/// <para>
/// The hand-over, and the state that a SIGKILL or a power cut leaves at each step:
/// </para>
/// <code>
///   1 the merge's last count is durable     power cut: the COW says "all merged", and the next boot uses the base. All below is in memory
///                                           only
///   2 the claim on the base is given up     kill: the next server finds NAME on the served device, whose readers wait for it, and repeats
///                                           all steps
///   3 the new table is loaded               kill: it stays in the inactive slot and claims the base; the next server first drops it
///                                           (Discard)
///   4 resume: the kernel waits for the      kill: ends the wait; the old table stays, the new one is lost, and the state is that of step
///     reads in flight, and swaps            2. After the swap it is that of step 5. Nothing is in between: it is one system call
///   5 the served device is removed          kill: NAME is on the base; the next server sees that and the count, and repeats this step
///                                           only
/// </code>
/// <para>
/// During step 4 the server's own threads answer the reads in flight; the thread that waits here is not one of them. They also answer
/// udev's reads, which the end of the step waits for (<see cref="UdevCookie"/>). The file system is not frozen (DM_SKIP_LOCKFS_FLAG): a
/// read-only device has no writes.
/// </para>
/// </summary>
public sealed class MappedDevice : IDisposable
{
    /// <summary>
    /// Attempts, <see cref="TryMilliseconds"/> apart, while a device is briefly busy: the last reads of the base under this process's
    /// claim, slow on a slow disk, or udev's probes.
    /// </summary>
    private const int MostTries = 500, TryMilliseconds = 20;

    /// <summary>Times that a signal may interrupt a resume.</summary>
    private const int MostInterruptions = 20;

    private readonly IMapperDriver _driver;

    private MappedDevice(string name, IMapperDriver driver) => (Name, _driver) = (name, driver);

    /// <summary>Its name.</summary>
    public string Name { get; }

    /// <summary>/dev/mapper/NAME.</summary>
    public string Path => _driver.PathOf(Name);

    /// <summary>The device exists.</summary>
    public bool Exists { get; private set; }

    /// <summary>Its active table; null if there is no device, or no readable table.</summary>
    public MapperTable? Table { get; private set; }

    /// <summary>How often it is open or mounted.</summary>
    public int OpenCount { get; private set; }

    /// <summary>The inactive slot has a table: the process that loaded it was killed. That table claims the device that it names.</summary>
    public bool HasPending { get; private set; }

    private bool IsSuspended { get; set; }

    private uint Major { get; set; }

    private uint Minor { get; set; }

    /// <summary>
    /// Opens the state of <paramref name="name"/>, which need not exist. Exit code 64 for an invalid name, 69 without a device mapper, 76
    /// if a device of that name exists and is not ours, 77 without permission.
    /// </summary>
    public static MappedDevice Open(string name)
    {
        CheckName(name);
        return Open(name, new MapperDriver());
    }

    internal static MappedDevice Open(string name, IMapperDriver driver)
    {
        try
        {
            CheckName(name);
            MappedDevice device = new(name, driver);
            device.Look();
            return device;
        }
        catch
        {
            driver.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Checks that <paramref name="name"/> is a valid device name; exit code 64 otherwise. Valid are at most 118 letters, digits and
    /// "#+-.:=@_" of ASCII, which udev and dmsetup write unescaped (the identifier that marks the device as ours contains the name). The
    /// control device's name is not valid.
    /// </summary>
    public static void CheckName(string name)
    {
        string? wrong = name.Length == 0 ? "it is empty"
            : name.Length > MapperMessage.LongestName ? $"it has more than {MapperMessage.LongestName} characters"
            : name is "." or ".." or "control" ? "the name is reserved"
            : null;
        foreach (char c in name)
            if (!char.IsAsciiLetterOrDigit(c) && !"#+-.:=@_".Contains(c, StringComparison.Ordinal))
                wrong ??= "only letters, digits and #+-.:=@_ can be in it";
        if (wrong != null) throw new SnapuserdException(ExitCode.Usage, $"\"{name}\" cannot be the name of a mapped device: {wrong}");
    }

    /// <summary>Reads the current state from the kernel.</summary>
    public void Look()
    {
        Span<byte> message = stackalloc byte[MapperMessage.Bytes];
        (Exists, Table, HasPending, OpenCount, IsSuspended) = (false, null, false, 0, false);
        MapperMessage.Write(message, Name, DM_STATUS_TABLE_FLAG);
        int result = _driver.Control(DM_TABLE_STATUS, message);
        if (result == -Errno.ENXIO) return;
        Check(result, "cannot be looked at");
        ref DmIoctl header = ref MapperMessage.Head(message);
        if (MapperMessage.Text(header.UuidBytes) != MapperMessage.Identifier(Name))
            throw new SnapuserdException(ExitCode.InUse,
                $"there is a mapped device {Name} already, and it is not ours (dmsetup info {Name})");
        (Major, Minor) = Libc.DecodeDevice(header.Dev);
        (Exists, HasPending, OpenCount, IsSuspended) =
            (true, (header.Flags & DM_INACTIVE_PRESENT_FLAG) != 0, header.OpenCount, (header.Flags & DM_SUSPEND_FLAG) != 0);
        if ((header.Flags & DM_ACTIVE_PRESENT_FLAG) != 0) Table = MapperMessage.ReadTable(message);
    }

    /// <summary>
    /// Puts the device on <paramref name="target"/>: creates it, leaves it as it is, or swaps its table; open descriptors read from the new
    /// target after the swap. Exit code 66 if the target is gone, 76 if another program holds it, 71, 74, 77. After a failure the device
    /// keeps its old target, and a device that did not exist does not exist.
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

    /// <summary>Drops the table in the inactive slot, and with it the claim on the device that it names.</summary>
    public void Discard()
    {
        if (!HasPending) return;
        Span<byte> message = stackalloc byte[MapperMessage.Bytes];
        MapperMessage.Write(message, Name, 0);
        Check(_driver.Control(DM_TABLE_CLEAR, message), "keeps a table that is not used");
        HasPending = false;
        // A device that was created and never got a table is useless.
        if (Table == null) TryRemove();
    }

    /// <summary>Removes the device. Exit code 76 while a program has it open or mounted.</summary>
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
            // Not the result: a resume without a new table, which another process may have cleared meanwhile, also succeeds.
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

    /// <summary>Sends a message that makes the kernel raise an event, and waits until udev has processed the event.</summary>
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
            // The caller already has an error to report. The next server finds a device without a table, which it treats as absent.
        }
    }

    private void Check(int result, string what)
    {
        if (result >= 0) return;
        throw new SnapuserdException(ErrnoPolicy.CodeOf(FailedCall.Command, result),
            $"{Path} {what}: {ErrnoText.Of(result)}{(result == -Errno.EINVAL ? "; the kernel's log says more" : "")}");
    }
}
