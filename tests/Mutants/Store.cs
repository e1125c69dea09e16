using System;
using System.Collections.Generic;
using System.IO;
using System.Threading;

namespace Snapuserd.Tests.Mutants;

/// <summary>Verdicts by mutant, one line each, so that an interrupted run can continue.</summary>
public sealed class Store
{
    private readonly string _path;
    private readonly Dictionary<string, Verdict> _verdicts = [];
    private readonly Lock _lock = new();

    /// <summary>Reads the verdicts of an earlier run. Removes a truncated last line, so that the next verdict begins a new line.</summary>
    public Store(string path)
    {
        _path = path;
        if (!File.Exists(path)) return;
        string text = File.ReadAllText(path);
        int end = text.LastIndexOf('\n') + 1;
        foreach (string line in text[..end].Split('\n', StringSplitOptions.RemoveEmptyEntries))
            if (line.Split('\t') is [var id, var outcome, var check, var message] && Enum.TryParse(outcome, out Outcome known))
                _verdicts[id] = new Verdict(known, check, message);
        if (end < text.Length) File.WriteAllText(path, text[..end]);
    }

    public Verdict? Find(string id)
    {
        lock (_lock) return _verdicts.GetValueOrDefault(id);
    }

    public void Keep(string id, Verdict verdict)
    {
        lock (_lock)
        {
            _verdicts[id] = verdict;
            File.AppendAllText(_path,
                $"{id}\t{verdict.Outcome}\t{verdict.Check}\t{verdict.Message.ReplaceLineEndings(" ").Replace('\t', ' ')}\n");
        }
    }
}
