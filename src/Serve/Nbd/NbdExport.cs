using System;
using System.Text;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>The state that all connections share: the view, the memory, and the reports of failures.</summary>
internal sealed class NbdExport
{
    /// <summary>
    /// The longest request in bytes: the limit that clients assume if a server does not send one (proto.md, "Block size constraints").
    /// </summary>
    public const int LongestRequest = 32 << 20;

    /// <summary>The preferred block size: that of most file systems' requests and of ops.</summary>
    public const int PreferredBlock = Sizes.Block;

    /// <summary>
    /// Limits for the size of a thread's buffer in bytes. The largest is the usual request of copying programs. If the memory then allows
    /// fewer threads than <see cref="FewThreads"/>, the buffer is halved, but not below the smallest. That is the length that a server must
    /// be able to send in one piece if the client demands it (proto.md, NBD_CMD_FLAG_DF).
    /// </summary>
    private const int LargestBuffer = 256 << 10;

    private const int SmallestBuffer = 64 << 10;

    /// <summary>Enough threads for two programs with four connections each.</summary>
    private const int FewThreads = 8;

    /// <summary>
    /// The maximum number of additional buffers per worker. A client with four requests at a time has three replies parked while one is
    /// sent; more parked replies would not increase the speed.
    /// </summary>
    private const int SpareBuffers = 3;

    private readonly Action<string>? _report;
    private readonly WakeUp _wakeUp;
    private string? _failure;
    private bool _readsTwice;
    private int _spare;
    private long _requests;

    /// <summary>
    /// An export for at most <paramref name="connections"/> connections. Throws with exit code 71 if the memory is too small for one.
    /// </summary>
    public NbdExport(SnapshotView view, BlockDevice[] devices, NbdOptions options, int connections, WakeUp wakeUp)
    {
        (View, Devices, _report, _wakeUp) = (view, devices, options.Report, wakeUp);
        NameBytes = ByteText.Encode(options.ExportName);
        if (NameBytes.Length > NbdProtocol.LongestString)
        {
            string limit = $"the name of an NBD export has {NbdProtocol.LongestString} bytes at most";
            throw new SnapuserdException(ExitCode.Usage, $"{limit}, this one has {NameBytes.Length}");
        }
        BufferBytes = LargestBuffer;
        while (BufferBytes > SmallestBuffer && Threads(options) < FewThreads) BufferBytes /= 2;
        int threads = Threads(options);
        if (threads == 0)
            throw new SnapuserdException(ExitCode.OutOfResources,
                $"serving takes at least {ReadContext.Bytes(view, 1, BufferBytes)} bytes of buffer memory, "
                + $"but only {options.MemoryBytes} are available; try a larger --memory");
        // One thread is reserved for each connection, so that no client can take them all. Up to half of the threads go to connections with
        // many requests.
        Connections = Math.Clamp(Math.Min(connections, Math.Max(threads / 2, FewThreads)), 1, threads);
        _spare = threads - Connections;
        MostHelpers = Math.Max(options.ThreadsPerConnection, 1) - 1;
        MostAnswers = Math.Max(options.ThreadsPerConnection, 1);
        Workers = Math.Clamp(options.Workers, 1, threads);
        int rest = options.MemoryBytes - (Workers * ReadContext.Bytes(view, 1, BufferBytes));
        Buffers = Workers + Math.Min(rest / BufferBytes, SpareBuffers * Workers);
    }

    public SnapshotView View { get; }

    public BlockDevice[] Devices { get; }

    /// <summary>The export's name in the protocol's encoding.</summary>
    public byte[] NameBytes { get; }

    /// <summary>Bytes of a thread's buffer.</summary>
    public int BufferBytes { get; }

    /// <summary>The maximum number of connections at the same time.</summary>
    public int Connections { get; }

    /// <summary>The maximum number of one client's requests that are served at the same time.</summary>
    public int MostAnswers { get; }

    /// <summary>The number of worker threads of an <see cref="NbdServer"/>, for all clients together.</summary>
    public int Workers { get; }

    /// <summary>The number of buffers that the workers share: one for each, and more for replies that clients have not read yet.</summary>
    public int Buffers { get; }

    /// <summary>The maximum number of threads of a connection in addition to its first.</summary>
    public int MostHelpers { get; }

    /// <summary>The transmission flags of a connection.</summary>
    public static ushort Flags(bool structured) =>
        (ushort)(NbdWire.NBD_FLAG_HAS_FLAGS | NbdWire.NBD_FLAG_READ_ONLY | NbdWire.NBD_FLAG_SEND_FLUSH | NbdWire.NBD_FLAG_CAN_MULTI_CONN
            | (structured ? NbdProtocol.SendDf : 0));

    /// <summary>Null while the server works; the reason after a failure.</summary>
    public string? Failure => Volatile.Read(ref _failure);

    /// <summary>Requests received so far.</summary>
    public long Requests => Volatile.Read(ref _requests);

    /// <summary>
    /// True once a read has failed in the middle of a simple reply. From then on, data that is sent in several parts is read twice:
    /// completely before the header is sent, so that an error can be reported.
    /// </summary>
    public bool ReadsTwice
    {
        get => Volatile.Read(ref _readsTwice);
        set => Volatile.Write(ref _readsTwice, value);
    }

    /// <summary>Counts a request.</summary>
    public void Count() => Interlocked.Increment(ref _requests);

    /// <summary>Reserves memory for another thread; false if none is left.</summary>
    public bool TryTakeSpare()
    {
        if (Interlocked.Decrement(ref _spare) >= 0) return true;
        Interlocked.Increment(ref _spare);
        return false;
    }

    /// <summary>Returns a reservation of <see cref="TryTakeSpare"/>.</summary>
    public void GiveSpare() => Interlocked.Increment(ref _spare);

    /// <summary>Passes a message about a client, such as why it was dropped, to the owner.</summary>
    public void Report(string sentence) => _report?.Invoke(sentence);

    /// <summary>Records a fatal failure, and wakes the owner.</summary>
    public void Fail(string sentence)
    {
        if (Interlocked.CompareExchange(ref _failure, sentence, null) == null) _wakeUp.Signal();
    }

    /// <summary>
    /// Fails the server if <paramref name="errno"/> shows that a sandbox forbids a call on a client's socket, because every client would be
    /// dropped.
    /// </summary>
    public void FailIfForbidden(nint errno)
    {
        if (errno is -Errno.EPERM or -Errno.ENOSYS) Fail($"NBD: no client can be served: {ErrnoText.Of((int)errno)}");
    }

    /// <summary>
    /// Handles an unexpected exception of a thread: drops one client if memory is short, otherwise fails the server. Never throws.
    /// </summary>
    public void Caught(Exception e)
    {
        try
        {
            if (e is SnapuserdException { Code: ExitCode.OutOfResources } or OutOfMemoryException)
                Report($"NBD: a client was dropped: {e.Message}");
            else Fail($"NBD: a thread has failed: {e}");
        }
        catch (Exception)
        {
            Fail("NBD: a thread has failed, and its error could not be reported");
        }
    }

    private int Threads(NbdOptions options) => options.MemoryBytes / ReadContext.Bytes(View, 1, BufferBytes);
}
