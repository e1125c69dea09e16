using System;
using Snapuserd.Block;
using Snapuserd.Interop;
using static Snapuserd.Interop.DeviceMapperAbi;

namespace Snapuserd.Serve;

/// <summary>
/// /dev/mapper/NAME: a device that stands over another, and whose ground is changed under whoever has it mounted. At first that is the device that is served, and when all is merged the
/// base, which has the same bytes by then.
/// <para>
/// The hand-over, and what a SIGKILL or a power cut finds at each step:
/// </para>
/// <code>
///   1 the merge's last count is durable     a cut leaves a COW that says "all merged": the next boot takes the base as it is. All below is in memory only.
///   2 the claim on the base is given up     a kill: the next server finds NAME on the served device, whose readers wait for it, and does all of it again
///   3 the new table is loaded               a kill: it lies in the inactive slot and claims the base, so whoever begins drops it first (Discard)
///   4 resume: the kernel waits for the      a kill interrupts the wait: the old table goes on, the new one is lost, and it is as in 2;
///     reads in flight, and swaps            after the swap it is as in 5. There is nothing in between: it is one system call
///   5 the served device is removed          a kill: NAME stands on the base; whoever comes again sees that and the count, and has only this to do
/// </code>
/// <para>
/// In step 4 reads in flight are answered by the server, whose threads are not the one that waits here; so are those of udev, which is waited for at the end of the step
/// (<see cref="UdevCookie"/>) and reads the device meanwhile. Nothing is frozen (DM_SKIP_LOCKFS_FLAG): nothing can have been written to a read-only device.
/// </para>
/// </summary>
public sealed class MappedDevice : IDisposable
{
    /// <summary>Tries, <see cref="TryMilliseconds"/> apart, for what somebody holds for a moment: the last reads of the base under our own claim, which a slow disk takes its time for, and udev's looks at a device.</summary>
    private const int MostTries = 500, TryMilliseconds = 20;

    /// <summary>Times that a resume may be interrupted by a signal.</summary>
    private const int MostInterruptions = 20;

    private readonly IMapperDriver _driver;

    private MappedDevice(string name, IMapperDriver driver) => (Name, _driver) = (name, driver);

    /// <summary>Its name.</summary>
    public string Name { get; }

    /// <summary>/dev/mapper/NAME.</summary>
    public string Path => _driver.PathOf(Name);

    /// <summary>There is such a device.</summary>
    public bool Exists { get; private set; }

    /// <summary>What it stands on; null if there is no device, or none that can be read.</summary>
    public MapperTable? Table { get; private set; }

    /// <summary>How many have it open or mounted.</summary>
    public int OpenCount { get; private set; }

    /// <summary>A table was loaded and never taken: whoever did that was killed. It claims the device that it names.</summary>
    public bool HasPending { get; private set; }

    private bool IsSuspended { get; set; }

    private uint Major { get; set; }

    private uint Minor { get; set; }

    /// <summary>
    /// Looks for <paramref name="name"/>, which need not be there. Exit code 64 for a name that cannot be one, 69 without a device mapper, 76 if there is a device of that name that
    /// is not ours, 77 without permission.
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
    /// Exit code 64 unless <paramref name="name"/> can be a device's: letters, digits and "#+-.:=@_" of ASCII, which udev and dmsetup write as they are, at most 118 of them (the identifier
    /// that makes the device ours has the name in it), and not the control device's.
    /// </summary>
    public static void CheckName(string name)
    {
        string? wrong = name.Length == 0 ? "it is empty"
            : name.Length > MapperMessage.LongestName ? $"it has more than {MapperMessage.LongestName} characters"
            : name is "." or ".." or "control" ? "that is no name for a device"
            : null;
        foreach (char c in name)
            if (!char.IsAsciiLetterOrDigit(c) && !"#+-.:=@_".Contains(c, StringComparison.Ordinal)) wrong ??= "only letters, digits and #+-.:=@_ can be in it";
        if (wrong != null) throw new SnapuserdException(ExitCode.Usage, $"\"{name}\" cannot be the name of a mapped device: {wrong}");
    }

    /// <summary>Looks again at what there is.</summary>
    public void Look()
    {
        Span<byte> message = stackalloc byte[MapperMessage.Bytes];
        (Exists, Table, HasPending, OpenCount, IsSuspended) = (false, null, false, 0, false);
        MapperMessage.Write(message, Name, DM_STATUS_TABLE_FLAG);
        int result = _driver.Control(DM_TABLE_STATUS, message);
        if (result == -Errno.ENXIO) return;
        Check(result, "cannot be looked at");
        ref DmIoctl head = ref MapperMessage.Head(message);
        if (MapperMessage.Text(head.UuidBytes) != MapperMessage.Identifier(Name))
            throw new SnapuserdException(ExitCode.InUse, $"there is a mapped device {Name} already, and it is not ours (dmsetup info {Name})");
        (Major, Minor) = Libc.DecodeDevice(head.Dev);
        (Exists, HasPending, OpenCount, IsSuspended) = (true, (head.Flags & DM_INACTIVE_PRESENT_FLAG) != 0, head.OpenCount, (head.Flags & DM_SUSPEND_FLAG) != 0);
        if ((head.Flags & DM_ACTIVE_PRESENT_FLAG) != 0) Table = MapperMessage.ReadTable(message);
    }

    /// <summary>
    /// Makes it stand on <paramref name="target"/>, from one read to the next for those who have it open: creates it, leaves it as it is, or swaps its table. Exit code 66 if the target is
    /// gone, 76 if somebody else holds it, 71, 74, 77; it stands where it stood then, and one that did not exist does not exist.
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

    /// <summary>Drops a table that was loaded and never taken, and with it the claim on the device that it names.</summary>
    public void Discard()
    {
        if (!HasPending) return;
        Span<byte> message = stackalloc byte[MapperMessage.Bytes];
        MapperMessage.Write(message, Name, 0);
        Check(_driver.Control(DM_TABLE_CLEAR, message), "keeps a table that nobody wants");
        HasPending = false;
        // One that was created and never given a table is nothing.
        if (Table == null) TryRemove();
    }

    /// <summary>Removes it. Exit code 76 while somebody has it open or mounted.</summary>
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

    /// <summary>Lets go of the control device; the mapped one stays.</summary>
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
            // Not the result: a resume without a new table, which somebody may have cleared meanwhile, succeeds as well.
            if (target.IsSameAs(Table)) return;
            if (result == 0) result = -Errno.EINTR;
            // A signal ends the wait for reads in flight; the kernel forgets the table that was to come, and says EINVAL.
            if (result is not (-Errno.EINVAL or -Errno.EINTR) || interruptions == MostInterruptions)
            {
                Discard();
                Check(result, $"cannot be put on {target.Path}");
            }
        }
    }

    /// <summary>Sends a message that makes the kernel raise an event, and waits until udev has processed that.</summary>
    private int ControlAndAwaitUdev(uint command, Span<byte> message)
    {
        using UdevCookie cookie = UdevCookie.Take(_driver.Udev, Major, Minor);
        ref DmIoctl head = ref MapperMessage.Head(message);
        head.EventNr = cookie.EventNumber;
        int result = _driver.Control(command, message);
        if (result >= 0 && (head.Flags & DM_UEVENT_GENERATED_FLAG) != 0) _ = cookie.Await();
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
                if (result == -Errno.EBUSY) throw new SnapuserdException(ExitCode.InUse, $"{Path} cannot be put on {target.Path}: that is in use: mounted, mapped, or held by another program (EBUSY)");
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
            // There is a reason to be told already, and whoever comes next finds a device without a table, which is as good as none.
        }
    }

    private void Check(int result, string what)
    {
        if (result >= 0) return;
        ExitCode code = result switch
        {
            -Errno.EPERM or -Errno.EACCES or -Errno.EROFS => ExitCode.Permission,
            -Errno.ENOMEM or -Errno.EMFILE or -Errno.ENFILE or -Errno.ENOSPC => ExitCode.OutOfResources,
            -Errno.EBUSY or -Errno.EEXIST => ExitCode.InUse,
            -Errno.ENXIO or -Errno.ENODEV or -Errno.ENOENT => ExitCode.InputMissing,
            -Errno.ENOTTY => ExitCode.Unavailable,
            _ => ExitCode.InputOutput,
        };
        throw new SnapuserdException(code, $"{Path} {what}: {Reason.Of(result)}{(result == -Errno.EINVAL ? "; the kernel's log says more" : "")}");
    }
}
