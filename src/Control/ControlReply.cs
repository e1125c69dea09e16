namespace Snapuserd.Control;

/// <summary>
/// The reply to one request. Any thread may send it, at once or later, whole or in parts. The client's next request is handled only after
/// the reply has ended; requests of other clients do not wait for it.
/// </summary>
public sealed class ControlReply
{
    private readonly ControlClient _client;

    internal ControlReply(ControlClient client) => _client = client;

    /// <summary>False once the client is gone, was dropped, or has its whole reply: later parts are discarded.</summary>
    public bool IsWanted => _client.Wants(this);

    /// <summary>
    /// Returns the descriptors received last; the caller owns them from here on. Must be called before
    /// <see cref="IControlRequests.Request"/> returns. Descriptors that are not taken are closed when others arrive, or with the
    /// connection.
    /// </summary>
    public int[] TakeDescriptors() => _client.TakeDescriptors();

    /// <summary>The client is root or the server's own user.</summary>
    public bool IsOwner => _client.IsOwner;

    /// <summary>
    /// Sends a part of the reply, followed by a line feed in line mode. False if the client no longer waits for the reply, or has left too
    /// much of it unread; the caller should then end the reply.
    /// </summary>
    public bool Send(string part) => _client.Append(this, part, last: false, close: false);

    /// <summary>Ends the reply, with an optional last part. With <paramref name="close"/> the connection ends after it.</summary>
    public void End(string? last = null, bool close = false) => _ = _client.Append(this, last, last: true, close);
}

/// <summary>Handles the requests of one protocol: Android's messages, or the lines of `ctl`.</summary>
public interface IControlRequests
{
    /// <summary>
    /// Handles one message of Android, or one line without its line feed: at most 512 bytes of any value (ByteText). Called on the server's
    /// thread, one at a time, so it must not block: a long operation ends <paramref name="reply"/> later, from another thread.
    /// </summary>
    void Request(string text, ControlReply reply);
}

/// <summary>Work that becomes due as time passes; it runs on the server's thread.</summary>
public interface IControlTicks
{
    /// <summary>
    /// Milliseconds from <paramref name="now"/> until the next call of Tick; 0 for at once, negative for never. Called in each loop
    /// iteration, so it must be cheap.
    /// </summary>
    int Due(long now);

    /// <summary>Does the work that is due, without blocking.</summary>
    void Tick(long now);
}
