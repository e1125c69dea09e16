using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Block;

/// <summary>
/// Whole transfers over the ring queue on a simulated kernel. In each run a different call fails, or a different completion is short or
/// failed. The device is an array.
/// </summary>
public sealed class RingFaultTests
{
    private const int Depth = 4;
    private const int Transfer = 8192;
    private const int Count = 12;
    private const int Seed = 5;

    /// <summary>The fault of a call of io_uring_enter.</summary>
    public enum Call
    {
        /// <summary>-EINTR, -EAGAIN or -EBUSY; the kernel takes nothing.</summary>
        Refuses,
        /// <summary>The kernel takes one of the offered requests.</summary>
        TakesOne,
        /// <summary>The kernel takes everything and completes nothing. The call returns early, as after a signal.</summary>
        CompletesNothing,
    }

    /// <summary>A ring whose only device is a byte array.</summary>
    private sealed class Machine : FakeRing
    {
        private readonly Random _random = new(Seed);

        public Machine(int granule) : base(Depth, 8, 16, 1 << 20, [-1])
        {
            Granule = granule;
            Kernel.OnEnter = Enter;
            Io = new IoScheduler(Queue, [granule]);
            _random.NextBytes(Device);
        }

        public int Granule { get; }
        public byte[] Device { get; } = new byte[2 * Count * Transfer];
        public IoScheduler Io { get; }
        public int Calls { get; private set; }
        public int Completions { get; private set; }

        /// <summary>The fault of call number n and its errno; null for a call without a fault.</summary>
        public Func<int, (Call Kind, int Errno)?> OnCall { get; set; } = _ => null;

        /// <summary>The result of completion number n of a request, given the request's length in bytes.</summary>
        public Func<int, int, int> OnCompletion { get; set; } = (_, length) => length;

        /// <summary>Copies the first half of the device into the second, with as many requests in flight as fit, and flushes.</summary>
        public TransferFailure? CopyHalf()
        {
            for (int i = 0; i < Count; i++) Io.Read(0, i * Transfer, Buffer(i));
            if (Io.Drain() is { } unread) return unread;
            for (int i = 0; i < Count; i++) Io.Write(0, (Count + i) * Transfer, Buffer(i));
            if (Io.Drain() is { } unwritten) return unwritten;
            Io.Flush(0);
            return Io.Drain();
        }

        public bool Halves() => Device.AsSpan(0, Count * Transfer).SequenceEqual(Device.AsSpan(Count * Transfer));

        private static Slice Buffer(int i) => new(i * Transfer, Transfer);

        private int Enter(FakeRingKernel kernel, uint submit, uint complete)
        {
            (Call Kind, int Errno)? fault = OnCall(Calls++);
            if (fault is { Kind: Call.Refuses }) return -fault.Value.Errno;
            int taken = kernel.Take(fault is { Kind: Call.TakesOne } ? Math.Min(1, submit) : submit);
            if (fault is { Kind: Call.CompletesNothing }) return taken;
            // Completes some requests in random order; at least one if the call waits.
            IoUringSqe[] requests = Requests(kernel);
            _random.Shuffle(requests);
            foreach (IoUringSqe request in requests.Take(_random.Next((int)complete, requests.Length + 1)))
                kernel.Complete(request, Do(request));
            return taken;
        }

        private int Do(in IoUringSqe request)
        {
            if (request.Opcode == IoUringAbi.IORING_OP_FSYNC) return 0;
            int result = OnCompletion(Completions++, (int)request.Len);
            if (result <= 0) return result;
            Assert.True((int)request.Off % Granule == 0 && (int)request.Len % Granule == 0,
                $"{request.Len} bytes at {request.Off} are no multiple of {Granule}");
            Span<byte> device = Device.AsSpan((int)request.Off, result);
            Span<byte> memory = Arena[new Slice((int)((nint)request.Addr - Arena.Address), result)];
            if (request.Opcode == IoUringAbi.IORING_OP_READ) device.CopyTo(memory);
            else memory.CopyTo(device);
            return result;
        }
    }

    [Theory]
    [InlineData(Call.Refuses, Errno.EINTR)]
    [InlineData(Call.Refuses, Errno.EAGAIN)]
    [InlineData(Call.Refuses, Errno.EBUSY)]
    [InlineData(Call.TakesOne, 0)]
    [InlineData(Call.CompletesNothing, 0)]
    public void Temporary_fault_of_any_call_does_not_change_the_result(Call kind, int errno)
    {
        foreach (int inARow in new[] { 1, 3 })
        {
            int calls = 1;
            for (int k = 0; k < calls; k++)
            {
                using Machine machine = new(512) { OnCall = n => n >= k && n < k + inARow ? (kind, errno) : null };
                Assert.Null(machine.CopyHalf());
                Assert.True(machine.Halves(), $"seed {Seed}: call {k}: the copy is wrong");
                Assert.Equal(0, machine.Io.InFlight);
                calls = machine.Calls;
            }
            Assert.True(calls > 5, $"only {calls} calls");
        }
    }

    [Theory]
    [InlineData(Errno.EBADF)]
    [InlineData(Errno.EFAULT)]
    [InlineData(Errno.ENXIO)]
    public void Permanent_fault_of_any_call_fails_the_queue_with_its_errno(int errno)
    {
        Machine clean = new(1);
        Assert.Null(clean.CopyHalf());
        int calls = clean.Calls;
        clean.Dispose();
        for (int k = 0; k < calls; k++)
        {
            Machine machine = new(1) { OnCall = n => n >= k ? (Call.Refuses, errno) : null };
            SnapuserdException error = Assert.Throws<SnapuserdException>(() => { machine.CopyHalf(); });
            Assert.Equal(ExitCode.InputOutput, error.Code);
            Assert.Contains(Errno.Name(errno), error.Message, StringComparison.Ordinal);
            Assert.True(machine.Io.Broken && machine.Queue.Leaked);
            // The kernel may still write to the buffers, so they stay mapped. Only the test's own parts are disposed.
            machine.Dispose();
        }
    }

    public static IEnumerable<object[]> Ends =>
        from granule in new[] { 1, 512, 4096 }
        from moved in new[] { 1, 511, 512, 513, 4095, 4096, 4097, -1, -511, -512, -4096 }
        select new object[] { granule, moved };

    [Theory]
    [MemberData(nameof(Ends))]
    public void Any_short_completion_continues_at_a_granule(int granule, int moved)
    {
        int Short(int length) => moved > 0 ? Math.Min(moved, length) : Math.Max(1, length + moved);
        int completions = 1;
        for (int k = 0; k < completions; k++)
        {
            using Machine machine = new(granule) { OnCompletion = (n, length) => n == k ? Short(length) : length };
            Assert.Null(machine.CopyHalf());
            Assert.True(machine.Halves(), $"seed {Seed}: completion {k}: the copy is wrong");
            completions = Math.Min(machine.Completions, 2 * Count);
        }
    }

    [Theory]
    [InlineData(0, Errno.EIO)]
    [InlineData(-Errno.EIO, Errno.EIO)]
    [InlineData(-Errno.ENOSPC, Errno.ENOSPC)]
    [InlineData(-Errno.ENODEV, Errno.ENODEV)]
    [InlineData(-Errno.ECANCELED, Errno.EBADF)]
    public void Any_failed_completion_fails_its_transfer_and_nothing_stays_in_flight(int result, int errno)
    {
        for (int k = 0; k < 2 * Count; k++)
        {
            // After a cancelled request the transfer tries the synchronous call, which here gets a descriptor that is not open.
            using Machine machine = new(1) { OnCompletion = (n, length) => n == k ? result : length };
            TransferFailure failure = Assert.NotNull(machine.CopyHalf());
            Assert.Equal(-errno, failure.Errno);
            Assert.Equal(k < Count ? BlockVerb.Read : BlockVerb.Write, failure.Request.Verb);
            Assert.Equal(0, machine.Io.InFlight);
        }
    }

    [Theory]
    [InlineData(Errno.EINTR)]
    [InlineData(Errno.EAGAIN)]
    public void Any_completion_with_a_temporary_errno_is_repeated(int errno)
    {
        for (int k = 0; k < 2 * Count; k++)
        {
            using Machine machine = new(4096) { OnCompletion = (n, length) => n >= k && n < k + 8 ? -errno : length };
            Assert.Null(machine.CopyHalf());
            Assert.True(machine.Halves(), $"seed {Seed}: completion {k}: the copy is wrong");
        }
    }
}
