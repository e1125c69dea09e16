using System;
using System.Collections.Generic;
using System.Threading;
using Snapuserd.Control;

namespace Snapuserd.Tests.Support;

/// <summary>
/// A request handler with scripted answers. "echo …" is answered at once, "hold …" when the test says so, "close" ends the connection,
/// "many N" sends N lines, "throw" simulates a defect.
/// </summary>
internal sealed class Script : IControlRequests
{
    private readonly object _gate = new();
    private readonly List<(string Text, ControlReply Reply)> _held = [];
    private readonly List<string> _seen = [];

    /// <summary>All requests in order of arrival.</summary>
    internal string[] Seen
    {
        get
        {
            lock (_gate) return [.. _seen];
        }
    }

    public void Request(string text, ControlReply reply)
    {
        lock (_gate)
        {
            _seen.Add(text);
            Monitor.PulseAll(_gate);
            if (text.StartsWith("hold", StringComparison.Ordinal))
            {
                _held.Add((text, reply));
                return;
            }
        }
        if (text == "throw") throw new InvalidOperationException("as the test asked for");
        if (text == "close") reply.End("closed", close: true);
        else if (text == "nothing") reply.End();
        else if (text.StartsWith("many ", StringComparison.Ordinal))
        {
            for (int left = int.Parse(text[5..]); left > 0 && reply.Send(new string('x', 1000)); left--) { }
            reply.End("done");
        }
        else reply.End($"got {text}");
    }

    /// <summary>Waits for the held request and returns its reply object.</summary>
    internal ControlReply Held(string text)
    {
        lock (_gate)
        {
            while (true)
            {
                int place = _held.FindIndex(one => one.Text == text);
                if (place >= 0)
                {
                    ControlReply reply = _held[place].Reply;
                    _held.RemoveAt(place);
                    return reply;
                }
                if (!Monitor.Wait(_gate, 60_000)) throw new TimeoutException($"'{text}' did not come");
            }
        }
    }

    /// <summary>Waits until <paramref name="count"/> requests have arrived.</summary>
    internal void WaitFor(int count)
    {
        lock (_gate)
        {
            while (_seen.Count < count)
                if (!Monitor.Wait(_gate, 60_000)) throw new TimeoutException($"{_seen.Count} of {count} requests came");
        }
    }
}
