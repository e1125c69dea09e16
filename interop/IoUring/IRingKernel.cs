namespace Snapuserd.Interop;

/// <summary>
/// The kernel's side of a ring, called when the process enters it. The real one is a system call. The tests have one that interrupts,
/// accepts only some of the requests, or completes them in reverse order.
/// </summary>
public interface IRingKernel
{
    /// <summary>
    /// io_uring_enter(2): takes up to <paramref name="submit"/> requests from the submission ring. With IORING_ENTER_GETEVENTS, it
    /// returns when <paramref name="complete"/> completions are in the ring. Returns how many requests it took, or a negative errno.
    /// </summary>
    int Enter(uint submit, uint complete, uint flags);
}
