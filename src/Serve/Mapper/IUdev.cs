namespace Snapuserd.Serve;

/// <summary>udev and System V semaphores as <see cref="UdevCookie"/> uses them. The tests have a fake. Calls return a negative errno when they fail.</summary>
internal interface IUdev
{
    /// <summary>A udev listens to the kernel's events.</summary>
    bool Runs { get; }

    /// <summary>udev has events to process.</summary>
    bool IsBusy { get; }

    /// <summary>A number that is another one each time udev writes its database entry of a block device; 0 without an entry.</summary>
    ulong EntryOf(uint major, uint minor);

    /// <summary>A clock that only goes forward.</summary>
    long Milliseconds { get; }

    /// <summary>Any number; cookies differ by it.</summary>
    uint Random { get; }

    /// <summary>Creates a set of <paramref name="count"/> semaphores; -EEXIST when there is one with this key. Returns its identifier.</summary>
    int CreateSemaphores(int key, int count);

    /// <summary>Sets the value of one.</summary>
    int SetSemaphore(int id, int number, int value);

    /// <summary>The value of one.</summary>
    int ValueOf(int id, int number);

    /// <summary>Waits until the first is 0: 0, -EAGAIN when the time is over, -EIDRM when the set is removed.</summary>
    int AwaitZero(int id, int milliseconds);

    /// <summary>Removes the set.</summary>
    int RemoveSemaphores(int id);

    /// <summary>The highest index of a set.</summary>
    int HighestIndex();

    /// <summary>The set with that index: its identifier and key.</summary>
    int SetAtIndex(int index, out int key);

    /// <summary>The process that set the semaphore <paramref name="number"/> last has ended.</summary>
    bool IsOrphan(int id, int number);

    /// <summary>Places udev's rules for our devices where udev reads them, unless they are there. A failure is not reported: the devices work without.</summary>
    void PlaceRules();
}
