using System;
using System.Collections.Generic;
using System.Linq;

namespace Snapuserd.Tests.Block.MemoryOrder;

/// <summary>
/// Runs a <see cref="MemoryProgram"/> in every order that the memory model allows, and reports a bad final state if one is reachable.
/// <para>
/// The model is the weaker of the .NET memory model (dotnet/runtime, docs/design/specs/Memory-model.md) and ARMv8. Memory is one array: a
/// store becomes visible to all threads at once (multi-copy atomic). Each step runs any instruction of any thread, unless an earlier
/// instruction of the same thread holds it back. An earlier instruction holds a later one back for one of these reasons:
/// </para>
/// <list type="bullet">
/// <item>The earlier one is an acquire, or the later one is a release. A full fence or update is both.</item>
/// <item>A load with the order of C's seq_cst runs after every earlier release. A plain acquire may run before it.</item>
/// <item>The later instruction needs a value or an address that the earlier one gives.</item>
/// <item>Both access one location. A load takes the value of its own thread's pending store, as from a store buffer.</item>
/// <item>A branch: stores and updates wait until it is decided, because no processor speculates them. Loads do not wait.</item>
/// </list>
/// <para>
/// Before a branch is decided, a load also passes the instructions that the branch may skip: a fence, a lock, an update, a store to its
/// location. It may also take the value of a store that the branch may run. Both are guesses, as a processor makes them. An execution with
/// a wrong guess is discarded. Until the guess is checked, no later store or update of the thread runs.
/// </para>
/// <para>
/// Not modelled: a compiler that merges two loads of one location; a load that runs before an earlier address is known; a load that takes
/// the value of an update that has not run. Programs have no loops: each loop is written out as often as it can run.
/// </para>
/// </summary>
internal sealed class Explorer
{
    /// <summary>Limit on the number of states. No model reaches it; a model that does is too slow for a test.</summary>
    private const int MostStates = 4_000_000;

    private readonly MemoryProgram _program;
    private readonly Instruction[][] _threads;
    private readonly (int Thread, int Place)[] _makerOf;
    private readonly HashSet<string> _seen = [];
    private readonly List<string> _path = [];

    private Explorer(MemoryProgram program)
    {
        _program = program;
        _threads = program.Threads.Select(thread => thread.Instructions.ToArray()).ToArray();
        _makerOf = new (int, int)[program.RegisterCount];
        for (int t = 0; t < _threads.Length; t++)
        {
            if (_threads[t].Length > 64) throw new InvalidOperationException($"{program.Threads[t].Name} has more than 64 instructions");
            for (int i = 0; i < _threads[t].Length; i++)
                if (_threads[t][i].Output is { } output) _makerOf[output.Index] = (t, i);
        }
    }

    private sealed class State(int[] memory, int[] registers, ulong[] done, ulong[] skipped, ulong[] taken)
    {
        internal int[] Memory { get; } = memory;
        internal int[] Values { get; } = registers;
        internal ulong[] Done { get; } = done;

        /// <summary>Instructions that a load has passed, on the guess that their branch skips them.</summary>
        internal ulong[] Skipped { get; } = skipped;

        /// <summary>Stores whose value a load has taken, on the guess that their branch runs them.</summary>
        internal ulong[] Taken { get; } = taken;

        internal Registers Registers => new(Values);

        internal State Copy() =>
            new((int[])Memory.Clone(), (int[])Values.Clone(), (ulong[])Done.Clone(), (ulong[])Skipped.Clone(), (ulong[])Taken.Clone());

        internal bool HasGuesses => Array.Exists(Skipped, bits => bits != 0) || Array.Exists(Taken, bits => bits != 0);

        internal bool IsDone(int thread, int place) => (Done[thread] >> place & 1) != 0;

        internal string Key()
        {
            char[] key = new char[Memory.Length + Values.Length + (12 * Done.Length)];
            int at = 0;
            foreach (int value in Memory) key[at++] = (char)value;
            foreach (int value in Values) key[at++] = value == Registers.None ? char.MaxValue : (char)value;
            foreach (ulong[] all in (ulong[][])[Done, Skipped, Taken])
            {
                foreach (ulong bits in all)
                    for (int part = 0; part < 64; part += 16) key[at++] = (char)(bits >> part);
            }
            return new string(key);
        }
    }

    /// <summary>The steps that lead to a bad final state, one per line; null if no order does.</summary>
    internal static string? FindBad(MemoryProgram program) => FindBad(program, out _);

    /// <summary>As <see cref="FindBad(MemoryProgram)"/>, and returns the number of states visited.</summary>
    internal static string? FindBad(MemoryProgram program, out int states)
    {
        Explorer explorer = new(program);
        int threads = program.Threads.Count;
        State start = new([.. program.Initial], new int[program.RegisterCount], new ulong[threads], new ulong[threads], new ulong[threads]);
        Array.Fill(start.Values, Registers.None);
        _ = explorer.Settle(start);
        string? bad = explorer.Visit(start);
        states = explorer._seen.Count;
        return bad;
    }

    private string? Visit(State state)
    {
        if (!_seen.Add(state.Key())) return null;
        if (_seen.Count > MostStates) throw new InvalidOperationException("the model has too many states");
        bool ended = true;
        for (int t = 0; t < _threads.Length; t++)
        {
            for (int i = 0; i < _threads[t].Length; i++)
            {
                if (state.IsDone(t, i)) continue;
                foreach (Way way in Ways(state, t, i))
                {
                    // A thread that can only guess sleeps for ever, because an earlier instruction decides the branch and never runs.
                    ended &= way.IsGuess;
                    State next = state.Copy();
                    next.Skipped[t] |= way.Skipped;
                    next.Taken[t] |= way.Taken;
                    string step = Run(next, t, i, way.Forwarded);
                    if (!Settle(next)) continue;
                    _path.Add(step);
                    string? bad = Visit(next);
                    if (bad != null) return bad;
                    _path.RemoveAt(_path.Count - 1);
                }
            }
        }
        if (!ended || state.HasGuesses || !_program.Bad(state.Registers, state.Memory)) return null;
        return string.Join('\n', _path);
    }

    private bool IsKnown(State state, Register register) => state.IsDone(_makerOf[register.Index].Thread, _makerOf[register.Index].Place);

    private bool AreKnown(State state, Register[] registers) => Array.TrueForAll(registers, register => IsKnown(state, register));

    /// <summary>Whether the branches run the instruction; null while that is undecided.</summary>
    private bool? Counts(State state, Instruction instruction)
    {
        bool? counts = true;
        foreach (Guard guard in instruction.Guards)
        {
            if (!AreKnown(state, guard.Inputs)) counts = null;
            else if (!guard.Holds(state.Registers)) return false;
        }
        return counts;
    }

    /// <summary>
    /// Marks the instructions that decided branches skip, and drops loads that ran ahead in them. False if a guess was wrong.
    /// </summary>
    private bool Settle(State state)
    {
        for (int t = 0; t < _threads.Length; t++)
        {
            for (int i = 0; i < _threads[t].Length; i++)
            {
                Instruction instruction = _threads[t][i];
                if (instruction.Guards.Length == 0 || Counts(state, instruction) is not { } counts) continue;
                ulong bit = 1UL << i;
                if (((counts ? state.Skipped : state.Taken)[t] & bit) != 0) return false;
                state.Skipped[t] &= ~bit;
                state.Taken[t] &= ~bit;
                if (counts) continue;
                state.Done[t] |= bit;
                if (instruction.Output != null) state.Values[instruction.Output.Index] = Registers.None;
            }
        }
        return true;
    }

    /// <summary>
    /// A way to run an instruction now: the value that it takes from its own thread's store, and its guesses about branches.
    /// </summary>
    private readonly record struct Way(int? Forwarded, ulong Skipped, ulong Taken)
    {
        internal bool IsGuess => (Skipped | Taken) != 0;
    }

    private List<Way> Ways(State state, int t, int i)
    {
        List<Way> ways = [];
        Instruction later = _threads[t][i];
        bool isLoad = later.Kind == InstructionKind.Load;
        if (!isLoad && Counts(state, later) != true) return ways;
        ulong guesses = state.Skipped[t] | state.Taken[t];
        if (isLoad ? (state.Skipped[t] >> i & 1) != 0 : (guesses & ((1UL << i) - 1)) != 0) return ways;
        if (!AreKnown(state, later.Inputs) || (later.Selector != null && !IsKnown(state, later.Selector))) return ways;
        if (later.Selector != null && !state.Registers.Has(later.Selector)) return ways;
        if (later.Until == null || later.Until(state.Memory[later.PlaceIn(state.Registers)])) Pass(state, t, i, i - 1, default, ways);
        return ways;
    }

    /// <summary>
    /// Adds the ways in which instruction <paramref name="i"/> passes all instructions from <paramref name="j"/> back to the first.
    /// </summary>
    private void Pass(State state, int t, int i, int j, Way way, List<Way> ways)
    {
        Instruction later = _threads[t][i];
        for (; j >= 0; j--)
        {
            ulong bit = 1UL << j;
            if (((state.Done[t] | state.Skipped[t]) & bit) != 0) continue;
            Instruction earlier = _threads[t][j];
            bool meets = MayMeet(state, earlier, later), isOrdered = IsOrdered(earlier, later);
            if (!meets && !isOrdered) continue;
            // A later store of the same thread hides this one, whether this one runs or not.
            if (way.Forwarded != null && !isOrdered && earlier.Kind == InstructionKind.Store) continue;
            bool isUndecided = later.Kind == InstructionKind.Load && !IsWithin(later, earlier)
                && Counts(state, earlier) == null && (state.Taken[t] & bit) == 0;
            // A skipped instruction holds nothing back.
            if (isUndecided) Pass(state, t, i, j - 1, way with { Skipped = way.Skipped | bit }, ways);
            if (isOrdered || earlier.Kind != InstructionKind.Store || later.Kind != InstructionKind.Load) return;
            // The thread sees its own store although the store runs later.
            if (!AreKnown(state, earlier.Inputs)) return;
            way = way with { Forwarded = earlier.NewValue!(0, state.Registers), Taken = isUndecided ? way.Taken | bit : way.Taken };
        }
        ways.Add(way);
    }

    /// <summary>Whether the later instruction waits for the earlier one, whatever their locations.</summary>
    private static bool IsOrdered(Instruction earlier, Instruction later) =>
        earlier.Kind == InstructionKind.Fence || later.Kind == InstructionKind.Fence
        || earlier.IsAcquire || later.IsRelease
        || (later.Order == Order.AcquireAfterRelease && earlier.IsRelease);

    /// <summary>Whether both access one location, or the location is not known yet.</summary>
    private bool MayMeet(State state, Instruction earlier, Instruction later)
    {
        if (earlier.Kind == InstructionKind.Fence || later.Kind == InstructionKind.Fence) return false;
        int place = later.PlaceIn(state.Registers);
        bool known = earlier.Selector == null || (IsKnown(state, earlier.Selector) && state.Registers.Has(earlier.Selector));
        if (known) return earlier.PlaceIn(state.Registers) == place;
        return Array.Exists(earlier.Places, candidate => candidate.Index == place);
    }

    private static bool IsWithin(Instruction later, Instruction earlier) =>
        earlier.Guards.Length <= later.Guards.Length
        && earlier.Guards.AsSpan().SequenceEqual(later.Guards.AsSpan(0, earlier.Guards.Length));

    private string Run(State state, int t, int i, int? forwarded)
    {
        Instruction instruction = _threads[t][i];
        state.Done[t] |= 1UL << i;
        string step = $"{_program.Threads[t].Name} {i}: {instruction.Kind} {instruction.Order}";
        if (instruction.Kind == InstructionKind.Fence) return step;
        int place = instruction.PlaceIn(state.Registers), before = forwarded ?? state.Memory[place];
        if (instruction.Output != null) state.Values[instruction.Output.Index] = before;
        if (instruction.NewValue != null) state.Memory[place] = instruction.NewValue(before, state.Registers);
        string effect = instruction.NewValue != null ? $" -> {state.Memory[place]}" : forwarded != null ? " (its own store)" : "";
        return $"{step} {_program.LocationNames[place]}: {before}{effect}";
    }
}
