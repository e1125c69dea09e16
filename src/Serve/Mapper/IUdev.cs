namespace Snapuserd.Serve;

/// <summary>
/// udev and System V semaphores for <see cref="UdevCookie"/>. Tests use a fake. Calls return a negative errno when they fail.
/// </summary>
internal interface IUdev
{
    /// <summary>True if a udev daemon is running.</summary>
    bool Runs { get; }

    /// <summary>True if udev has unprocessed events.</summary>
    bool IsBusy { get; }

    /// <summary>A number that changes whenever udev writes its database entry for a block device; 0 if there is no entry.</summary>
    ulong EntryOf(uint major, uint minor);

    /// <summary>A monotonic clock.</summary>
    long Milliseconds { get; }

    /// <summary>A random number for a cookie.</summary>
    uint Random { get; }

    /// <summary>
    /// Creates a set of <paramref name="count"/> semaphores; -EEXIST if a set with this key exists. Returns the set's identifier.
    /// </summary>
    int CreateSemaphores(int key, int count);

    /// <summary>Sets the value of one semaphore.</summary>
    int SetSemaphore(int id, int number, int value);

    /// <summary>The value of one semaphore.</summary>
    int ValueOf(int id, int number);

    /// <summary>Waits until the first semaphore is 0. Returns 0, -EAGAIN after the timeout, or -EIDRM if the set is removed.</summary>
    int AwaitZero(int id, int milliseconds);

    /// <summary>Removes the set.</summary>
    int RemoveSemaphores(int id);

    /// <summary>The highest index of all sets in the system.</summary>
    int HighestIndex();

    /// <summary>Returns the identifier of the set at that index, and its key.</summary>
    int SetAtIndex(int index, out int key);

    /// <summary>True if the process that last set semaphore <paramref name="number"/> has ended.</summary>
    bool IsOrphan(int id, int number);

    /// <summary>
    /// Places the udev rules for our devices in a folder where udev reads them, unless they exist. Failures are ignored, because the
    /// devices work without the rules.
    /// </summary>
    void PlaceRules();
}
