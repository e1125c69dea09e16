using System;
using System.IO;
using Microsoft.Win32.SafeHandles;
using Snapuserd.Cli;
using Snapuserd.Host;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Cli;

/// <summary>An output of a command with files as its two streams.</summary>
internal sealed class LineFiles : IDisposable
{
    private readonly TempFolder _folder = new();
    private readonly SafeFileHandle _results;
    private readonly SafeFileHandle _diagnostics;

    internal LineFiles()
    {
        _results = File.OpenHandle(_folder["results"], FileMode.CreateNew, FileAccess.Write, FileShare.ReadWrite);
        _diagnostics = File.OpenHandle(_folder["diagnostics"], FileMode.CreateNew, FileAccess.Write, FileShare.ReadWrite);
        Output = new Output(0, (int)_results.DangerousGetHandle(), (int)_diagnostics.DangerousGetHandle());
    }

    internal Output Output { get; }

    /// <summary>The content of standard output so far.</summary>
    internal string Results => Read("results");

    /// <summary>The content of standard error so far.</summary>
    internal string Diagnostics => Read("diagnostics");

    public void Dispose()
    {
        _results.Dispose();
        _diagnostics.Dispose();
        _folder.Dispose();
    }

    private string Read(string name)
    {
        using FileStream file = new(_folder[name], FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
        using StreamReader reader = new(file);
        return reader.ReadToEnd();
    }
}
