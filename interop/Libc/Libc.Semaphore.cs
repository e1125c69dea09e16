using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>One operation of semtimedop(2).</summary>
[CType("struct sembuf", FieldPrefix = "sem_")]
[LibraryHeader("sys/sem.h")]
[StructLayout(LayoutKind.Sequential)]
public struct SemBuf
{
    /// <summary>Index of the semaphore in the set.</summary>
    public ushort Num;
    /// <summary>Added to the value; 0 waits until the value is 0.</summary>
    public short Op;
    public short Flg;
}

/// <summary>The limits and counts of semctl(2) with SEM_INFO.</summary>
[CType("struct seminfo")]
[LibraryHeader("sys/sem.h")]
[StructLayout(LayoutKind.Sequential)]
public struct SemInfo
{
    [CName("semmap")]
    public int Map;
    [CName("semmni")]
    public int Mni;
    [CName("semmns")]
    public int Mns;
    [CName("semmnu")]
    public int Mnu;
    [CName("semmsl")]
    public int Msl;
    [CName("semopm")]
    public int Opm;
    [CName("semume")]
    public int Ume;
    [CName("semusz")]
    public int Usz;
    [CName("semvmx")]
    public int Vmx;
    [CName("semaem")]
    public int Aem;
}

[LibraryHeader("sys/ipc.h")]
[LibraryHeader("sys/sem.h")]
public static unsafe partial class Libc
{
    public const int IPC_CREAT = 0x200;
    public const int IPC_EXCL = 0x400;
    public const int IPC_RMID = 0;
    /// <summary>Returns the PID of the process that last changed a semaphore or waited for it.</summary>
    public const int GETPID = 11;
    public const int GETVAL = 12;
    public const int SETVAL = 16;
    /// <summary>Takes the index of a set instead of its identifier; Linux only.</summary>
    public const int SEM_STAT = 18;
    /// <summary>Returns the highest index in use; Linux only.</summary>
    public const int SEM_INFO = 19;

    /// <summary>
    /// Bytes for struct semid_ds, which differs between architectures (104 and 88 bytes); it begins with the key everywhere.
    /// </summary>
    private const int SemStatusBytes = 128;

    /// <summary>semget(2). Returns the identifier of a set of System V semaphores, or a negative errno.</summary>
    public static int SemGet(int key, int count, int flags)
    {
        int result = semget(key, count, flags);
        return result < 0 ? -Marshal.GetLastPInvokeError() : result;
    }

    /// <summary>
    /// semctl(2) for the commands whose last argument is an int or absent. Returns the command's value or a negative errno.
    /// </summary>
    public static int SemControl(int id, int number, int command, int value)
    {
        int result = semctl(id, number, command, value);
        return result < 0 ? -Marshal.GetLastPInvokeError() : result;
    }

    /// <summary>semctl(2) with SEM_INFO. Returns the highest index in use or a negative errno.</summary>
    public static int SemHighestIndex()
    {
        SemInfo info = default;
        int result = semctl(0, 0, SEM_INFO, (nint)(&info));
        return result < 0 ? -Marshal.GetLastPInvokeError() : result;
    }

    /// <summary>
    /// semctl(2) with SEM_STAT. Returns the identifier of the set with that index, or a negative errno: -EINVAL for an unused index.
    /// </summary>
    public static int SemAtIndex(int index, out int key)
    {
        byte* status = stackalloc byte[SemStatusBytes];
        int result = semctl(index, 0, SEM_STAT, (nint)status);
        key = result < 0 ? 0 : *(int*)status;
        return result < 0 ? -Marshal.GetLastPInvokeError() : result;
    }

    /// <summary>
    /// semtimedop(2) of one operation. Returns 0 or a negative errno: -EAGAIN after the timeout, -EIDRM when the set is removed during
    /// the wait.
    /// </summary>
    public static int SemTimedOp(int id, SemBuf operation, int milliseconds)
    {
        TimeSpec limit = new() { Sec = milliseconds / 1000, Nsec = milliseconds % 1000 * 1_000_000L };
        return semtimedop(id, &operation, 1, &limit) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int semget(int key, int nsems, int semflg);

    // semctl(2) is variadic; on x86-64 and arm64 Linux it uses the same registers as a non-variadic call.
    [DllImport("libc", SetLastError = true)]
    private static extern int semctl(int semid, int semnum, int cmd, nint argument);

    [DllImport("libc", SetLastError = true)]
    private static extern int semtimedop(int semid, SemBuf* sops, nuint nsops, TimeSpec* timeout);
}
