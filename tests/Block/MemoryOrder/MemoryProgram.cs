using System;
using System.Collections.Generic;
using System.Linq;

namespace Snapuserd.Tests.Block.MemoryOrder;

/// <summary>The ordering of an access.</summary>
internal enum Order
{
    /// <summary>An ordinary access: only dependencies and accesses of the same location order it.</summary>
    Plain,

    /// <summary>
    /// A load that runs before everything after it, as Volatile.Read promises: LDAPR. An earlier release store may still run after it.
    /// </summary>
    Acquire,

    /// <summary>An acquire load that also runs after every earlier release store, as C's seq_cst promises: LDAR.</summary>
    AcquireAfterRelease,

    /// <summary>A store that runs after everything before it, as Volatile.Write promises: STLR.</summary>
    Release,

    /// <summary>A read-modify-write that no access crosses in either direction, as Interlocked promises.</summary>
    Full,
}

/// <summary>A word of shared memory.</summary>
internal sealed record Location(int Index, string Name);

/// <summary>The result of an instruction, for later instructions of its thread and for the check at the end.</summary>
internal sealed record Register(int Index, string Name);

/// <summary>
/// The values of all registers at one moment; <see cref="None"/> for an instruction that was skipped or has not run.
/// </summary>
internal readonly struct Registers(int[] values)
{
    /// <summary>No value.</summary>
    internal const int None = int.MinValue;

    internal int this[Register register] => values[register.Index];

    /// <summary>Whether the instruction that sets the register has run.</summary>
    internal bool Has(Register register) => values[register.Index] != None;
}

/// <summary>A branch: the instructions inside it run only if <paramref name="Holds"/> is true.</summary>
internal sealed record Guard(Func<Registers, bool> Holds, Register[] Inputs);

internal enum InstructionKind
{
    Load,
    Store,
    Update,
    Fence,
}

/// <summary>One access, or one full fence.</summary>
internal sealed class Instruction
{
    internal required InstructionKind Kind { get; init; }
    internal Order Order { get; init; }
    internal required Guard[] Guards { get; init; }

    /// <summary>The possible locations: one, or several of which <see cref="Selector"/> chooses.</summary>
    internal Location[] Places { get; init; } = [];
    internal Register? Selector { get; init; }

    /// <summary>The value that a store or an update writes, from the old value and the registers.</summary>
    internal Func<int, Registers, int>? NewValue { get; init; }

    /// <summary>The registers that <see cref="NewValue"/> reads.</summary>
    internal Register[] Inputs { get; init; } = [];
    internal Register? Output { get; init; }

    /// <summary>For an update that blocks, as a system call does: the values at which it runs.</summary>
    internal Func<int, bool>? Until { get; init; }

    internal bool IsAcquire => Kind != InstructionKind.Store && Order is Order.Acquire or Order.AcquireAfterRelease or Order.Full;

    internal bool IsRelease => Kind != InstructionKind.Load && Order is Order.Release or Order.Full;

    internal int PlaceIn(Registers registers) => (Selector == null ? Places[0] : Places[registers[Selector] % Places.Length]).Index;
}

/// <summary>A short program of one thread. It has guards for branches and no loops: each loop is written out.</summary>
internal sealed class ThreadProgram
{
    private readonly MemoryProgram _program;
    private readonly Stack<Guard> _guards = new();

    internal ThreadProgram(MemoryProgram program, string name) => (_program, Name) = (program, name);

    internal string Name { get; }

    internal List<Instruction> Instructions { get; } = [];

    private Guard[] Guards => _guards.Reverse().ToArray();

    internal Register Load(Location from, Order order = Order.Plain) => Load([from], null, order);

    /// <summary>A load from <c>places[selector % places.Length]</c>: its address depends on the register.</summary>
    internal Register Load(Location[] places, Register? selector, Order order = Order.Plain)
    {
        Register output = _program.NewRegister($"{Name}.{places[0].Name}");
        Add(new Instruction
        {
            Kind = InstructionKind.Load,
            Order = order,
            Guards = Guards,
            Places = places,
            Selector = selector,
            Output = output,
        });
        return output;
    }

    internal void Store(Location to, int value, Order order = Order.Plain) => Store(to, _ => value, [], order);

    internal void Store(Location to, Func<Registers, int> value, Register[] inputs, Order order = Order.Plain) =>
        Add(new Instruction
        {
            Kind = InstructionKind.Store,
            Order = order,
            Guards = Guards,
            Places = [to],
            NewValue = (_, r) => value(r),
            Inputs = inputs,
        });

    /// <summary>Reads and writes in one step, as Interlocked does. Returns the old value.</summary>
    internal Register Update(Location at, Func<int, int> change, Order order) => Update([at], null, change, order);

    internal Register Update(Location[] places, Register? selector, Func<int, int> change, Order order, Func<int, bool>? until = null)
    {
        Register output = _program.NewRegister($"{Name}.{places[0].Name}");
        Add(new Instruction
        {
            Kind = InstructionKind.Update,
            Order = order,
            Guards = Guards,
            Places = places,
            Selector = selector,
            NewValue = (before, _) => change(before),
            Output = output,
            Until = until,
        });
        return output;
    }

    /// <summary>
    /// Sleeps until the location is not 0, then sets it to 0, as a read of an eventfd does. The model assumes no ordering by the kernel.
    /// </summary>
    internal Register Sleep(Location eventfd) => Update([eventfd], null, _ => 0, Order.Plain, value => value != 0);

    /// <summary>Adds 1 to an eventfd.</summary>
    internal void Signal(Location eventfd) => Update(eventfd, value => value + 1, Order.Plain);

    /// <summary>Monitor.Enter, which promises only acquire.</summary>
    internal void Lock(Location gate) => Update([gate], null, _ => 1, Order.Acquire, value => value == 0);

    /// <summary>Monitor.Exit, which promises only release.</summary>
    internal void Unlock(Location gate) => Store(gate, 0, Order.Release);

    internal void Fence() => Add(new Instruction { Kind = InstructionKind.Fence, Order = Order.Full, Guards = Guards });

    /// <summary>
    /// Until the result is disposed, new instructions run only if <paramref name="holds"/>. Loads may run before that is decided.
    /// </summary>
    internal IDisposable When(Func<Registers, bool> holds, params Register[] inputs)
    {
        _guards.Push(new Guard(holds, inputs));
        return new End(_guards);
    }

    private void Add(Instruction instruction) => Instructions.Add(instruction);

    private sealed class End(Stack<Guard> guards) : IDisposable
    {
        public void Dispose() => guards.Pop();
    }
}

/// <summary>Threads over shared memory, and the forbidden outcome.</summary>
internal sealed class MemoryProgram
{
    private int _registers;

    internal List<int> Initial { get; } = [];

    internal List<string> LocationNames { get; } = [];

    internal List<ThreadProgram> Threads { get; } = [];

    internal int RegisterCount => _registers;

    /// <summary>Whether a final state is bad, given its registers and memory. A thread that sleeps for ever has ended, too.</summary>
    internal Func<Registers, int[], bool> Bad { get; set; } = (_, _) => false;

    internal Location Location(string name, int initial = 0)
    {
        Initial.Add(initial);
        LocationNames.Add(name);
        return new Location(Initial.Count - 1, name);
    }

    internal ThreadProgram Thread(string name)
    {
        ThreadProgram thread = new(this, name);
        Threads.Add(thread);
        return thread;
    }

    internal Register NewRegister(string name) => new(_registers++, name);
}
