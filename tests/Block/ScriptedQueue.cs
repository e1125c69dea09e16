using System;
using System.Collections.Generic;
using Snapuserd.Block;

namespace Snapuserd.Tests.Block;

/// <summary>A block queue that does what the test says: every attempt is put into <see cref="Asked"/>, and its end comes from the script.</summary>
internal sealed class ScriptedQueue(int depth) : IBlockQueue
{
    private readonly List<BlockRequest> _inFlight = [];

    /// <summary>Every attempt through the queue, in the order in which it was made.</summary>
    public List<BlockRequest> Asked { get; } = [];

    /// <summary>Every plain call.</summary>
    public List<BlockRequest> Performed { get; } = [];

    /// <summary>The result of attempt number n (from 0) at a request.</summary>
    public Func<int, BlockRequest, int> Attempt { get; set; } = (_, request) => request.Buffer.Length;

    /// <summary>The result of a plain call.</summary>
    public Func<BlockRequest, int> Plain { get; set; } = request => request.Buffer.Length;

    /// <summary>Which of the requests in flight ends next.</summary>
    public Func<int, int> Next { get; set; } = _ => 0;

    /// <summary>If negative, what the next wait returns.</summary>
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
        if (_inFlight.Count == 0) throw new InvalidOperationException("waits for nothing");
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
