using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>Distinguishes a lack of descriptors or memory from a real answer: a failed query must not count as a no.</summary>
internal static class Scarcity
{
    /// <summary>Returns <paramref name="result"/>. Exit code 71 if it means that descriptors or memory have run out.</summary>
    internal static int Check(int result, string what) => Errno.IsOutOfResources(result)
        ? throw ErrnoPolicy.Failure(FailedCall.Open, result, $"cannot find out which storage is used ({what})")
        : result;
}
