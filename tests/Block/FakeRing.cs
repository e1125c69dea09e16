using System;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Block;

/// <summary>A ring queue over a simulated kernel. The wake-up's read stays in flight unless the test completes it.</summary>
internal abstract class FakeRing : IDisposable
{
    /// <summary>User data of the wake-up's read. All other values are requests of the test.</summary>
    public const ulong WakeUpData = 1UL << 32;

    protected FakeRing(int depth, uint entries, uint completions, int arenaSize, int[] devices)
    {
        // The counters start close to wrapping.
        Kernel = new FakeRingKernel(entries, completions, uint.MaxValue - 5);
        Arena = new Arena(arenaSize);
        Assert.Equal(0, MappedMemory.Map(4096, out MappedMemory? buffer));
        Queue = new RingQueue(null, new Ring(Kernel.Memory, Kernel), devices, Arena, WakeUp, buffer!, depth, fixedBuffer: false);
    }

    public FakeRingKernel Kernel { get; }

    public Arena Arena { get; }

    public WakeUp WakeUp { get; } = new();

    public RingQueue Queue { get; }

    /// <summary>A copy of the requests in flight, without the wake-up's read.</summary>
    public static IoUringSqe[] Requests(FakeRingKernel kernel) =>
        kernel.InFlight.Where(request => request.UserData != WakeUpData).ToArray();

    public void Dispose()
    {
        // Completes all requests at the end, so that the queue can be disposed in any state.
        Kernel.OnEnter = (k, submit, _) =>
        {
            int taken = k.Take(submit);
            while (k.InFlight.Count > 0) k.Complete(k.InFlight[0], -Errno.ECANCELED);
            return taken;
        };
        Queue.Dispose();
        Kernel.Dispose();
        WakeUp.Dispose();
        Arena.Dispose();
    }
}
