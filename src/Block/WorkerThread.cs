using System;
using System.Threading;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>Stack sizes of threads. A stack costs address space; only the pages that a thread has used cost memory.</summary>
public enum StackSize
{
    /// <summary>For a thread that only waits and signals.</summary>
    Small = 128 << 10,
    /// <summary>For a thread that serves or decodes: the codecs need tens of KiB, an exception's stack trace some more.</summary>
    Usual = 512 << 10,
    /// <summary>For a thread that runs a merge.</summary>
    Merge = 1 << 20,
}

/// <summary>Starts every thread of this program: a background thread with a name and a stack of a known size.</summary>
public static class WorkerThread
{
    /// <summary>
    /// Starts a thread. Exit code 71, with <paramref name="remedy"/> at the end of its message, if the system has no thread left.
    /// </summary>
    public static Thread Start(string name, StackSize stack, ThreadStart body, string remedy = "") =>
        TryStart(name, stack, body) ?? throw CannotStart(name, remedy);

    /// <summary>Starts a thread; null if the system has no thread or no memory left.</summary>
    public static Thread? TryStart(string name, StackSize stack, ThreadStart body)
    {
        Thread thread = new(body, (int)stack) { IsBackground = true, Name = name };
        try
        {
            thread.Start();
            return thread;
        }
        catch (Exception e) when (e is OutOfMemoryException or ThreadStartException)
        {
            return null;
        }
    }

    /// <summary>The error for a thread that <see cref="TryStart"/> could not start: exit code 71.</summary>
    public static SnapuserdException CannotStart(string name, string remedy = "") =>
        new(ExitCode.OutOfResources, $"cannot start thread {name}: {ErrnoText.Of(Errno.EAGAIN)}{(remedy.Length > 0 ? "; " : "")}{remedy}");
}
