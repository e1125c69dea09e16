using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Serve;
using Xunit;

namespace Snapuserd.Tests.Serve;

/// <summary>Tests replies whose data cannot be read, and replies to refused requests.</summary>
public sealed class NbdAnswerTests
{
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Reply_with_a_read_error_stays_in_the_reading_state_until_the_session_is_locked(bool structured)
    {
        using NbdFixture test = new();
        (long offset, int length) = test.Damage();
        using WakeUp wakeUp = new();
        NbdExport export = new(test.View.View, test.View.Devices, new NbdOptions(), 1, wakeUp);
        using Arena arena = new(8 << 20);
        Slice buffer = arena.Take(export.BufferBytes)!.Value;
        using NbdWorker worker = new(test.View.View, test.View.Devices, arena);
        NbdAnswer answer = new();
        answer.Begin(export, new NbdRequest(0, NbdWire.NBD_CMD_READ, 1, (ulong)offset, (uint)length), structured);
        Assert.Equal(NbdAnswerState.NeedsData, answer.State);
        // A session does this under its lock, and then reads without the lock.
        answer.State = NbdAnswerState.Reading;
        Assert.Null(answer.Read(export, worker.Reader, buffer, structured, export.BufferBytes));
        Assert.True(answer.IsLast);
        Assert.Equal(0, answer.Piece);
        // In any other state a second worker could send the reply, and this worker would send and count it again.
        Assert.Equal(NbdAnswerState.Reading, answer.State);
    }

    [Fact]
    public void Reply_to_a_refused_request_is_ready_at_once()
    {
        using NbdFixture test = new();
        using WakeUp wakeUp = new();
        NbdExport export = new(test.View.View, test.View.Devices, new NbdOptions(), 1, wakeUp);
        NbdAnswer answer = new();
        answer.Begin(export, new NbdRequest(0, NbdWire.NBD_CMD_READ, 1, (ulong)test.Target.Length, 4096), structured: false);
        Assert.Equal(NbdAnswerState.Ready, answer.State);
    }
}
