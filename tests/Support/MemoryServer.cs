using System;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Serve;

namespace Snapuserd.Tests.Support;

/// <summary>A server without a device: the test reads from it and removes it, as Android's client removes a dm-user device.</summary>
internal sealed class MemoryServer(SnapshotView view, BlockDevice[] devices, WakeUp wakeUp) : IBlockServer
{
    private readonly object _gate = new();
    private string? _failure;
    private bool _stopped;

    public string? Failure => Volatile.Read(ref _failure);

    public string Start() => "memory";

    public void Stop()
    {
        lock (_gate) _stopped = true;
    }

    public void Dispose() => Stop();

    /// <summary>Removes the device.</summary>
    internal void Remove()
    {
        lock (_gate)
        {
            if (_stopped) return;
            Volatile.Write(ref _failure, "removed");
            wakeUp.Signal();
        }
    }

    /// <summary>Reads as a client would; null when nothing is served any more. A stop never interrupts a read.</summary>
    internal byte[]? Read(long offset, int length)
    {
        lock (_gate)
        {
            if (_stopped || _failure != null) return null;
            using ReadContext context = new(view, devices, 1, length);
            Slice buffer = context.Buffer(0).Part(0, length);
            int read = context.Reader.Read(offset, buffer);
            return read == length ? context[buffer].ToArray() : throw new InvalidOperationException($"{length} bytes at {offset}: {read}");
        }
    }
}
