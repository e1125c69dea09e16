namespace Snapuserd.Daemon;

/// <summary>
/// Where the answer to one request goes. It may be given at once or later, whole or in parts, by any thread; the client's next request waits until it has ended, those of other
/// clients do not.
/// </summary>
public sealed class ControlReply
{
    private readonly ControlClient _client;

    internal ControlReply(ControlClient client) => _client = client;

    /// <summary>False once the client is gone, was dropped, or has its answer: nobody reads what is sent.</summary>
    public bool IsWanted => _client.Wants(this);

    /// <summary>The descriptors that came last, which are the caller's from here on; to be asked for before <see cref="IControlRequests.Request"/> returns. What is not taken is closed when others come, or with the connection.</summary>
    public int[] TakeDescriptors() => _client.TakeDescriptors();

    /// <summary>The client is root's or of the own user.</summary>
    public bool IsOwner => _client.IsOwner;

    /// <summary>A part of the answer, with a line feed behind it in line mode. False if nobody wants it, or the client has let too much of it lie; a stream of parts ends then.</summary>
    public bool Send(string part) => _client.Append(this, part, last: false, close: false);

    /// <summary>The last part, or an end without one. With <paramref name="close"/> the connection ends behind it.</summary>
    public void End(string? last = null, bool close = false) => _ = _client.Append(this, last, last: true, close);
}

/// <summary>Understands the requests of one language: Android's messages, or the lines of `ctl`.</summary>
public interface IControlRequests
{
    /// <summary>
    /// One message of Android, or one line without its line feed: of at most 512 bytes, whatever they are (ByteText). Called on the server's thread, one
    /// at a time, so it does not wait for anything: what takes long ends <paramref name="reply"/> later, from another thread.
    /// </summary>
    void Request(string text, ControlReply reply);
}

/// <summary>Something that time alone moves, done on the server's thread.</summary>
public interface IControlTicks
{
    /// <summary>Milliseconds from <paramref name="now"/> until it wants to be called; 0 for at once, negative for not at all. Asked after each turn of the loop, so it costs nothing.</summary>
    int Due(long now);

    /// <summary>It is due. Does not wait for anything.</summary>
    void Tick(long now);
}
