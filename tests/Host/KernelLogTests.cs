using System;
using System.Collections.Generic;
using System.Linq;
using System.Text;
using Snapuserd.Block;
using Snapuserd.Host;
using Snapuserd.Interop;
using Xunit;

namespace Snapuserd.Tests.Host;

/// <summary>Records in the kernel's log, which a datagram socket replaces here.</summary>
public sealed class KernelLogTests : IDisposable
{
    private readonly Clock _clock = new();
    private readonly int _ours;
    private readonly int _theirs;
    private readonly KernelLog _log;

    public KernelLogTests()
    {
        Assert.Equal(0, Libc.SocketPair(Libc.AF_UNIX, Libc.SOCK_DGRAM | Libc.SOCK_CLOEXEC, out _ours, out _theirs));
        _log = new KernelLog(_ours, _clock, 17);
    }

    public void Dispose()
    {
        _ = Libc.Close(_ours);
        _ = Libc.Close(_theirs);
    }

    [Fact]
    public void A_record_is_one_write_with_its_priority_and_the_process_id()
    {
        foreach (Priority priority in Enum.GetValues<Priority>()) Assert.Equal(0, _log.Write(priority, $"is {priority}"));
        Assert.Equal(["<3>snapuserd[17]: is Error", "<4>snapuserd[17]: is Warning", "<5>snapuserd[17]: is Notice",
            "<6>snapuserd[17]: is Information"], Taken());
    }

    [Fact]
    public void A_record_is_one_line_whatever_a_path_in_it_contains()
    {
        Assert.Equal(0, _log.Write(Priority.Error, "a\nb\r\nc\u001b[2Jd\u2028e\u0085f\0g\udc9b\u202e\u00e4"));
        Assert.Equal(@"<3>snapuserd[17]: a\x0ab\x0d\x0ac\x1b[2Jd\xe2\x80\xa8e\xc2\x85f\x00g\x9b\xe2\x80\xae" + "\u00e4",
            Assert.Single(Taken()));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public void A_long_sentence_is_split_into_records_without_splitting_a_character(int bytesPerCharacter)
    {
        string character = bytesPerCharacter switch { 1 => "x", 2 => "ä", 3 => "€", _ => "𝄞" };
        string sentence = string.Concat(Enumerable.Repeat(character, 5000 / bytesPerCharacter)) + ": Permission denied";
        Assert.Equal(0, _log.Write(Priority.Error, sentence));
        List<string> records = Taken();
        Assert.Equal(6, records.Count);
        Assert.All(records, record => Assert.InRange(Encoding.UTF8.GetByteCount(record), 1, KernelLog.MostBytes));
        Assert.All(records, record => Assert.StartsWith("<3>snapuserd[17]: ", record));
        Assert.Equal(sentence, string.Concat(records.Select(record => record["<3>snapuserd[17]: ".Length..])));
    }

    [Fact]
    public void The_kernel_never_gets_more_records_than_it_accepts_and_the_next_one_counts_the_missing_ones()
    {
        List<long> sent = [];
        long seed = 1;
        for (int i = 0; i < 2000; i++)
        {
            seed = ((seed * 1103515245) + 12345) & 0x7fffffff;
            _clock.Milliseconds += seed % 700;
            Assert.Equal(0, _log.Write((Priority)(3 + (seed / 1000 % 4)), "said"));
            foreach (string _ in Taken()) sent.Add(_clock.Milliseconds);
        }
        Assert.InRange(sent.Count, 1000, 1999);
        // The limit of ___ratelimit in the kernel: ten within any five seconds.
        for (int i = 10; i < sent.Count; i++) Assert.True(sent[i] - sent[i - 10] > 5000, $"record {i}");

        _clock.Milliseconds += 60_000;
        Taken();
        for (int i = 0; i < 30; i++) Assert.Equal(0, _log.Write(Priority.Information, "said"));
        Assert.Equal(8, Taken().Count);
        // Important records have two reserved slots.
        Assert.Equal(0, _log.Write(Priority.Notice, "done"));
        Assert.Equal("<5>snapuserd[17]: done (22 records left out before this one)", Assert.Single(Taken()));
        Assert.Equal(0, _log.Write(Priority.Error, "failed"));
        Assert.Equal("<3>snapuserd[17]: failed", Assert.Single(Taken()));
        Assert.Equal(0, _log.Write(Priority.Error, "failed"));
        Assert.Empty(Taken());
    }

    [Fact]
    public void An_error_of_the_log_is_returned()
    {
        KernelLog log = new(-1, _clock, 1);
        Assert.Equal(-Errno.EBADF, log.Write(Priority.Error, "said"));
    }

    private List<string> Taken()
    {
        List<string> taken = [];
        byte[] bytes = new byte[4096];
        while (Libc.Recv(_theirs, bytes, Libc.MSG_DONTWAIT) is > 0 and nint length)
        {
            // The kernel keeps a record without a line feed until the next one comes.
            Assert.Equal((byte)'\n', bytes[length - 1]);
            taken.Add(new UTF8Encoding(false, true).GetString(bytes, 0, (int)length - 1));
        }
        return taken;
    }

    private sealed class Clock : ITimeSource
    {
        public long Milliseconds { get; set; } = 1000;
    }
}
