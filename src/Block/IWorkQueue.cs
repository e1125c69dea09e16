namespace Snapuserd.Block;

/// <summary>
/// CPU work that runs in parallel with I/O: mostly decompression. Jobs end in any order; the implementation determines it, so the
/// simulator can choose it. Posting and reaping happen on the thread that owns the block queue; a job that ends signals its wake-up.
/// </summary>
public interface IWorkQueue<TJob> : System.IDisposable where TJob : struct
{
    /// <summary>The largest number of jobs that may be posted and not yet reaped.</summary>
    int Capacity { get; }

    /// <summary>Posts a job; false when <see cref="Capacity"/> jobs are under way.</summary>
    bool TryPost(in TJob job, uint tag);

    /// <summary>Reaps one ended job, if there is one: the tag it was posted with and its result (0, or a negative number).</summary>
    bool TryReap(out uint tag, out int result);

    /// <summary>Blocks until <see cref="TryReap"/> would succeed. May be called only while a job is under way.</summary>
    void WaitForEnd();
}

/// <summary>
/// Executes the jobs of one worker thread; each thread has its own worker, so a worker may keep contexts and scratch memory.
/// </summary>
public interface IWorker<TJob> : System.IDisposable where TJob : struct
{
    /// <summary>Executes one job. Returns 0, or a negative number of the job's own meaning.</summary>
    int Do(in TJob job);
}
