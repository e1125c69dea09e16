using System;
using Snapuserd.Cow;

namespace Snapuserd.Create;

/// <summary>
/// Finds cycles of ops that wait for each other, by a depth-first walk along <see cref="OpGraph"/> with an explicit stack. In each cycle it
/// turns the op that is cheapest as Replace into a Replace. Removing an op makes no new cycle, so finished parts of the walk stay valid.
/// </summary>
internal sealed class CycleBreaker : IDisposable
{
    /// <summary>
    /// Maximum number of ops of one cycle that are estimated; they are evenly spread. Breaking a cycle costs a single block, at most 4 KiB.
    /// More estimates, which take seconds with a slow codec, are not worth the possible gain.
    /// </summary>
    private const int Samples = 1 << 16;

    /// <summary>
    /// Limit of steps (walked edges and compared costs) per op. Beyond it, a cycle is broken where it closes, not where that is cheapest.
    /// This needs no search, so the total stays linear for a graph of many long and entangled cycles. Disjoint cycles, the only kind among
    /// copies, need five steps per op.
    /// </summary>
    private const int StepsPerOp = 256;

    private const byte White = 0, Grey = 1, Black = Grey + OpGraph.Edges + 1;

    private readonly NativeArray<PackedChange> _changes;
    // For each block: White, or Grey plus the number of edges already walked, or Black.
    private readonly NativeArray<byte> _states;
    private readonly NativeArray<uint> _stack;
    private readonly ReplaceCosts _costs;
    private readonly StopPoll _stop;
    private long _depth;
    /// <summary>Remaining steps; once it is negative, no search for the cheapest op is made.</summary>
    private long _steps;
    /// <summary>Ops that became Replace.</summary>
    private long _broken;

    private CycleBreaker(Comparison comparison, NativeArray<byte> states, NativeArray<uint> stack)
    {
        _changes = comparison.Changes;
        _states = states;
        _stack = stack;
        _costs = new ReplaceCosts(comparison);
        _stop = new StopPoll(comparison.Options.Stop);
    }

    /// <summary>
    /// Breaks every cycle. Returns how many ops became Replace. Needs 1 byte per block of the new image and 4 per ordered op while it runs.
    /// </summary>
    public static long Run(Comparison comparison, long orderedOps)
    {
        using var states = new NativeArray<byte>(comparison.Tally, comparison.TargetBlocks, "the search for cycles");
        using var stack = new NativeArray<uint>(comparison.Tally, orderedOps, "the search for cycles");
        using var breaker = new CycleBreaker(comparison, states, stack);
        return breaker.Run(orderedOps);
    }

    /// <inheritdoc/>
    public void Dispose() => _costs.Dispose();

    private long Run(long orderedOps)
    {
        _steps = orderedOps * StepsPerOp;
        for (long root = 0; root < _changes.Length; root++)
        {
            _stop.Step();
            if (!_changes[root].IsOrdered || _states[root] != White) continue;
            // All ops below this root are done. Ops that become white again when a cycle is broken are above it, so the scan reaches them.
            Push(root);
            while (_depth > 0)
            {
                _stop.Step();
                _steps--;
                Walk();
            }
        }
        return _broken;
    }

    /// <summary>
    /// Walks one edge of the op on top of the stack, or pops the op if all are walked. Breaks a cycle that the edge closes.
    /// </summary>
    private void Walk()
    {
        long block = _stack[_depth - 1];
        int edge = _states[block] - Grey;
        if (edge == OpGraph.Edges)
        {
            _states[block] = Black;
            _depth--;
            return;
        }
        _states[block]++;
        long after = OpGraph.After(_changes, block, _changes[block], edge);
        if (after < 0 || _states[after] == Black) return;
        if (_states[after] == White) Push(after);
        else BreakCycle(after);
    }

    /// <summary>Breaks the cycle of the ops on the stack from <paramref name="begin"/> on.</summary>
    private void BreakCycle(long begin)
    {
        _broken++;
        if (_steps < 0)
        {
            Break(_depth - 1);
            return;
        }
        long first = Position(begin);
        _steps -= _depth - first;
        Break(Cheapest(first));
    }

    private void Push(long block)
    {
        _states[block] = Grey;
        _stack[_depth++] = (uint)block;
    }

    private long Position(long block)
    {
        long position = _depth - 1;
        while (_stack[position] != block) position--;
        return position;
    }

    /// <summary>Replaces the op at a position of the stack, and resets the ops above it.</summary>
    private void Break(long position)
    {
        for (long p = position + 1; p < _depth; p++) _states[_stack[p]] = White;
        _depth = position;
        long block = _stack[position];
        _states[block] = Black;
        _changes[block] = PackedChange.Replace;
    }

    /// <summary>
    /// The stack position, from <paramref name="first"/> on, of the op that is cheapest to replace; of equal ones the lowest block.
    /// </summary>
    private long Cheapest(long first)
    {
        long count = _depth - first, step = (count + Samples - 1) / Samples;
        _costs.Estimate(_stack, first, _depth, step);
        long best = first;
        for (long p = first; p < _depth; p += step)
        {
            int cost = _changes[_stack[p]].ExtraCost, least = _changes[_stack[best]].ExtraCost;
            if (cost < least || (cost == least && _stack[p] < _stack[best])) best = p;
        }
        return best;
    }
}
