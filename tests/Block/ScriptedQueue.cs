using System;
using System.Collections.Generic;
using Snapuserd.Block;

namespace Snapuserd.Tests.Block;

/// <summary>
/// A block queue under the test's control. It records every attempt in <see cref="Asked"/>; the script gives the results.
/// </summary>
internal sealed class ScriptedQueue(int depth) : IBlockQueue
{
    private readonly List<BlockRequest> _inFlight = [];

    /// <summary>Every attempt through the queue, in order of completion.</summary>
    public List<BlockRequest> Asked { get; } = [];

    /// <summary>Every synchronous call.</summary>
    public List<BlockRequest> Performed { get; } = [];

    /// <summary>The result of an attempt through the queue. Its number, from 0, counts the attempts at all requests.</summary>
    public Func<int, BlockRequest, int> Attempt { get; set; } = (_, request) => request.Buffer.Length;

    /// <summary>The result of a synchronous call.</summary>
    public Func<BlockRequest, int> Plain { get; set; } = request => request.Buffer.Length;

    /// <summary>Index of the request in flight that ends next.</summary>
    public Func<int, int> Next { get; set; } = _ => 0;

    /// <summary>The result of every wait, if negative.</summary>
    public int Broken { get; set; }

    public int Depth => depth;

    public bool TryQueue(in BlockRequest request)
    {
        if (_inFlight.Count == depth) return false;
        _inFlight.Add(request);
        return true;
    }

    public int Wait(Span<BlockCompletion> completions)
    {
        if (Broken < 0) return Broken;
        if (_inFlight.Count == 0) throw new InvalidOperationException("a wait with no request in flight");
        int index = Next(_inFlight.Count);
        BlockRequest request = _inFlight[index];
        _inFlight.RemoveAt(index);
        int result = Attempt(Asked.Count, request);
        Asked.Add(request);
        completions[0] = new BlockCompletion(request.Tag, result);
        return 1;
    }

    public int Perform(in BlockRequest request)
    {
        Performed.Add(request);
        return Plain(request);
    }

    public void Dispose()
    {
    }
}
