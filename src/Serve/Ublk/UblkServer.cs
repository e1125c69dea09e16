using System;
using System.Collections.Generic;
using System.Runtime.InteropServices;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;
using static Snapuserd.Interop.UblkAbi;

namespace Snapuserd.Serve;

/// <summary>
/// Provides a <see cref="SnapshotView"/> as /dev/ublkbN, in Linux 6.5 and later. Control commands and queues have threads of their own. The
/// steps to add a device, to take one over, and to stop:
/// <code>
///   check features -> add, set parameters -> queues allocate -> open /dev/ublkcN -> every queue fetches every tag
///     -> queues map their requests -> start
///   check features -> queues allocate -> open /dev/ublkcN, see which queues have a dead server -> close, start recovery, open
///     -> fetch -> map -> end recovery
///   stop -> every tag is returned as aborted, queues end -> close /dev/ublkcN -> delete
/// </code>
/// The device outlives a killed server (UBLK_F_USER_RECOVERY). New requests and those in flight (_REISSUE) wait until the next server with
/// the same number takes the device over: readers see a pause, but no error. <see cref="TakeOver"/> explains why this holds even if a
/// server is killed while it starts or takes a device over.
/// <para>
/// The server copies data to the driver by pwrite (UBLK_F_USER_COPY, which every kernel with the required GET_FEATURES has). So it needs a
/// buffer per read in flight instead of one per tag, and a device that is taken over needs no more memory than any other.
/// </para>
/// </summary>
public sealed class UblkServer : IBlockServer
{
    private const ulong NeededFeatures = UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE | UBLK_F_CMD_IOCTL_ENCODE | UBLK_F_USER_COPY;

    /// <summary>
    /// "snap". The upper half of the value that the driver stores for a server (ServerFlags); marks a device as ours. The lower half
    /// identifies the image.
    /// </summary>
    private const uint Mark = 0x736e6170;

    /// <summary>Milliseconds between two checks of a state that no event announces.</summary>
    private const int LookMilliseconds = 10;

    /// <summary>
    /// Milliseconds for which a device may stay live after its server's death: the server's last reads from a slow disk end first. If this
    /// limit is too short, the device is reported as in use although it is not.
    /// </summary>
    private const int DeathMilliseconds = 20_000;

    /// <summary>
    /// Milliseconds for which a device may stay live after its server's death before the character device is checked for a holder.
    /// </summary>
    private const int LostMilliseconds = 5_000;

    /// <summary>
    /// The limit in milliseconds if a process with the server's ID exists. It may be a zombie, which is dead as well, or a live server.
    /// </summary>
    private const int DoubtMilliseconds = 1_000;

    /// <summary>
    /// Milliseconds for which Stop waits until the device is deleted; another program may have it open. Until then its number cannot be
    /// used again.
    /// </summary>
    private const int GoneMilliseconds = 2_000;

    /// <summary>Milliseconds that the queues may take to end after a successful stop, which has already returned every tag.</summary>
    private const int QueueMilliseconds = 10_000;

    /// <summary>Milliseconds to wait for a node, which udev may make with a delay. devtmpfs makes it at once.</summary>
    private const int NodeMilliseconds = 3_000;

    /// <summary>The phase up to which the queues may proceed.</summary>
    private enum Phase { Prepare, Fetch, Map }

    private readonly object _gate = new();
    private readonly SnapshotView _view;
    private readonly BlockDevice[] _devices;
    private readonly UblkOptions _options;
    private readonly WakeUp _wakeUp;
    private readonly Func<IUblkDriver> _makeDriver;
    private IUblkDriver? _driver;
    private Thread[] _threads = [];
    private WakeUp[] _wakeUps = [];
    private SnapuserdException? _failed;
    private string? _failure;
    private Phase _phase;
    private int _done;
    private int _mapRefused;
    private int[] _threadNumbers = [];
    private int _id = -1;
    private int _fd = -1;
    private bool _started;
    private bool _stopping;
    private bool _abandoned;
    private bool _ended;

    /// <summary>
    /// A server for <paramref name="view"/>; does nothing before <see cref="Start"/>. <paramref name="devices"/> are the devices of the
    /// view's engine, indexed by device number. <paramref name="wakeUp"/> is signalled when <see cref="Failure"/> is set. The caller keeps
    /// ownership of all three, which must outlive the server.
    /// </summary>
    public UblkServer(SnapshotView view, BlockDevice[] devices, UblkOptions options, WakeUp wakeUp)
        : this(view, devices, options, wakeUp, () => new UblkDriver())
    {
    }

    internal UblkServer(SnapshotView view, BlockDevice[] devices, UblkOptions options, WakeUp wakeUp, Func<IUblkDriver> makeDriver) =>
        (_view, _devices, _options, _wakeUp, _makeDriver) = (view, devices, options, wakeUp, makeDriver);

    /// <inheritdoc/>
    public string? Failure => Volatile.Read(ref _failure);

    /// <summary>Number of the device; −1 before <see cref="Start"/>.</summary>
    public int Id => _id;

    /// <summary>True if the device of a killed server was taken over.</summary>
    public bool Recovered { get; private set; }

    /// <inheritdoc/>
    public string Start()
    {
        if (_view.Length % 512 != 0 || _view.Length == 0)
            throw new SnapuserdException(ExitCode.Unavailable,
                $"a ublk device has whole sectors of 512 bytes, and the image has {_view.Length} bytes");
        _driver = _makeDriver();
        try
        {
            CheckFeatures();
            int bytesPerRead = ViewReader.BytesPerRead(_view);
            if (_options.Id >= 0 && TryFind(bytesPerRead) is { } found)
            {
                TakeOver(found);
            }
            else
            {
                UblkGeometry geometry = Add(UblkGeometry.For(_options, bytesPerRead), bytesPerRead);
                PrepareQueues(geometry);
                OpenCharacterDevice(NodeMilliseconds);
                FetchAll();
                if (MapAll() is { } refused) throw refused;
            }
            Check(_driver.Control(Recovered ? UBLK_U_CMD_END_USER_RECOVERY : UBLK_U_CMD_START_DEV, _id, (ulong)Libc.GetPid(), default),
                Recovered ? "taken over" : "started");
            _started = true;
            // Do not read the device here: if a process is killed while it reads its own device, it waits for the next server, which then
            // finds the device in use.
            if (!Recovered) WaitForNode();
            else _options.Report?.Invoke($"{_driver.PathOf(_id)}: taken over from a server that was killed");
            return _driver.PathOf(_id);
        }
        catch
        {
            Stop();
            throw;
        }
    }

    /// <inheritdoc/>
    public void Stop()
    {
        lock (_gate)
        {
            if (_stopping)
            {
                while (!_ended) Monitor.Wait(_gate);
                return;
            }
            _stopping = true;
            Monitor.PulseAll(_gate);
        }
        try
        {
            if (_driver != null) Remove(_driver);
        }
        finally
        {
            lock (_gate)
            {
                _ended = true;
                Monitor.PulseAll(_gate);
            }
        }
    }

    /// <summary>Stops the server, unless it was stopped before.</summary>
    public void Dispose() => Stop();

    /// <summary>
    /// Removes device <paramref name="id"/> if it is one of ours and its server is dead, so that its readers get errors instead of waiting
    /// for ever. For a supervisor that does not start another server. False if the device does not exist or was not removed. Never throws.
    /// </summary>
    public static bool RemoveDead(int id)
    {
        try
        {
            using IUblkDriver driver = new UblkDriver();
            UblksrvCtrlDevInfo info = default;
            if (Info(driver, id, ref info) < 0 || info.ServerFlags >> 32 != Mark || !IsDead(info)) return false;
            _ = driver.Control(UBLK_U_CMD_STOP_DEV, id, 0, default);
            return Delete(driver, id);
        }
        catch (SnapuserdException)
        {
            return false;
        }
    }

    /// <summary>Path of block device <paramref name="id"/>.</summary>
    public static string PathOf(int id) => UblkDriver.NodeOf(id);

    /// <summary>
    /// True if device <paramref name="id"/> is one of ours and its readers wait for the next server, or will wait once the driver notices
    /// that its server is dead. Never throws.
    /// </summary>
    public static bool IsWaiting(int id) => IsWaiting(id, () => new UblkDriver());

    internal static bool IsWaiting(int id, Func<IUblkDriver> makeDriver)
    {
        try
        {
            using IUblkDriver driver = makeDriver();
            UblksrvCtrlDevInfo info = default;
            return Info(driver, id, ref info) == 0 && info.ServerFlags >> 32 == Mark && info.State != UBLK_S_DEV_DEAD && IsDead(info);
        }
        catch (SnapuserdException)
        {
            return false;
        }
    }

    private void CheckFeatures()
    {
        Span<ulong> features = stackalloc ulong[1];
        features[0] = 0;
        int result = _driver!.Control(UBLK_U_CMD_GET_FEATURES, -1, 0, MemoryMarshal.AsBytes(features));
        if (result is -Errno.EPERM or -Errno.EACCES)
            throw ErrnoPolicy.Failure(FailedCall.Command, result, "ublk devices are for privileged processes (CAP_SYS_ADMIN)");
        if (result < 0 || (features[0] & NeededFeatures) != NeededFeatures)
            throw new SnapuserdException(ExitCode.Unavailable,
                $"the ublk driver of this kernel ({Libc.KernelRelease()}) is older than Linux 6.5 and lacks features that are needed");
    }

    /// <summary>
    /// Looks for a device with the requested number that can be taken over, and removes a stale one. Null if there is none afterwards, so
    /// that it can be added. Throws with exit code 76 if another program serves or uses the device.
    /// </summary>
    private UblkGeometry? TryFind(int bytesPerRead)
    {
        int id = _options.Id;
        string path = _driver!.PathOf(id);
        UblksrvCtrlDevInfo info = default;
        for (int wait = 0; ; wait += LookMilliseconds)
        {
            int result = Info(_driver, id, ref info);
            if (result == -Errno.ENODEV) return null;
            if (result < 0) throw ErrnoPolicy.Failure(FailedCall.Command, result, $"{path}: the driver does not describe the device");
            if (info.State != UBLK_S_DEV_LIVE) break;
            // A killed server keeps the device until its last request has ended.
            bool isGone = IsGone(info.Pid);
            if (wait >= (isGone ? DeathMilliseconds : DoubtMilliseconds)) throw InUse(path, info);
            if (isGone && wait >= LostMilliseconds && info.ServerFlags >> 32 == Mark && IsLost(id))
            {
                RemoveStale(id, "was left by a server that was killed while it started");
                return null;
            }
            _driver.Pause(LookMilliseconds);
        }
        if (info.State == UBLK_S_DEV_DEAD)
        {
            // The device was never started, or was stopped and not deleted.
            if (!IsDead(info)) throw InUse(path, info);
            RemoveStale(id, "was never started or was stopped");
            return null;
        }
        if (info.ServerFlags >> 32 != Mark)
            throw new SnapuserdException(ExitCode.InUse,
                $"{path} belongs to another ublk server, which is gone; let that one take it over, or delete the device");
        UblkGeometry geometry = UblkGeometry.Of(info, _options, bytesPerRead);
        if (info.ServerFlags != Identity() || (info.Flags & NeededFeatures) != NeededFeatures || SectorsOf(id) != (ulong)_view.Length / 512
            || !geometry.IsSane(bytesPerRead))
        {
            RemoveStale(id, "was another image's");
            return null;
        }
        (_id, Recovered) = (id, true);
        _options.Ours?.Invoke();
        return geometry;
    }

    /// <summary>
    /// True if the driver reports the device as live although its server is gone and no process has /dev/ublkcN open. In Linux 6.12 this
    /// can happen when a server is killed while the kernel executes START_DEV or END_USER_RECOVERY. No command makes such a device
    /// recoverable.
    /// </summary>
    private bool IsLost(int id)
    {
        int fd = _driver!.OpenCharacterDevice(id);
        if (fd < 0) return false;
        // When this descriptor is closed, newer drivers (Linux 7.3) notice that the server is gone.
        _ = Libc.Close(fd);
        _driver.Pause(LookMilliseconds);
        UblksrvCtrlDevInfo info = default;
        return Info(_driver, id, ref info) == 0 && info.State == UBLK_S_DEV_LIVE && IsGone(info.Pid);
    }

    /// <summary>
    /// Takes over the device of a dead server, up to the point where every queue has fetched its tags and only END_USER_RECOVERY remains.
    /// After a kill at any point, the next server can take the device over. In Linux 6.12 this requires a certain order, because
    /// START_USER_RECOVERY fails (EINVAL) if no queue has fetched since the last one, and dereferences a null pointer if one queue has
    /// fetched and another has not. It also makes the driver forget which process has mapped the requests. So:
    /// <list type="bullet">
    /// <item>all memory, threads and rings exist before the first command;</item>
    /// <item>START_USER_RECOVERY is sent only when the driver has recorded a server for every queue (<see cref="IUblkDriver.AskQueue"/>).
    /// For queues without a recorded server, a thread that then ends fetches the tags first;</item>
    /// <item>one system call fetches all tags of a queue, and all queues fetch at the same time;</item>
    /// <item>requests are mapped only after every queue has fetched. So after a kill the next server can send START_USER_RECOVERY, which
    /// resets the mapping.</item>
    /// </list>
    /// In Linux 7.3 the driver forgets all this when /dev/ublkcN is closed, so no queue has a recorded server.
    /// </summary>
    private void TakeOver(UblkGeometry geometry)
    {
        for (bool again = false; ; again = true)
        {
            PrepareQueues(geometry);
            OpenCharacterDevice(DeathMilliseconds);
            int[] missing = Missing(geometry);
            if (missing.Length > 0 && missing.Length < geometry.Queues)
            {
                int fetched = _driver!.FetchAndLeave(_fd, missing, geometry.Depth);
                CloseCharacterDevice();
                if (fetched < 0)
                    throw new SnapuserdException(ExitCode.OutOfResources,
                        $"{_driver.PathOf(_id)} cannot be taken over: {ErrnoText.Of(fetched)}");
                OpenCharacterDevice(DeathMilliseconds);
                missing = Missing(geometry);
                if (missing.Length > 0 && missing.Length < geometry.Queues) throw Unsafe("its queues are in different states");
            }
            if (missing.Length == 0)
            {
                CloseCharacterDevice();
                StartRecovery();
                OpenCharacterDevice(DeathMilliseconds);
            }
            FetchAll();
            if (MapAll() is not { } refused) return;
            // A server of an earlier version mapped before it fetched, and was killed in between. The driver now has a server recorded for
            // every queue, so the next round can start recovery.
            if (again) throw refused;
            EndQueues();
            CloseCharacterDevice();
        }
    }

    /// <summary>The queues for which the driver has not recorded a server. Throws with exit code 74 after an unexpected result.</summary>
    private int[] Missing(UblkGeometry geometry)
    {
        List<int> missing = [];
        for (int queue = 0; queue < geometry.Queues; queue++)
        {
            int answer = _driver!.AskQueue(_fd, queue);
            if (answer == -Errno.EOPNOTSUPP) missing.Add(queue);
            else if (answer != -Errno.EINVAL) throw Unsafe($"the state of queue {queue} is unknown ({ErrnoText.Of(answer)})");
        }
        return [.. missing];
    }

    private SnapuserdException Unsafe(string why) =>
        new(ExitCode.InputOutput, $"{_driver!.PathOf(_id)} cannot be taken over without harm to the kernel, because {why}; its readers "
            + $"wait. Unmount it and remove it (ublk del -n {_id}), or restart the machine");

    private void StartRecovery()
    {
        for (int wait = 0; ; wait += LookMilliseconds)
        {
            int result = _driver!.Control(UBLK_U_CMD_START_USER_RECOVERY, _id, 0, default);
            if (result == 0) return;
            if (result != -Errno.EBUSY)
                throw ErrnoPolicy.Failure(FailedCall.Command, result, $"{_driver.PathOf(_id)} cannot be taken over");
            if (wait >= DeathMilliseconds)
                throw new SnapuserdException(ExitCode.InUse, $"{_driver.PathOf(_id)} is being taken over by another process");
            _driver.Pause(LookMilliseconds);
        }
    }

    private static SnapuserdException InUse(string path, in UblksrvCtrlDevInfo info) =>
        new(ExitCode.InUse,
            $"{path} is served by another process{(info.Pid > 0 ? $" ({info.Pid})" : "")}; stop that one, or choose another --name");

    private void RemoveStale(int id, string what)
    {
        string path = _driver!.PathOf(id);
        if (_driver.IsHeld(id))
            throw new SnapuserdException(ExitCode.InUse,
                $"{path} {what}, and its server is gone, but it is mounted or held by another device: unmount it first");
        _ = _driver.Control(UBLK_U_CMD_STOP_DEV, id, 0, default);
        // Be patient: the kernel closes a killed server's /dev/ublkcN only after its last read has ended.
        if (!Delete(_driver, id, DeathMilliseconds))
            throw new SnapuserdException(ExitCode.InUse, $"{path} {what}, and its server is gone, but it is open: close or unmount it");
        _options.Report?.Invoke($"{path} {what}, and its server is gone: removed");
    }

    private UblkGeometry Add(UblkGeometry wanted, int bytesPerRead)
    {
        UblksrvCtrlDevInfo info = new()
        {
            NrHwQueues = (ushort)wanted.Queues,
            QueueDepth = (ushort)wanted.Depth,
            MaxIoBufBytes = (uint)wanted.MaxIoBytes,
            DevId = (uint)_options.Id,
            Pid = Libc.GetPid(),
            Flags = NeededFeatures,
            ServerFlags = Identity(),
        };
        int result = _driver!.Control(UBLK_U_CMD_ADD_DEV, _options.Id, 0, MemoryMarshal.AsBytes(new Span<UblksrvCtrlDevInfo>(ref info)));
        if (result == -Errno.EEXIST)
            throw new SnapuserdException(ErrnoPolicy.CodeOf(FailedCall.Command, result),
                $"{_driver.PathOf(_options.Id)} is being made by another process");
        Check(result, "made");
        _id = (int)info.DevId;
        _options.Ours?.Invoke();
        if ((info.Flags & NeededFeatures) != NeededFeatures)
            throw new SnapuserdException(ExitCode.Unavailable, "the ublk driver made a device without the requested features");

        UblkParams parameters = new()
        {
            Len = (uint)Marshal.SizeOf<UblkParams>(),
            Types = UBLK_PARAM_TYPE_BASIC,
            Basic = new UblkParamBasic
            {
                Attrs = UBLK_ATTR_READ_ONLY,
                // Any file system can be mounted on sectors of 512 bytes. The physical block size is that of the image, and the optimal
                // request size is that of a unit.
                LogicalBsShift = 9,
                PhysicalBsShift = Sizes.BlockShift,
                IoMinShift = Sizes.BlockShift,
                IoOptShift = (byte)int.Log2(Math.Clamp(_view.Cow.MaxUnitBytes, Sizes.Block, wanted.MaxIoBytes)),
                MaxSectors = (uint)wanted.MaxIoBytes / 512,
                DevSectors = (ulong)_view.Length / 512,
            },
        };
        Check(_driver.Control(UBLK_U_CMD_SET_PARAMS, _id, 0, MemoryMarshal.AsBytes(new Span<UblkParams>(ref parameters))),
            "given its size");
        return UblkGeometry.Of(info, _options, bytesPerRead);
    }

    private void OpenCharacterDevice(int patience)
    {
        for (int wait = 0; ; wait += LookMilliseconds)
        {
            _fd = _driver!.OpenCharacterDevice(_id);
            if (_fd >= 0) return;
            // Retry if the node does not exist yet, or if the ring of a killed server still holds the device.
            if (_fd is not (-Errno.ENOENT or -Errno.EBUSY or -Errno.EINTR) || wait >= (_fd == -Errno.ENOENT ? NodeMilliseconds : patience))
            {
                throw new SnapuserdException(ErrnoPolicy.CodeOf(FailedCall.OpenDriver, _fd), _fd == -Errno.ENOENT
                    ? $"there is no /dev/ublkc{_id}: mount devtmpfs on /dev, or run udev or mdev"
                    : $"cannot open /dev/ublkc{_id}: {ErrnoText.Of(_fd)}");
            }
            _driver.Pause(LookMilliseconds);
        }
    }

    private void CloseCharacterDevice()
    {
        if (_fd >= 0) _ = Libc.Close(_fd);
        _fd = -1;
    }

    /// <summary>Starts the queues' threads, and waits until each has allocated its memory and its ring.</summary>
    private void PrepareQueues(UblkGeometry geometry)
    {
        _wakeUps = new WakeUp[geometry.Queues];
        for (int i = 0; i < geometry.Queues; i++) _wakeUps[i] = new WakeUp();
        _threadNumbers = new int[geometry.Queues];
        (_phase, _done) = (Phase.Prepare, 0);
        Thread[] threads = new Thread[geometry.Queues];
        for (int i = 0; i < geometry.Queues; i++)
        {
            int number = i;
            threads[i] = WorkerThread.Start($"ublk queue {i}", StackSize.Usual, () => Run(number, geometry));
            _threads = threads[..(i + 1)];
        }
        AwaitQueues();
    }

    /// <summary>Makes every queue fetch its tags.</summary>
    private void FetchAll()
    {
        Advance(Phase.Fetch);
        AwaitQueues();
    }

    /// <summary>
    /// Makes every queue map its requests and start to answer them. Returns null, or an error if a queue cannot map them.
    /// </summary>
    private SnapuserdException? MapAll()
    {
        Advance(Phase.Map);
        AwaitQueues();
        return _mapRefused == 0 ? null : new SnapuserdException(ExitCode.OutOfResources,
            $"ublk: the requests of {_driver!.PathOf(_id)} cannot be mapped: {ErrnoText.Of(_mapRefused)}");
    }

    private void Advance(Phase phase)
    {
        lock (_gate)
        {
            (_phase, _done, _mapRefused) = (phase, 0, 0);
            Monitor.PulseAll(_gate);
        }
    }

    private void AwaitQueues()
    {
        lock (_gate)
        {
            while (_done < _threads.Length && _failed == null) Monitor.Wait(_gate);
            if (_failed is { } failed) throw failed;
        }
    }

    /// <summary>
    /// Called by a queue: reports the end of <paramref name="phase"/>, and waits until the next phase is requested. False if the queue must
    /// end.
    /// </summary>
    private bool Report(Phase phase, int mapRefused = 0)
    {
        lock (_gate)
        {
            _done++;
            if (mapRefused != 0) _mapRefused = mapRefused;
            Monitor.PulseAll(_gate);
            // A queue that answers requests sees a stop, because the driver returns its tags. A queue that waits here must check the flag.
            while (phase < Phase.Map && _phase == phase && !_abandoned && !_stopping) Monitor.Wait(_gate);
            return !_abandoned && (phase == Phase.Map || !_stopping);
        }
    }

    private void Run(int number, UblkGeometry geometry)
    {
        _threadNumbers[number] = Libc.GetTid();
        try
        {
            using UblkQueue queue = new(_view, _devices, _driver!, number, geometry, _wakeUps[number]);
            if (!Report(Phase.Prepare)) return;
            Fetch(queue);
            if (!Report(Phase.Fetch)) return;
            int mapped = queue.Map();
            if (!Report(Phase.Map, mapped) || mapped < 0) return;
            queue.Serve(() => Volatile.Read(ref _abandoned));
            // If the driver still holds tags, the queue was abandoned.
            if (queue.Tags == 0 && !Volatile.Read(ref _stopping))
                Fail(new SnapuserdException(ExitCode.InputOutput, $"/dev/ublkb{_id} was stopped by another process"));
        }
        catch (SnapuserdException e)
        {
            Fail(e);
        }
        catch (Exception e)
        {
            Fail(new SnapuserdException(ExitCode.Internal, $"ublk: queue {number}: {e.GetType().Name}: {e.Message}"));
        }
    }

    /// <summary>
    /// Fetches a queue's tags; for a new device without CAP_SYS_ADMIN, so that START_DEV skips the partition scan. The kernel holds a lock
    /// during the scan, and if the server is killed at that moment, no command can reach the device any more. If the capability cannot be
    /// dropped, the partitions are scanned.
    /// </summary>
    private void Fetch(UblkQueue queue)
    {
        if (Recovered)
        {
            queue.Fetch(_fd);
            return;
        }
        bool without = Libc.SetSysAdmin(effective: false) == 0;
        try
        {
            queue.Fetch(_fd);
        }
        finally
        {
            if (without) _ = Libc.SetSysAdmin(effective: true);
        }
    }

    private void Fail(SnapuserdException why)
    {
        lock (_gate)
        {
            _failed ??= why;
            Monitor.PulseAll(_gate);
            if (_stopping) return;
        }
        Interlocked.CompareExchange(ref _failure, why.Message, null);
        _wakeUp.Signal();
    }

    private void WaitForNode()
    {
        for (int wait = 0; !_driver!.HasNode(_id); wait += LookMilliseconds)
        {
            if (wait >= NodeMilliseconds)
                throw new SnapuserdException(ExitCode.Unavailable,
                    $"the ublk device exists, but its node {_driver.PathOf(_id)} does not; mount devtmpfs on /dev, or run udev or mdev");
            _driver.Pause(LookMilliseconds);
        }
    }

    private void Remove(IUblkDriver driver)
    {
        // Keep a device whose take-over did not complete: its readers wait for the next server, which is better than errors.
        bool leave = Recovered && !_started;
        if (leave) Abandon();
        else if (_id >= 0)
        {
            // The queues still answer requests: during this command the driver waits for those in flight, and then returns every tag.
            int stopped = driver.Control(UBLK_U_CMD_STOP_DEV, _id, 0, default);
            if (stopped < 0) Abandon();
        }
        JoinQueues();
        CloseCharacterDevice();
        if (_id >= 0 && !leave) _ = Delete(driver, _id);
        driver.Dispose();
    }

    private void JoinQueues()
    {
        foreach (Thread thread in _threads)
        {
            if (thread.Join(QueueMilliseconds)) continue;
            Abandon();
            thread.Join();
        }
        foreach (WakeUp? wakeUp in _wakeUps) wakeUp?.Dispose();
        (_threads, _wakeUps) = ([], []);
    }

    private void Abandon()
    {
        lock (_gate)
        {
            Volatile.Write(ref _abandoned, true);
            Monitor.PulseAll(_gate);
        }
        for (int i = 0; i < _threads.Length; i++) _wakeUps[i].Signal();
    }

    /// <summary>
    /// Ends the queues of an incomplete take-over, so that new ones can be made. The driver has then recorded a dead server for each queue.
    /// </summary>
    private void EndQueues()
    {
        Abandon();
        JoinQueues();
        foreach (int thread in _threadNumbers) UblkThreads.WaitForEnd(thread);
        // Reset the flag: no thread that reads it is left.
        lock (_gate) _abandoned = false;
    }

    /// <summary>
    /// Deletes a stopped device, and waits at most <paramref name="patience"/> milliseconds until it is gone. False if a program still has
    /// it open: the driver deletes it after the last close.
    /// </summary>
    private static bool Delete(IUblkDriver driver, int id, int patience = GoneMilliseconds)
    {
        int result = driver.Control(UBLK_U_CMD_DEL_DEV_ASYNC, id, 0, default);
        // Before Linux 6.7 only the command that waits exists.
        if (result is -Errno.EOPNOTSUPP or -Errno.EINVAL)
            return driver.Control(UBLK_U_CMD_DEL_DEV, id, 0, default, patience) is 0 or -Errno.ENODEV;
        UblksrvCtrlDevInfo info = default;
        for (int wait = 0; wait < patience; wait += LookMilliseconds)
        {
            if (Info(driver, id, ref info) == -Errno.ENODEV) return true;
            driver.Pause(LookMilliseconds);
        }
        return false;
    }

    private static int Info(IUblkDriver driver, int id, ref UblksrvCtrlDevInfo info) =>
        driver.Control(UBLK_U_CMD_GET_DEV_INFO, id, 0, MemoryMarshal.AsBytes(new Span<UblksrvCtrlDevInfo>(ref info)));

    private static bool IsGone(int process) => process <= 0 || Libc.Kill(process, 0) == -Errno.ESRCH;

    private static bool IsDead(in UblksrvCtrlDevInfo info) => info.State == UBLK_S_DEV_QUIESCED || IsGone(info.Pid);

    private ulong SectorsOf(int id)
    {
        UblkParams parameters = new() { Len = (uint)Marshal.SizeOf<UblkParams>() };
        return _driver!.Control(UBLK_U_CMD_GET_PARAMS, id, 0, MemoryMarshal.AsBytes(new Span<UblkParams>(ref parameters))) < 0
            ? 0 : parameters.Basic.DevSectors;
    }

    /// <summary>
    /// The value for ServerFlags: <see cref="Mark"/> and a 32-bit hash that identifies the image, because only a server of the same image
    /// may take a device over. A merge does not change the hash's inputs.
    /// </summary>
    private ulong Identity()
    {
        uint hash = 2166136261;
        foreach (long value in (ReadOnlySpan<long>)[_view.Length, _view.Cow.Length, _view.Cow.OpCount, _view.Cow.BaseBytes,
            _view.Cow.SourceBytes, _view.Cow.ReplaceBlocks])
            for (int shift = 0; shift < 64; shift += 8) hash = (hash ^ (byte)(value >> shift)) * 16777619;
        return ((ulong)Mark << 32) | hash;
    }

    private void Check(int result, string what)
    {
        if (result < 0)
            throw ErrnoPolicy.Failure(FailedCall.Command, result, $"the ublk device{(_id >= 0 ? $" {_id}" : "")} cannot be {what}");
    }
}
