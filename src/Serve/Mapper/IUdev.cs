namespace Snapuserd.Serve;

/// <summary>
/// udev and System V semaphores for <see cref="UdevCookie"/>. Tests use a fake. Calls return a negative errno when they fail.
/// </summary>
internal interface IUdev
{
    /// <summary>True if a udev daemon listens to the kernel's events.</summary>
    bool Runs { get; }

    /// <summary>True if udev has unprocessed events.</summary>
    bool IsBusy { get; }

    /// <summary>A number that changes each time udev writes its database entry of a block device; 0 without an entry.</summary>
    ulong EntryOf(uint major, uint minor);

    /// <summary>A monotonic clock.</summary>
    long Milliseconds { get; }

    /// <summary>A random number for a cookie.</summary>
    uint Random { get; }

    /// <summary>
    /// Creates a set of <paramref name="count"/> semaphores; -EEXIST when there is one with this key. Returns its identifier.
    /// </summary>
    int CreateSemaphores(int key, int count);

    /// <summary>Sets the value of one semaphore.</summary>
    int SetSemaphore(int id, int number, int value);

    /// <summary>The value of one semaphore.</summary>
    int ValueOf(int id, int number);

    /// <summary>Waits until the first semaphore is 0. Returns 0, -EAGAIN after a timeout, -EIDRM when the set is removed.</summary>
    int AwaitZero(int id, int milliseconds);

    /// <summary>Removes the set.</summary>
    int RemoveSemaphores(int id);

    /// <summary>The highest index of any set.</summary>
    int HighestIndex();

    /// <summary>The set at that index: returns its identifier, and its key.</summary>
    int SetAtIndex(int index, out int key);

    /// <summary>True if the process that last set semaphore <paramref name="number"/> has ended.</summary>
    bool IsOrphan(int id, int number);

    /// <summary>
    /// Places udev's rules for our devices where udev reads them, unless they exist. A failure is not reported: the devices work without
    /// the rules.
    /// </summary>
    void PlaceRules();
}
