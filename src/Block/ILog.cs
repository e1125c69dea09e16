using System;

namespace Snapuserd.Block;

/// <summary>Severity of a record; the values are syslog's (RFC 5424 §6.2.1), which the kernel's log uses.</summary>
public enum Priority
{
    /// <summary>A requested action failed.</summary>
    Error = 3,
    /// <summary>The program continues, but in a degraded state.</summary>
    Warning = 4,
    /// <summary>The beginning or the end of an event that happens once in a boot.</summary>
    Notice = 5,
    /// <summary>Everything else.</summary>
    Information = 6,
}

/// <summary>
/// A number in a log record, with its key. Not a record struct, because no code compares or prints it, and the generated methods would make
/// every ramdisk larger.
/// </summary>
public readonly struct LogValue(string key, double value)
{
    /// <summary>The key, in lower case with underscores; never changes.</summary>
    public string Key { get; } = key;

    /// <summary>The number; integers are exact up to 2^53.</summary>
    public double Value { get; } = value;
}

/// <summary>Accepts records of events. Callable on any thread; never throws, and waits at most for the reader of the log.</summary>
public interface ILog
{
    /// <summary>
    /// Writes one record. <paramref name="name"/> identifies the event, in lower case with underscores, and never changes.
    /// <paramref name="sentence"/> describes it for people, without the program's name and without a full stop. <paramref name="values"/>
    /// are for programs.
    /// </summary>
    void Write(Priority priority, string name, string sentence, params ReadOnlySpan<LogValue> values);
}
