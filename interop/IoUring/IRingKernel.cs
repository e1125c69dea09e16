namespace Snapuserd.Interop;

/// <summary>
/// The kernel's side of a ring: what happens when the process enters it. The real one is a system call; the tests have one that
/// interrupts, accepts only some of the requests, or completes them backwards.
/// </summary>
public interface IRingKernel
{
    /// <summary>
    /// io_uring_enter(2): takes up to <paramref name="submit"/> requests from the submission ring and, with IORING_ENTER_GETEVENTS,
    /// returns when <paramref name="complete"/> completions are there. Returns how many requests it took, or a negative errno.
    /// </summary>
    int Enter(uint submit, uint complete, uint flags);
}
