using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>Reports a lack of descriptors or memory as an error, so that a failed query does not count as a negative result.</summary>
internal static class Scarcity
{
    /// <summary>Returns <paramref name="result"/>. Exit code 71 if it means that descriptors or memory have run out.</summary>
    internal static int Check(int result, string what) => Errno.IsOutOfResources(result)
        ? throw ErrnoPolicy.Failure(FailedCall.Open, result, $"cannot find out which storage is used ({what})")
        : result;
}
