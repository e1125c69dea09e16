using System;

namespace Snapuserd.Block;

/// <summary>How much a record matters; the values are syslog's (RFC 5424 §6.2.1), as the kernel's log has them.</summary>
public enum Priority
{
    /// <summary>Something that was asked for was not done.</summary>
    Error = 3,
    /// <summary>It goes on, but not as it should.</summary>
    Warning = 4,
    /// <summary>The beginning or the end of something that happens once in a boot.</summary>
    Notice = 5,
    /// <summary>Everything else.</summary>
    Information = 6,
}

/// <summary>A number that belongs to a record. (No record struct: nobody compares or prints it, and the code for that would be in every ramdisk.)</summary>
public readonly struct LogValue(string key, double value)
{
    /// <summary>In small letters with underscores; stays the same for ever.</summary>
    public string Key { get; } = key;

    /// <summary>What it is; integers are exact up to 2^53.</summary>
    public double Value { get; } = value;
}

/// <summary>Takes records of what happens. Any thread; never throws, and never waits for anybody but whoever reads the log.</summary>
public interface ILog
{
    /// <summary>
    /// One record: <paramref name="name"/> says what happened, in small letters with underscores, and stays the same for ever; <paramref name="sentence"/> says it to
    /// people, without the program's name and without a full stop; <paramref name="values"/> are for programs.
    /// </summary>
    void Write(Priority priority, string name, string sentence, params ReadOnlySpan<LogValue> values);
}
