namespace Snapuserd.Block;

/// <summary>
/// CPU work that runs beside the I/O: decompression mostly. Jobs end in any order; the order is the implementation's, so that the
/// simulator can choose it. Posting and reaping happen on the thread that owns the block queue; a job that ends signals its wake-up.
/// </summary>
public interface IWorkQueue<TJob> : System.IDisposable where TJob : struct
{
    /// <summary>How many jobs may be posted and not reaped.</summary>
    int Capacity { get; }

    /// <summary>Posts a job; false when <see cref="Capacity"/> jobs are under way.</summary>
    bool TryPost(in TJob job, uint tag);

    /// <summary>Takes the end of one job, if one has ended: the tag it was posted with and what it returned (0, or a negative number).</summary>
    bool TryReap(out uint tag, out int result);

    /// <summary>Blocks until <see cref="TryReap"/> would succeed. Only while a job is under way.</summary>
    void WaitForEnd();
}

/// <summary>What does the jobs of one worker thread; each worker has its own, so it may keep contexts and scratch memory.</summary>
public interface IWorker<TJob> : System.IDisposable where TJob : struct
{
    /// <summary>Does one job. Returns 0, or a negative number of the job's own meaning.</summary>
    int Do(in TJob job);
}
