using System;
using System.Collections.Generic;
using System.Threading;
using Snapuserd.Block;

namespace Snapuserd.Daemon;

/// <summary>What a <see cref="SnapshotSet"/> is told.</summary>
public sealed record SnapshotSetOptions
{
    /// <summary>What to make a snapshot of from its name, COW, source and base. Its slots and server are its own.</summary>
    public required Func<SnapshotRequest, SnapshotOptions> Make { get; init; }

    /// <summary>How to make it readable, by its name.</summary>
    public required Func<string, ServerStart> Server { get; init; }

    /// <summary>
    /// The device belongs to somebody else, who removes it before the snapshot ends, as Android's client does with dm-user: whoever is asked to end waits for that. Otherwise it is
    /// the snapshot's own, and goes with it.
    /// </summary>
    public bool DeviceIsForeign { get; init; }

    /// <summary>Fails, with a sentence, if a device of that name could not be served later; null for what cannot be known. On any thread.</summary>
    public Action<string>? Check { get; init; }

    /// <summary>
    /// Reads all of what stands over a snapshot of that name, once it is served; true if it was readable. On a thread of its own. Null: nothing is verified, and whoever asks for the
    /// result is told that it failed, as by Android's daemon.
    /// </summary>
    public Func<string, StopFlag, bool>? Verify { get; init; }

    /// <summary>Gets a sentence about every snapshot that could not be opened or served or that ended by a failure. From any thread.</summary>
    public Action<string>? Report { get; init; }
}

/// <summary>The four words that Android makes a snapshot of: what it is called, its COW, what it copies from, and what it is merged into.</summary>
public readonly record struct SnapshotRequest(string Name, string Cow, string Source, string Base)
{
    /// <summary>Where the three come from, if a client has sent them; they are closed when the snapshot has ended, or was not opened. Null if the paths say it all.</summary>
    public AttachedFiles? Attached { get; init; }
}

/// <summary>
/// The snapshots of a process, by name, each on a thread of its own (daemon §3, §4). Nothing here waits for a snapshot, except what says so: who wants to know how something went
/// is called back, mostly on that snapshot's thread.
/// <code>
///   Add -> opening -> open -- Start --> served -> merged, or not -- Delete, or the device is gone --> ended, and forgotten
/// </code>
/// </summary>
public sealed class SnapshotSet : IDisposable
{
    /// <summary>How long Android's client waits for one snapshot's verification (daemon §6).</summary>
    private const int VerifyMilliseconds = 10_000;

    /// <summary>The engine's protocols and a stack trace; nothing in it is recursive.</summary>
    private const int StackBytes = 1 << 20;

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

    /// <summary>A snapshot and what its thread is told; the fields are under the gate.</summary>
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

    /// <summary>An empty set; <paramref name="changed"/> is signalled whenever a snapshot has ended or the set is to end.</summary>
    public SnapshotSet(SnapshotSetOptions options, WakeUp changed) => (_options, _changed) = (options, changed);

    /// <summary>No more snapshots are taken up; the process ends with the last one.</summary>
    public bool IsTerminating
    {
        get
        {
            lock (_gate) return _terminating;
        }
    }

    /// <summary>There is no snapshot, not even one that is about to end, and everybody who waited for an end was told.</summary>
    public bool IsEmpty
    {
        get
        {
            lock (_gate) return _members.Count + _leaving == 0;
        }
    }

    /// <summary>Those that there are, in the order in which they came.</summary>
    public Snapshot[] Snapshots => Volatile.Read(ref _snapshots);

    /// <summary>
    /// Percent that are merged, on average over those that are served and those that were merged and have left (daemon §5; a merge that failed does not count as done); 0 for none
    /// at all, for which Android's daemon says "nan".
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
    /// Opens a snapshot; <paramref name="opened"/> gets the bytes of its image, or −1 if that failed, or there is one of that name, or the set is about to end. The name becomes the last part of paths
    /// (sockets, dm-user devices), so it must be one (<see cref="FileName"/>).
    /// </summary>
    public void Add(SnapshotRequest request, Action<long> opened)
    {
        if (TryAdd(request, opened, out SnapuserdException? why) != null) return;
        _options.Report?.Invoke($"'{request.Name}' is not opened: {why!.Message}");
        opened(-1);
    }

    /// <summary>
    /// Opens and serves a snapshot; <paramref name="served"/> gets null when it can be read, or else why it cannot: 64 for a name that is none, 76 for one that is taken, 75 if the set is about to end, 71 without a thread, or what opening and serving it have
    /// thrown. For those who want to know; mostly on the snapshot's thread.
    /// </summary>
    public void Attach(SnapshotRequest request, Action<SnapuserdException?> served)
    {
        if (TryAdd(request, bytes => { }, out SnapuserdException? why) is not { } member)
        {
            served(new SnapuserdException(why!.Code, $"'{request.Name}' is not attached: {why.Message}"));
            return;
        }
        Start(request.Name, started => served(started ? null : member.Failure ?? new SnapuserdException(ExitCode.Interrupted, $"{request.Name} was ended before it was served")));
    }

    /// <summary>
    /// Ends a snapshot that nothing stands over and that is not being merged: <paramref name="detached"/> gets null when it is gone, or else why it stays: 76, or 66 if there is none.
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
            SnapshotState.Queued or SnapshotState.Merging => $"{name} is being merged: stop ends the merge at its next checkpoint, and the snapshot with it",
            _ when foreign && snapshot.Trouble == null => $"the device of {name} belongs to the program that made it, which removes it; the snapshot ends then",
            _ => snapshot.Holder() is { } holder ? $"{name} is in use: {holder}" : null,
        };
        if (why != null) detached(new SnapuserdException(snapshot == null ? ExitCode.InputMissing : ExitCode.InUse, why));
        else Delete(name, () => detached(null));
    }

    /// <summary>Null, and why, if it cannot be opened.</summary>
    private Member? TryAdd(SnapshotRequest request, Action<long> opened, out SnapuserdException? why)
    {
        Member member;
        lock (_gate)
        {
            why = FileName.Fault(request.Name) is { } fault ? new SnapuserdException(ExitCode.Usage, $"it cannot name a snapshot: {fault}")
                : _terminating ? new SnapuserdException(ExitCode.Interrupted, "the daemon is about to end")
                : Find(request.Name) != null ? new SnapuserdException(ExitCode.InUse, "there is one of that name") : null;
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
                // No descriptor is left, or no memory.
                request.Attached?.Dispose();
                throw;
            }
            _members.Add(member);
            Publish();
        }
        Thread thread = new(() => Live(member, opened), StackBytes) { IsBackground = true, Name = request.Name };
        try
        {
            thread.Start();
            return member;
        }
        catch (Exception e) when (e is OutOfMemoryException or ThreadStartException)
        {
            why = new SnapuserdException(ExitCode.OutOfResources, "the system has no thread left");
            End(member);
            return null;
        }
    }

    /// <summary>Serves a snapshot; <paramref name="started"/> gets true, or false if that failed, it was asked before, or there is none of that name.</summary>
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
    /// Opens and serves all of them at a time, and waits until that has gone well or failed; returns the name of the first that failed, or null. Waits no longer once
    /// <paramref name="isOver"/>, which is asked again whenever the set's wake-up is signalled. For the thread that listens to that.
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

    /// <summary>Asks for the merge. False if there is no such snapshot, it is not served, or it cannot be merged; twice is once.</summary>
    public bool InitiateMerge(string name)
    {
        lock (_gate)
        {
            if (Find(name) is not { IsServed: true, EndAsked: false } member) return false;
            return member.Snapshot.RequestMerge() || member.Snapshot.MergeRequested;
        }
    }

    /// <summary>How it is, in the words of daemon §5.</summary>
    public string StatusOf(string name)
    {
        Snapshot? snapshot;
        lock (_gate) snapshot = Find(name)?.Snapshot;
        return snapshot?.Status.State switch
        {
            null or SnapshotState.Failed or SnapshotState.Ended => "snapshot-merge-failed",
            SnapshotState.Merged or SnapshotState.Plain => "snapshot-merge-complete",
            SnapshotState.Queued or SnapshotState.Merging => "snapshot-merge",
            // Interrupted: the merge has begun, and the next process goes on.
            _ => snapshot.MergeRequested ? "snapshot-merge" : "snapshot",
        };
    }

    /// <summary>Ends a snapshot: its merge at the next checkpoint. <paramref name="deleted"/> is called when it is gone, at once if there is none.</summary>
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

    /// <summary>Holds all merges, or lets them go on.</summary>
    public void Hold(bool paused)
    {
        foreach (Snapshot snapshot in Snapshots)
        {
            if (paused) snapshot.Pause();
            else snapshot.Resume();
        }
    }

    /// <summary>Takes up no more snapshots and stops all merges at their next checkpoints. Those that are served are served on, until their devices are gone or somebody deletes them.</summary>
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

    /// <summary>The same, and ends them all.</summary>
    public void StopAll()
    {
        lock (_gate)
        {
            _terminating = true;
            foreach (Member member in _members) AskToEnd(member);
        }
        _changed.Signal();
    }

    /// <summary>Tells whether all that stands over the snapshots could be read (daemon §6): waits for that for ten seconds per snapshot, on a thread of its own.</summary>
    public void VerifyUpdate(Action<bool> verified)
    {
        Thread thread = new(() => verified(IsVerified()), StackBytes) { IsBackground = true, Name = "update-verify" };
        try
        {
            thread.Start();
        }
        catch (Exception e) when (e is OutOfMemoryException or ThreadStartException)
        {
            verified(false);
        }
    }

    /// <summary>Ends all of them, whosever the devices are, and waits for it.</summary>
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

    /// <summary>Under the gate.</summary>
    private void AskToEnd(Member member)
    {
        member.EndAsked = true;
        // Whoever has the device open keeps it from being removed.
        member.VerifierStop.Request();
        member.Snapshot.EndMerge();
        if (!_options.DeviceIsForeign || !member.StartAsked) member.Snapshot.RequestStop();
        Monitor.PulseAll(_gate);
    }

    /// <summary>A snapshot's life, on its thread. Never throws.</summary>
    private void Live(Member member, Action<long> opened)
    {
        bool told = false;
        try
        {
            _options.Check?.Invoke(member.Name);
            member.Snapshot.Open();
            long length = member.Snapshot.Length;
            if (length == 0) throw new SnapuserdException(ExitCode.CowCorrupt, "its base is empty");
            told = true;
            opened(length);
            if (IsToStart(member)) Serve(member);
        }
        catch (Exception e)
        {
            SnapuserdException failure = new((e as SnapuserdException)?.Code ?? ExitCode.Internal, member.Named($"{member.Name}: {e.Message}"));
            lock (_gate) member.Failure = failure;
            _options.Report?.Invoke(failure.Message);
        }
        if (!told)
        {
            // When its name is free again.
            lock (_gate) member.WhenEnded.Add(() => opened(-1));
        }
        End(member);
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
        started?.Invoke(true);
        _ = member.Snapshot.Run();
        if (member.Snapshot.Trouble is { } trouble && !_options.DeviceIsForeign) _options.Report?.Invoke($"{member.Name}: {trouble}");
        member.Snapshot.StopServing();
    }

    /// <summary>Closes it, forgets it, and tells those who wait for that.</summary>
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
            _options.Report?.Invoke(member.Named($"{member.Name}: closing it failed: {e.Message}"));
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
        started?.Invoke(false);
        foreach (Action ended in member.WhenEnded) ended();
        lock (_gate)
        {
            _leaving--;
            // Before anybody can see that the set is empty and dispose of what is signalled.
            _changed.Signal();
            Monitor.PulseAll(_gate);
        }
    }

    /// <summary>Under the gate.</summary>
    private void BeginVerification(Member member)
    {
        Thread thread = new(() => Verify(member), StackBytes) { IsBackground = true, Name = "verify" };
        try
        {
            thread.Start();
            (member.Verification, member.Verifier) = (Verification.Running, thread);
        }
        catch (Exception e) when (e is OutOfMemoryException or ThreadStartException)
        {
            member.Verification = Verification.Bad;
        }
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
            _options.Report?.Invoke($"{member.Name} was not verified: {e.Message}");
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
                while (member.Verification == Verification.Running && end > _clock.Milliseconds) _ = Monitor.Wait(_gate, (int)(end - _clock.Milliseconds) + 1);
                if (member.Verification != Verification.Good || !member.IsServed) return false;
            }
            return true;
        }
    }
}
