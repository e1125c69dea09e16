using System;
using System.Collections.Generic;
using System.Linq;

namespace Snapuserd.Tests.Block.MemoryOrder;

/// <summary>
/// Runs a <see cref="MemoryProgram"/> in every way that the memory model allows, and reports a bad end if there is one.
/// <para>
/// The model is the weaker of what .NET promises (dotnet/runtime, docs/design/specs/Memory-model.md) and of what ARMv8 does. Memory is
/// one array: a store becomes visible to all threads at once (multi-copy atomic). Each step runs any instruction of any thread that no
/// earlier instruction of its own thread holds back. These hold one back:
/// </para>
/// <list type="bullet">
/// <item>acquire: nothing after it runs before it; release: it runs after everything before it; a full fence or update: both;</item>
/// <item>a load of the kind that C's seq_cst makes runs after every earlier release; a plain acquire need not;</item>
/// <item>a value or an address that an earlier instruction gives;</item>
/// <item>the same location. A load takes the value of its thread's own store that has not run yet, as a store buffer does it;</item>
/// <item>a branch: stores and updates wait for its decision, because nothing speculates them. Loads do not wait.</item>
/// </list>
/// <para>
/// Not modelled: two loads of one location made one by a compiler, a load that runs ahead of an address that is not known yet, and loads
/// that take the value of an update that has not run. Programs are straight on, so loops are written out as often as they can run.
/// </para>
/// </summary>
internal sealed class Explorer
{
    /// <summary>More states than any of the models has: a model that grows beyond them would make the tests slow.</summary>
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

    private sealed class State(int[] memory, int[] registers, ulong[] done)
    {
        internal int[] Memory { get; } = memory;
        internal int[] Values { get; } = registers;
        internal ulong[] Done { get; } = done;

        internal Registers Registers => new(Values);

        internal State Copy() => new((int[])Memory.Clone(), (int[])Values.Clone(), (ulong[])Done.Clone());

        internal bool IsDone(int thread, int place) => (Done[thread] >> place & 1) != 0;

        internal string Key()
        {
            char[] key = new char[Memory.Length + Values.Length + (4 * Done.Length)];
            int at = 0;
            foreach (int value in Memory) key[at++] = (char)value;
            foreach (int value in Values) key[at++] = value == Registers.None ? char.MaxValue : (char)value;
            foreach (ulong done in Done)
                for (int part = 0; part < 64; part += 16) key[at++] = (char)(done >> part);
            return new string(key);
        }
    }

    /// <summary>The steps that lead to a bad end, one a line; null if no order does.</summary>
    internal static string? FindBad(MemoryProgram program) => FindBad(program, out _);

    /// <summary>The same, with the number of states looked at.</summary>
    internal static string? FindBad(MemoryProgram program, out int states)
    {
        Explorer explorer = new(program);
        State start = new([.. program.Initial], new int[program.RegisterCount], new ulong[program.Threads.Count]);
        Array.Fill(start.Values, Registers.None);
        explorer.Settle(start);
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
                if (state.IsDone(t, i) || !MayRun(state, t, i, out int? forwarded)) continue;
                ended = false;
                State next = state.Copy();
                string step = Run(next, t, i, forwarded);
                Settle(next);
                _path.Add(step);
                string? bad = Visit(next);
                if (bad != null) return bad;
                _path.RemoveAt(_path.Count - 1);
            }
        }
        if (!ended || !_program.Bad(state.Registers, state.Memory)) return null;
        return string.Join('\n', _path);
    }

    private bool IsKnown(State state, Register register) => state.IsDone(_makerOf[register.Index].Thread, _makerOf[register.Index].Place);

    private bool AreKnown(State state, Register[] registers) => Array.TrueForAll(registers, register => IsKnown(state, register));

    /// <summary>True or false once it is decided; null before.</summary>
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

    /// <summary>Skips what a branch has left out, and drops what loads have read ahead for it.</summary>
    private void Settle(State state)
    {
        for (int t = 0; t < _threads.Length; t++)
        {
            for (int i = 0; i < _threads[t].Length; i++)
            {
                Instruction instruction = _threads[t][i];
                if (instruction.Guards.Length == 0 || Counts(state, instruction) != false) continue;
                state.Done[t] |= 1UL << i;
                if (instruction.Output != null) state.Values[instruction.Output.Index] = Registers.None;
            }
        }
    }

    private bool MayRun(State state, int t, int i, out int? forwarded)
    {
        forwarded = null;
        Instruction later = _threads[t][i];
        if (later.Kind != InstructionKind.Load && Counts(state, later) != true) return false;
        if (!AreKnown(state, later.Inputs) || (later.Selector != null && !IsKnown(state, later.Selector))) return false;
        if (later.Selector != null && !state.Registers.Has(later.Selector)) return false;
        for (int j = i - 1; j >= 0; j--)
        {
            if (state.IsDone(t, j)) continue;
            Instruction earlier = _threads[t][j];
            if (earlier.Kind == InstructionKind.Fence || later.Kind == InstructionKind.Fence) return false;
            if (earlier.IsAcquire || later.IsRelease) return false;
            if (later.Order == Order.AcquireAfterRelease && earlier.IsRelease) return false;
            if (!MayMeet(state, earlier, later)) continue;
            if (earlier.Kind != InstructionKind.Store || later.Kind != InstructionKind.Load) return false;
            // A store that runs later still is seen by its own thread, if it is certain for this load that it will run.
            if (forwarded != null) continue;
            if (!AreKnown(state, earlier.Inputs) || (Counts(state, earlier) != true && !IsWithin(later, earlier))) return false;
            forwarded = earlier.NewValue!(0, state.Registers);
        }
        return later.Until == null || later.Until(state.Memory[later.PlaceIn(state.Registers)]);
    }

    /// <summary>They go to one location, or it is not known yet.</summary>
    private bool MayMeet(State state, Instruction earlier, Instruction later)
    {
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
