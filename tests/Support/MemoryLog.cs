using System;
using System.Collections.Generic;
using System.Linq;
using System.Threading;
using Snapuserd.Block;

namespace Snapuserd.Tests.Support;

/// <summary>A log that a test reads.</summary>
internal sealed class MemoryLog : ILog
{
    private readonly Lock _gate = new();
    private readonly List<(string Name, string Sentence)> _records = [];

    /// <summary>The name of each record's event and its sentence, in order.</summary>
    internal (string Name, string Sentence)[] Records
    {
        get
        {
            lock (_gate) return [.. _records];
        }
    }

    /// <summary>All sentences, each with a line feed after it.</summary>
    internal string Sentences => string.Concat(Records.Select(record => record.Sentence + "\n"));

    public void Write(Priority priority, string name, string sentence, params ReadOnlySpan<LogValue> values)
    {
        lock (_gate) _records.Add((name, sentence));
    }
}
