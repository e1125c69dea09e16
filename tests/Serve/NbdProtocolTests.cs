using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.Linq;
using System.Text;
using Snapuserd.Serve;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Serve;

/// <summary>Tests the protocol byte by byte with a client written from the specification.</summary>
public sealed class NbdProtocolTests
{
    private const ushort Flags = 1 | 2 | 4 | (1 << 8);
    private const ushort SendDf = 1 << 7;

    [Theory]
    [InlineData(3u, 10)]
    [InlineData(2u, 10)]
    [InlineData(1u, 134)]
    [InlineData(0u, 134)]
    public void Export_name_is_answered_with_size_and_flags(uint clientFlags, int bytes)
    {
        using NbdFixture fixture = new(options: new NbdOptions { ExportName = "system" });
        using NbdClient client = new(fixture.Path);
        Assert.Equal([.. "NBDMAGICIHAVEOPT"u8, 0, 3], client.Take(18));
        client.Send(NbdClient.Big32(clientFlags));
        client.SendOption(1, "system"u8);
        byte[] answer = client.Take(bytes);
        Assert.Equal(fixture.Target.Length, BinaryPrimitives.ReadInt64BigEndian(answer));
        Assert.Equal(Flags, BinaryPrimitives.ReadUInt16BigEndian(answer.AsSpan(8)));
        Assert.All(answer.Skip(10), b => Assert.Equal(0, b));
        fixture.Compare(client, structured: false, seed: 1, reads: 5);
    }

    [Fact]
    public void Every_option_gets_its_reply()
    {
        using NbdFixture fixture = new(options: new NbdOptions { ExportName = "system" });
        using NbdClient client = new(fixture.Path);
        client.Greet();

        client.SendOption(3);
        OptionReply entry = client.TakeOptionReply();
        Assert.Equal((3u, 2u), (entry.Option, entry.Type));
        Assert.Equal([0, 0, 0, 6, .. "system"u8], entry.Data);
        AssertReply(client, 3, 1);

        client.SendOption(3, "x"u8);
        AssertReply(client, 3, 0x80000003);
        // TLS, the withdrawn PEEK, metadata contexts, extended headers, and an undefined option.
        foreach (uint option in (uint[])[4, 5, 9, 10, 11, 4711])
        {
            client.SendOption(option, "some data"u8);
            AssertReply(client, option, 0x80000001);
        }

        client.SendOption(6, NbdClient.Info("system", []));
        Assert.Equal(Flags, AssertInfo(client, 6, fixture.Target.Length));
        client.SendOption(6, NbdClient.Info("", [1, 2, 3, 999]));
        AssertInfo(client, 6, fixture.Target.Length, name: "system");
        client.SendOption(6, NbdClient.Info("other", []));
        AssertReply(client, 6, 0x80000006);
        client.SendOption(7, NbdClient.Info("other", []));
        AssertReply(client, 7, 0x80000006);

        client.SendOption(8, "x"u8);
        AssertReply(client, 8, 0x80000003);
        client.SendOption(8);
        AssertReply(client, 8, 1);
        client.SendOption(7, NbdClient.Info("", [3]));
        Assert.Equal(Flags | SendDf, AssertInfo(client, 7, fixture.Target.Length));
        fixture.Compare(client, structured: true, seed: 1, reads: 5);
    }

    [Fact]
    public void Abort_is_acknowledged_before_the_end()
    {
        using NbdFixture fixture = new();
        using NbdClient client = new(fixture.Path);
        client.Greet();
        client.SendOption(2);
        AssertReply(client, 2, 1);
        Assert.Equal(0, client.Drain());
    }

    public static TheoryData<byte[]> MalformedInfos => new()
    {
        Array.Empty<byte>(),
        new byte[] { 0, 0, 0, 0, 0 },
        // Names whose length exceeds the data.
        new byte[] { 0, 0, 0, 9, (byte)'x', 0, 0 },
        new byte[] { 0xff, 0xff, 0xff, 0xff, 0, 0 },
        // More and fewer infos than the count says.
        new byte[] { 0, 0, 0, 0, 0, 2, 0, 3 },
        new byte[] { 0, 0, 0, 0, 0, 0, 0, 3 },
        new byte[] { 0, 0, 0, 0, 0, 1, 0 },
        // A name of 4097 bytes.
        NbdClient.Info(new string('x', 4097), []),
    };

    [Theory]
    [MemberData(nameof(MalformedInfos))]
    public void Malformed_info_is_invalid_and_the_next_option_is_answered(byte[] data)
    {
        using NbdFixture fixture = new();
        using NbdClient client = new(fixture.Path);
        client.Greet();
        foreach (uint option in (uint[])[6, 7])
        {
            client.SendOption(option, data);
            AssertReply(client, option, 0x80000003);
        }
        client.SendOption(6, NbdClient.Info("", []));
        AssertInfo(client, 6, fixture.Target.Length);
    }

    [Fact]
    public void Option_with_too_much_data_is_refused_and_the_next_one_is_answered()
    {
        using NbdFixture fixture = new();
        using NbdClient client = new(fixture.Path);
        client.Greet();
        client.SendOption(6, new byte[100_000]);
        AssertReply(client, 6, 0x80000009);
        client.SendOption(6, NbdClient.Info("", []));
        AssertInfo(client, 6, fixture.Target.Length);
    }

    public static TheoryData<string, byte[]> Breaches => new()
    {
        { "unknown client flags", NbdClient.Big32(4) },
        { "no option magic", [.. NbdClient.Big32(3), .. new byte[16]] },
        { "a gigabyte of data", [.. NbdClient.Big32(3), .. NbdClient.Option(6, default, 1u << 30)] },
        { "unknown export", [.. NbdClient.Big32(3), .. NbdClient.Option(1, "other"u8)] },
        { "options without end", [.. NbdClient.Big32(3), .. Enumerable.Repeat(NbdClient.Option(4711), 256).SelectMany(o => o)] },
        { "no request magic", [.. NbdClient.Big32(3), .. NbdClient.Option(1), .. NbdClient.Request(0, 1, 0, 4096, magic: 0x12560953)] },
        { "a write of four gigabytes", [.. NbdClient.Big32(3), .. NbdClient.Option(1), .. NbdClient.Request(1, 1, 0, uint.MaxValue)] },
    };

    [Theory]
    [MemberData(nameof(Breaches))]
    public void Protocol_violation_ends_the_connection_and_is_reported(string name, byte[] bytes)
    {
        using NbdFixture fixture = new();
        using (NbdClient client = new(fixture.Path))
        {
            client.Send(bytes);
            client.Drain();
        }
        Assert.True(fixture.Reports.Count == 1, name);
        using NbdClient next = NbdClient.Ready(fixture.Path);
        fixture.Compare(next, structured: false, seed: 1, reads: 3);
        Assert.Null(fixture.Server.Failure);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Reads_of_any_offset_and_length_show_the_target(bool structured)
    {
        using NbdFixture fixture = new();
        using NbdClient client = NbdClient.Ready(fixture.Path, structured);
        Assert.Equal(fixture.Target, client.Read(0, fixture.Target.Length, structured));
        fixture.Compare(client, structured, seed: 7, reads: 60);
    }

    // Type, offset, length, flags and error of a request. The image has at most 8 MiB.
    [Theory]
    [InlineData(0, 0L, 0u, 0, 22)]
    [InlineData(0, 0L, (32u << 20) + 1, 0, 22)]
    [InlineData(0, 0L, uint.MaxValue, 0, 22)]
    [InlineData(0, -1L, 1u, 0, 22)]
    [InlineData(0, long.MaxValue, 4096u, 0, 22)]
    [InlineData(0, 0L, 4096u, 1, 22)]
    [InlineData(0, 0L, 4096u, 2, 22)]
    [InlineData(3, 0L, 0u, 0, 0)]
    [InlineData(3, 0L, 0u, 1, 22)]
    [InlineData(4, 0L, 4096u, 0, 1)]
    [InlineData(5, 0L, 4096u, 0, 22)]
    [InlineData(6, 0L, 4096u, 0, 1)]
    [InlineData(7, 0L, 4096u, 0, 22)]
    [InlineData(8, 0L, 4096u, 0, 22)]
    [InlineData(4711, 0L, 4096u, 0, 22)]
    public void Refused_request_gets_its_error_and_the_connection_continues(int type, long offset, uint length, int flags, uint error)
    {
        using NbdFixture fixture = new();
        foreach (bool structured in (bool[])[false, true])
        {
            using NbdClient client = NbdClient.Ready(fixture.Path, structured);
            client.SendRequest((ushort)type, 0x1122334455667788, (ulong)offset, length, (ushort)flags);
            NbdReply reply = client.TakeReply();
            Assert.Equal((0x1122334455667788ul, error, true), (reply.Cookie, reply.Error, reply.Done));
            Assert.Equal(structured && type == 0, reply.Type != null);
            fixture.Compare(client, structured, seed: 3, reads: 3);
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Read_beyond_the_end_is_invalid_and_the_last_byte_can_be_read(bool structured)
    {
        using NbdFixture fixture = new();
        using NbdClient client = NbdClient.Ready(fixture.Path, structured);
        client.SendRequest(0, 5, (ulong)fixture.Target.Length - 1, 2);
        Assert.Equal(22u, client.TakeReply().Error);
        Assert.Equal([fixture.Target[^1]], client.Read(fixture.Target.Length - 1, 1, structured));
    }

    [Fact]
    public void Write_is_received_completely_and_refused()
    {
        using NbdFixture fixture = new();
        using NbdClient client = NbdClient.Ready(fixture.Path);
        client.SendRequest(1, 5, 0, 100_001);
        client.Send(new byte[100_001]);
        Assert.Equal(1u, client.TakeReply().Error);
        fixture.Compare(client, structured: false, seed: 3, reads: 3);
    }

    [Fact]
    public void Read_that_must_not_be_fragmented_gets_one_chunk_or_an_error()
    {
        using NbdFixture fixture = new();
        using NbdClient client = NbdClient.Ready(fixture.Path, structured: true);
        client.SendRequest(0, 5, 3, 65536, flags: 4);
        NbdReply reply = client.TakeReply();
        Assert.True(reply.Done);
        Assert.True(fixture.Target.AsSpan(3, 65536).SequenceEqual(reply.Payload.AsSpan(8)));
        client.SendRequest(0, 6, 0, 4 << 20, flags: 4);
        reply = client.TakeReply();
        Assert.Equal((75u, true), (reply.Error, reply.Done));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Replies_are_the_same_for_single_bytes_and_one_large_send(bool structured)
    {
        using NbdFixture fixture = new(options: new NbdOptions { ThreadsPerConnection = 1 });
        byte[] session =
        [
            .. NbdClient.Big32(3), .. NbdClient.Option(4711, "abc"u8), .. structured ? NbdClient.Option(8) : [],
            .. NbdClient.Option(7, NbdClient.Info("", [3])),
            .. NbdClient.Request(0, 1, 12345, 6789), .. NbdClient.Request(1, 2, 0, 3), 1, 2, 3, .. NbdClient.Request(3, 3, 0, 0),
            .. NbdClient.Request(0, 4, 1 << 20, 300_000),
            .. NbdClient.Request(2, 5, 0, 0),
        ];
        using NbdClient split = new(fixture.Path);
        foreach (byte b in session) split.Send([b]);
        byte[] first = All(split);
        using NbdClient merged = new(fixture.Path);
        merged.Send(session);
        Assert.Equal(first, All(merged));
        Assert.True(first.Length > 300_000, $"{first.Length} bytes");
        Assert.True(first.AsSpan().IndexOf(fixture.Target.AsSpan(12345, 6789)) > 0, "the first read is missing");
    }

    [Fact]
    public void Concurrent_requests_are_each_answered_once()
    {
        using NbdFixture fixture = new();
        using NbdClient client = NbdClient.Ready(fixture.Path, structured: true);
        Random random = new(11);
        Dictionary<ulong, (int Offset, int Length)> open = [];
        List<byte> bytes = [];
        for (ulong cookie = 1; cookie <= 200; cookie++)
        {
            int length = random.Next(1, 40_000), offset = random.Next(fixture.Target.Length - length);
            open.Add(cookie, (offset, length));
            bytes.AddRange(NbdClient.Request(0, cookie, (ulong)offset, (uint)length));
        }
        client.Send(bytes.ToArray());
        while (open.Count > 0)
        {
            NbdReply reply = client.TakeReply();
            Assert.True(open.Remove(reply.Cookie, out (int Offset, int Length) range), $"{reply.Cookie} was answered twice");
            Assert.True(reply.Done && fixture.Target.AsSpan(range.Offset, range.Length).SequenceEqual(reply.Payload.AsSpan(8)), $"{range}");
        }
    }

    [Fact]
    public void Read_error_in_a_structured_reply_has_its_offset()
    {
        using NbdFixture fixture = new();
        (long bad, int length) = fixture.Damage();
        using NbdClient client = NbdClient.Ready(fixture.Path, structured: true);
        client.SendRequest(0, 9, 0, (uint)fixture.Target.Length);
        long data = 0;
        NbdReply chunk;
        while ((chunk = client.TakeReply()).Type == 1)
        {
            Assert.False(chunk.Done);
            long at = BinaryPrimitives.ReadInt64BigEndian(chunk.Payload);
            Assert.True(fixture.Target.AsSpan((int)at, chunk.Payload.Length - 8).SequenceEqual(chunk.Payload.AsSpan(8)), $"{at}");
            data += chunk.Payload.Length - 8;
        }
        Assert.Equal(((ushort?)0x8002, 5u, true), (chunk.Type, chunk.Error, chunk.Done));
        Assert.Equal(data, BinaryPrimitives.ReadInt64BigEndian(chunk.Payload.AsSpan(6)));
        Assert.InRange(bad, data - length, data + (256 << 10));

        Assert.True(fixture.Target.AsSpan(0, 4096).SequenceEqual(client.Read(0, 4096, structured: true)),
            "the connection does not work any more");
        Assert.Null(fixture.Server.Failure);
    }

    [Fact]
    public void Read_error_in_a_simple_reply_is_reported_before_any_data_and_later_ends_the_connection()
    {
        using NbdFixture fixture = new();
        (long bad, _) = fixture.Damage();
        using NbdClient client = NbdClient.Ready(fixture.Path);
        client.SendRequest(0, 9, (ulong)bad, 4096);
        NbdReply reply = client.TakeReply(4096);
        Assert.Equal((9ul, 5u), (reply.Cookie, reply.Error));
        Assert.True(fixture.Target.AsSpan(0, 4096).SequenceEqual(client.Read(0, 4096, structured: false)),
            "the connection does not work any more");

        client.SendRequest(0, 10, 0, (uint)fixture.Target.Length);
        Assert.Equal(0u, client.TakeReply().Error);
        Assert.InRange(client.Drain(), 1, fixture.Target.Length - 1);
        Assert.Contains("in the middle of an answer", Assert.Single(fixture.Reports), StringComparison.Ordinal);
        using NbdClient next = NbdClient.Ready(fixture.Path);
        Assert.True(fixture.Target.AsSpan(0, 4096).SequenceEqual(next.Read(0, 4096, structured: false)),
            "the server does not work any more");
        Assert.Null(fixture.Server.Failure);
    }

    [Fact]
    public void Request_that_ended_a_connection_gets_an_error_when_it_is_repeated()
    {
        // The kernel repeats a request like this over the next connection until it gets a reply.
        using NbdFixture fixture = new();
        (long bad, int length) = fixture.Damage();
        using (NbdClient first = NbdClient.Ready(fixture.Path))
        {
            first.SendRequest(0, 10, 0, (uint)fixture.Target.Length);
            Assert.Equal(0u, first.TakeReply().Error);
            first.Drain();
        }
        using NbdClient client = NbdClient.Ready(fixture.Path);
        client.SendRequest(0, 11, 0, (uint)fixture.Target.Length);
        NbdReply reply = client.TakeReply();
        Assert.Equal((11ul, 5u), (reply.Cookie, reply.Error));
        // The connection continues, and long replies without the bad unit are complete.
        Assert.True(fixture.Target.AsSpan(0, (int)bad).SequenceEqual(client.Read(0, (int)bad, structured: false)),
            "readable data is missing");
        int after = (int)bad + length;
        Assert.True(fixture.Target.AsSpan(after).SequenceEqual(client.Read(after, fixture.Target.Length - after, structured: false)),
            "readable data is missing");
        Assert.Single(fixture.Reports);
    }

    private static byte[] All(NbdClient client)
    {
        List<byte> all = [];
        try
        {
            while (true) all.AddRange(client.Take(1));
        }
        catch (InvalidOperationException)
        {
            return all.ToArray();
        }
    }

    private static void AssertReply(NbdClient client, uint option, uint type)
    {
        OptionReply reply = client.TakeOptionReply();
        Assert.Equal((option, type, 0), (reply.Option, reply.Type, reply.Data.Length));
    }

    private static int AssertInfo(NbdClient client, uint option, long size, string? name = null)
    {
        OptionReply info = client.TakeOptionReply();
        Assert.Equal((option, 3u, 12), (info.Option, info.Type, info.Data.Length));
        Assert.Equal(0, BinaryPrimitives.ReadUInt16BigEndian(info.Data));
        Assert.Equal(size, BinaryPrimitives.ReadInt64BigEndian(info.Data.AsSpan(2)));
        OptionReply sizes = client.TakeOptionReply();
        Assert.Equal(3u, sizes.Type);
        Assert.Equal([0, 3, 0, 0, 0, 1, 0, 0, 16, 0, 2, 0, 0, 0], sizes.Data);
        if (name != null)
        {
            OptionReply named = client.TakeOptionReply();
            Assert.Equal(3u, named.Type);
            Assert.Equal([0, 1, .. Encoding.ASCII.GetBytes(name)], named.Data);
        }
        AssertReply(client, option, 1);
        return BinaryPrimitives.ReadUInt16BigEndian(info.Data.AsSpan(10));
    }
}
