using System;
using System.Collections.Generic;
using Snapuserd.Block;

namespace Snapuserd.Tests.Benchmarks.Merging;

/// <summary>
/// A request of a trace, with the numbers of requests, reads, writes and flushes that had ended when it was queued. Everything that it
/// waited for is among those.
/// </summary>
internal readonly record struct TracedRequest(BlockRequest Request, int Ended, int ReadsEnded, int WritesEnded, int FlushesEnded);

/// <summary>The requests of a merge, in order, and the order in which they ended.</summary>
internal sealed class Trace
{
    internal List<TracedRequest> Requests { get; } = new(1 << 16);

    /// <summary>Indices into <see cref="Requests"/>, in the order in which they ended.</summary>
    internal List<int> Ends { get; } = new(1 << 16);
}

/// <summary>Passes everything on to another queue; counts it, and records it in a trace if there is one.</summary>
internal sealed class TracingQueue(IBlockQueue inner, Trace? trace) : IBlockQueue
{
    private readonly Dictionary<uint, int> _underWay = new(inner.Depth);
    private int _ended, _readsEnded, _writesEnded, _flushesEnded;

    internal long Requests { get; private set; }

    internal long BytesRead { get; private set; }

    internal long BytesWritten { get; private set; }

    internal long Flushes { get; private set; }

    internal long Waits { get; private set; }

    public int Depth => inner.Depth;

    public bool TryQueue(in BlockRequest request)
    {
        if (!inner.TryQueue(request)) return false;
        Requests++;
        switch (request.Verb)
        {
            case BlockVerb.Read: BytesRead += request.Buffer.Length; break;
            case BlockVerb.Write: BytesWritten += request.Buffer.Length; break;
            case BlockVerb.Flush: Flushes++; break;
        }
        if (trace != null)
        {
            _underWay[request.Tag] = trace.Requests.Count;
            trace.Requests.Add(new TracedRequest(request, _ended, _readsEnded, _writesEnded, _flushesEnded));
        }
        return true;
    }

    public int Wait(Span<BlockCompletion> completions)
    {
        Waits++;
        int count = inner.Wait(completions);
        if (trace == null || count <= 0) return count;
        foreach (BlockCompletion completion in completions[..count])
        {
            int index = _underWay[completion.Tag];
            trace.Ends.Add(index);
            _ended++;
            switch (trace.Requests[index].Request.Verb)
            {
                case BlockVerb.Read: _readsEnded++; break;
                case BlockVerb.Write: _writesEnded++; break;
                case BlockVerb.Flush: _flushesEnded++; break;
            }
        }
        return count;
    }

    public int Perform(in BlockRequest request) => inner.Perform(request);

    public void Dispose() => inner.Dispose();
}
