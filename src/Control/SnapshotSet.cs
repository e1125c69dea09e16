using System;
using System.Collections.Generic;
using System.Threading;
using Snapuserd.Block;

namespace Snapuserd.Control;

/// <summary>The options of a <see cref="SnapshotSet"/>.</summary>
public sealed record SnapshotSetOptions
{
    /// <summary>Makes a snapshot's options from its name, COW, source and base. Each snapshot has slots and a server of its own.</summary>
    public required Func<SnapshotRequest, SnapshotOptions> Make { get; init; }

    /// <summary>Chooses how a snapshot is served, by its name.</summary>
    public required Func<string, ServerStart> Server { get; init; }

    /// <summary>
    /// Another program owns the device and removes it before the snapshot ends, as Android's client does with dm-user: a request to end
    /// waits for that removal. Otherwise the snapshot owns the device and removes it.
    /// </summary>
    public bool DeviceIsForeign { get; init; }

    /// <summary>
    /// Throws if a device of that name could not be served later; null if that cannot be known. Any thread.
    /// </summary>
    public Action<string>? Check { get; init; }

    /// <summary>
    /// Reads everything above a snapshot of that name, after it is served; true if all was readable. Runs on a thread of its own. Null:
    /// nothing is verified, and a client that asks for the result is told that verification failed, as by Android's daemon.
    /// </summary>
    public Func<string, StopFlag, bool>? Verify { get; init; }

    /// <summary>
    /// Receives one message for every snapshot that could not be opened or served, or that ended with a failure. Any thread.
    /// </summary>
    public Action<string>? Report { get; init; }
}

/// <summary>The four arguments from which Android makes a snapshot: its name, its COW, the source of its copies, and its base.</summary>
public readonly record struct SnapshotRequest(string Name, string Cow, string Source, string Base)
{
    /// <summary>
    /// The descriptors of the three files, if a client sent them. They are closed when the snapshot ends or cannot be opened. Null if the
    /// paths are enough.
    /// </summary>
    public AttachedFiles? Attached { get; init; }
}

/// <summary>
/// The snapshots of a process, by name, each on a thread of its own (daemon §3, §4). Calls do not wait for a snapshot unless their summary
/// says so; a caller gets the result through a callback, mostly on that snapshot's thread.
/// <code>
///   Add -> opening -> open -- Start --> served -> merged, or not -- Delete, or the device is gone --> ended, and forgotten
/// </code>
/// </summary>
public sealed class SnapshotSet : IDisposable
{
    /// <summary>How long Android's client waits for one snapshot's verification (daemon §6).</summary>
    private const int VerifyMilliseconds = 10_000;

    private readonly SnapshotSetOptions _options;
    private readonly WakeUp _changed;
    private readonly MonotonicClock _clock = new();
    private readonly object _gate = new();
    private readonly List<Member> _members = [];
    private Snapshot[] _snapshots = [];
    private int _completed;
    private int _leaving;
    private bool _terminating;

    private enum Verification
    {
        Off,
        Running,
        Good,
        Bad,
    }

    /// <summary>A snapshot and the requests to its thread; the fields are guarded by the gate.</summary>
    private sealed class Member(SnapshotOptions options, SnapshotRequest request) : IDisposable
    {
        public readonly StopFlag Stop = new();
        public readonly StopFlag VerifierStop = new();
        public readonly WakeUp WakeUp = new();
        public readonly List<Action> WhenEnded = [];
        public Snapshot Snapshot = null!;
        public Action<bool>? Started;
        public bool StartAsked;
        public bool IsServed;
        public bool EndAsked;
        public SnapuserdException? Failure;
        public Verification Verification;
        public Thread? Verifier;

        public string Name => options.Name;

        public SnapshotOptions Options => options;

        public string Named(string sentence) => request.Attached?.Named(sentence) ?? sentence;

        public void Dispose()
        {
            Snapshot.Dispose();
            WakeUp.Dispose();
            request.Attached?.Dispose();
        }
    }

    /// <summary>An empty set. <paramref name="changed"/> is signalled when a snapshot has ended and when the set is asked to end.</summary>
    public SnapshotSet(SnapshotSetOptions options, WakeUp changed) => (_options, _changed) = (options, changed);

    /// <summary>The set accepts no more snapshots; the process ends with the last one.</summary>
    public bool IsTerminating
    {
        get
        {
            lock (_gate) return _terminating;
        }
    }

    /// <summary>No snapshot exists, not even one that is ending, and every callback for an end has returned.</summary>
    public bool IsEmpty
    {
        get
        {
            lock (_gate) return _members.Count + _leaving == 0;
        }
    }

    /// <summary>The snapshots, in the order in which they were added.</summary>
    public Snapshot[] Snapshots => Volatile.Read(ref _snapshots);

    /// <summary>
    /// Percent merged, on average over the snapshots that are served and those that were merged and removed (daemon §5; a failed merge does
    /// not count as done). 0 if there are none, for which Android's daemon says "nan".
    /// </summary>
    public double MergePercent
    {
        get
        {
            lock (_gate)
            {
                double sum = 100.0 * _completed;
                int count = _completed;
                foreach (Member member in _members)
                {
                    if (!member.IsServed) continue;
                    sum += member.Snapshot.Status.Percent;
                    count++;
                }
                return count == 0 ? 0 : sum / count;
            }
        }
    }

    /// <summary>
    /// Opens a snapshot. <paramref name="opened"/> gets the bytes of its image, or −1 if opening failed, the name is taken, or the set is
    /// ending. The name becomes the last part of paths (sockets, dm-user devices), so it must be a file name (<see cref="FileName"/>).
    /// </summary>
    public void Add(SnapshotRequest request, Action<long> opened)
    {
        if (TryAdd(request, opened, out SnapuserdException? why) != null) return;
        Report($"'{request.Name}' is not opened: {why!.Message}");
        opened(-1);
    }

    /// <summary>
    /// Opens and serves a snapshot. <paramref name="served"/> gets null when the snapshot can be read, or else the reason: 64 for an
    /// invalid name, 76 for a name that is taken, 75 if the set is ending, 71 without a thread, or the exception of opening or serving.
    /// Called mostly on the snapshot's thread.
    /// </summary>
    public void Attach(SnapshotRequest request, Action<SnapuserdException?> served)
    {
        if (TryAdd(request, bytes => { }, out SnapuserdException? why) is not { } member)
        {
            served(new SnapuserdException(why!.Code, $"'{request.Name}' is not attached: {why.Message}"));
            return;
        }
        Start(request.Name, started => served(started ? null
            : member.Failure ?? new SnapuserdException(ExitCode.Interrupted, $"{request.Name} was ended before it was served")));
    }

    /// <summary>
    /// Ends a snapshot that no program uses and that is not being merged. <paramref name="detached"/> gets null when it is gone, or else
    /// the reason why it stays: exit code 76, or 66 if there is none of that name.
    /// </summary>
    public void Detach(string name, Action<SnapuserdException?> detached)
    {
        Snapshot? snapshot;
        bool foreign;
        lock (_gate)
        {
            Member? member = Find(name);
            (snapshot, foreign) = (member?.Snapshot, member is { StartAsked: true } && _options.DeviceIsForeign);
        }
        string? why = snapshot?.Status.State switch
        {
            null => $"there is no snapshot {name} here",
            SnapshotState.Queued or SnapshotState.Merging =>
                $"{name} is being merged: stop ends the merge at its next checkpoint, and the snapshot with it",
            _ when foreign && snapshot.Failure == null =>
                $"the device of {name} belongs to the program that made it, which removes it; the snapshot ends then",
            _ => snapshot.Holder() is { } holder ? $"{name} is in use: {holder}" : null,
        };
        if (why != null) detached(new SnapuserdException(snapshot == null ? ExitCode.InputMissing : ExitCode.InUse, why));
        else Delete(name, () => detached(null));
    }

    /// <summary>Adds a snapshot and starts its thread. Returns null, and the reason, if it cannot be opened.</summary>
    private Member? TryAdd(SnapshotRequest request, Action<long> opened, out SnapuserdException? why)
    {
        Member member;
        lock (_gate)
        {
            why = FileName.Fault(request.Name) is { } fault ? new SnapuserdException(ExitCode.Usage, $"it cannot name a snapshot: {fault}")
                : _terminating ? new SnapuserdException(ExitCode.Interrupted, "the daemon is about to end")
                : Find(request.Name) != null ? new SnapuserdException(ExitCode.InUse, "another snapshot has that name") : null;
            if (why != null)
            {
                request.Attached?.Dispose();
                return null;
            }
            try
            {
                member = new Member(_options.Make(request), request);
                member.Snapshot = new Snapshot(member.Options, member.Stop, member.WakeUp);
            }
            catch
            {
                // No descriptor or no memory is left.
                request.Attached?.Dispose();
                throw;
            }
            _members.Add(member);
            Publish();
        }
        if (WorkerThread.TryStart(request.Name, StackSize.Merge, () => Live(member, opened)) != null) return member;
        why = WorkerThread.CannotStart(request.Name);
        End(member);
        return null;
    }

    /// <summary>
    /// Serves a snapshot. <paramref name="started"/> gets true, or false if that failed, was requested before, or there is none of that
    /// name.
    /// </summary>
    public void Start(string name, Action<bool> started)
    {
        lock (_gate)
        {
            if (Find(name) is { StartAsked: false, EndAsked: false } member)
            {
                (member.StartAsked, member.Started) = (true, started);
                Monitor.PulseAll(_gate);
                return;
            }
        }
        started(false);
    }

    /// <summary>
    /// Opens and serves all of them at the same time, and waits until each is served or has failed. Returns the name of the first that
    /// failed, or null. Stops waiting once <paramref name="isOver"/> returns true; it is called after each signal of the set's wake-up.
    /// Only for the thread that waits on that wake-up.
    /// </summary>
    public string? ServeAll(IReadOnlyList<SnapshotRequest> requests, Func<bool> isOver)
    {
        int left = requests.Count;
        string? failed = null;
        foreach (SnapshotRequest request in requests)
        {
            Add(request, bytes => { });
            Start(request.Name, started =>
            {
                if (!started) Interlocked.CompareExchange(ref failed, request.Name, null);
                Interlocked.Decrement(ref left);
                _changed.Signal();
            });
        }
        while (Volatile.Read(ref left) > 0 && !isOver()) _ = _changed.Wait(-1);
        return Volatile.Read(ref failed);
    }

    /// <summary>
    /// Requests the merge. False if there is no such snapshot, it is not served, or it cannot be merged. A repeated request has no effect
    /// and returns true.
    /// </summary>
    public bool InitiateMerge(string name)
    {
        lock (_gate)
        {
            if (Find(name) is not { IsServed: true, EndAsked: false } member) return false;
            return member.Snapshot.RequestMerge() || member.Snapshot.MergeRequested;
        }
    }

    /// <summary>The snapshot's status, in the terms of daemon §5.</summary>
    public string StatusOf(string name)
    {
        Snapshot? snapshot;
        lock (_gate) snapshot = Find(name)?.Snapshot;
        return snapshot?.Status.State switch
        {
            null or SnapshotState.Failed or SnapshotState.Ended => "snapshot-merge-failed",
            SnapshotState.Merged or SnapshotState.Plain => "snapshot-merge-complete",
            SnapshotState.Queued or SnapshotState.Merging => "snapshot-merge",
            // If the merge was requested and is neither queued nor running, it was interrupted, and the next process resumes it.
            _ => snapshot.MergeRequested ? "snapshot-merge" : "snapshot",
        };
    }

    /// <summary>
    /// Ends a snapshot; its merge stops at the next checkpoint. <paramref name="deleted"/> is called when it is gone, or at once if there
    /// is none of that name.
    /// </summary>
    public void Delete(string name, Action deleted)
    {
        lock (_gate)
        {
            if (Find(name) is { } member)
            {
                member.WhenEnded.Add(deleted);
                AskToEnd(member);
                return;
            }
        }
        deleted();
    }

    /// <summary>Pauses or resumes all merges.</summary>
    public void Hold(bool paused)
    {
        foreach (Snapshot snapshot in Snapshots)
        {
            if (paused) snapshot.Pause();
            else snapshot.Resume();
        }
    }

    /// <summary>
    /// Refuses new snapshots and stops all merges at their next checkpoints. Serving continues until the devices are gone or a client
    /// deletes the snapshots.
    /// </summary>
    public void Detach()
    {
        lock (_gate)
        {
            _terminating = true;
            foreach (Member member in _members)
            {
                if (member.StartAsked) member.Snapshot.EndMerge();
                else AskToEnd(member);
            }
        }
        _changed.Signal();
    }

    /// <summary>Does the same as <see cref="Detach()"/>, and ends all snapshots.</summary>
    public void StopAll()
    {
        lock (_gate)
        {
            _terminating = true;
            foreach (Member member in _members) AskToEnd(member);
        }
        _changed.Signal();
    }

    /// <summary>
    /// Reports whether everything above the snapshots could be read (daemon §6). Waits for up to ten seconds per snapshot, on a thread of
    /// its own.
    /// </summary>
    public void VerifyUpdate(Action<bool> verified)
    {
        if (WorkerThread.TryStart("update-verify", StackSize.Usual, () => verified(IsVerified())) == null) verified(false);
    }

    /// <summary>Ends all snapshots, even those whose device another program owns, and waits until they are gone.</summary>
    public void Dispose()
    {
        lock (_gate)
        {
            _terminating = true;
            foreach (Member member in _members)
            {
                AskToEnd(member);
                member.Snapshot.RequestStop();
            }
            while (_members.Count + _leaving > 0) Monitor.Wait(_gate);
        }
    }

    private Member? Find(string name) => _members.Find(member => member.Name == name);

    private void Publish() => Volatile.Write(ref _snapshots, _members.ConvertAll(member => member.Snapshot).ToArray());

    /// <summary>The caller holds the gate.</summary>
    private void AskToEnd(Member member)
    {
        member.EndAsked = true;
        // A verifier that has the device open would prevent its removal.
        member.VerifierStop.Request();
        member.Snapshot.EndMerge();
        if (!_options.DeviceIsForeign || !member.StartAsked) member.Snapshot.RequestStop();
        Monitor.PulseAll(_gate);
    }

    /// <summary>The main function of a snapshot's thread. Never throws.</summary>
    private void Live(Member member, Action<long> opened)
    {
        bool isReported = false;
        try
        {
            _options.Check?.Invoke(member.Name);
            member.Snapshot.Open();
            long length = member.Snapshot.Length;
            if (length == 0) throw new SnapuserdException(ExitCode.CowCorrupt, "its base is empty");
            isReported = true;
            Tell(member, () => opened(length));
            if (IsToStart(member)) Serve(member);
        }
        catch (Exception e)
        {
            SnapuserdException failure = new((e as SnapuserdException)?.Code ?? ExitCode.Internal,
                member.Named($"{member.Name}: {e.Message}"));
            lock (_gate) member.Failure = failure;
            Report(failure.Message);
        }
        if (!isReported)
        {
            // Report the failure to the client only after the name is free again.
            lock (_gate) member.WhenEnded.Add(() => opened(-1));
        }
        End(member);
    }

    /// <summary>
    /// Calls a client's callback. An exception from it ends neither the snapshot nor its thread: a merge must continue even if its client
    /// cannot be reached.
    /// </summary>
    private void Tell(Member member, Action call)
    {
        try
        {
            call();
        }
        catch (Exception e)
        {
            Report(member.Named($"{member.Name}: a client could not be told: {e.Message}"));
        }
    }

    private void Report(string sentence)
    {
        try
        {
            _options.Report?.Invoke(sentence);
        }
        catch (Exception)
        {
            // This exception cannot be reported anywhere, and the snapshot's thread must not end here.
        }
    }

    private bool IsToStart(Member member)
    {
        lock (_gate)
        {
            while (!member.StartAsked && !member.EndAsked) Monitor.Wait(_gate);
            return !member.EndAsked;
        }
    }

    private void Serve(Member member)
    {
        _ = member.Snapshot.Serve(_options.Server(member.Name));
        Action<bool>? started;
        lock (_gate)
        {
            member.IsServed = true;
            (started, member.Started) = (member.Started, null);
            if (_options.Verify != null) BeginVerification(member);
        }
        if (started != null) Tell(member, () => started(true));
        _ = member.Snapshot.Run();
        if (member.Snapshot.Failure is { } failure && !_options.DeviceIsForeign) Report($"{member.Name}: {failure}");
        member.Snapshot.StopServing();
    }

    /// <summary>Closes the snapshot, removes it from the set, and calls the callbacks that wait for that.</summary>
    private void End(Member member)
    {
        member.VerifierStop.Request();
        member.Verifier?.Join();
        bool merged = member.Snapshot.MergeRequested && member.Snapshot.Status.State is SnapshotState.Merged or SnapshotState.Plain;
        try
        {
            member.Dispose();
        }
        catch (Exception e)
        {
            Report(member.Named($"{member.Name}: closing it failed: {e.Message}"));
        }
        Action<bool>? started;
        lock (_gate)
        {
            if (merged) _completed++;
            _leaving++;
            _ = _members.Remove(member);
            Publish();
            started = member.Started;
            Monitor.PulseAll(_gate);
        }
        if (started != null) Tell(member, () => started(false));
        // Return the snapshot's memory now: a daemon may run as long as the system does, and would not collect until the next snapshot.
        GC.Collect(GC.MaxGeneration, GCCollectionMode.Aggressive, blocking: true, compacting: true);
        foreach (Action ended in member.WhenEnded) Tell(member, ended);
        lock (_gate)
        {
            _leaving--;
            // First signal: once the set is empty, another thread may dispose of the wake-up.
            _changed.Signal();
            Monitor.PulseAll(_gate);
        }
    }

    /// <summary>The caller holds the gate.</summary>
    private void BeginVerification(Member member)
    {
        member.Verifier = WorkerThread.TryStart("verify", StackSize.Usual, () => Verify(member));
        member.Verification = member.Verifier != null ? Verification.Running : Verification.Bad;
    }

    private void Verify(Member member)
    {
        bool good = false;
        try
        {
            good = _options.Verify!(member.Name, member.VerifierStop);
        }
        catch (Exception e)
        {
            Report($"{member.Name} was not verified: {e.Message}");
        }
        lock (_gate)
        {
            member.Verification = good ? Verification.Good : Verification.Bad;
            Monitor.PulseAll(_gate);
        }
    }

    private bool IsVerified()
    {
        lock (_gate)
        {
            foreach (Member member in _members.ToArray())
            {
                long end = _clock.Milliseconds + VerifyMilliseconds;
                while (member.Verification == Verification.Running && end > _clock.Milliseconds)
                    _ = Monitor.Wait(_gate, (int)(end - _clock.Milliseconds) + 1);
                if (member.Verification != Verification.Good || !member.IsServed) return false;
            }
            return true;
        }
    }
}
