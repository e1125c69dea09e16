using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>Distinguishes a lack of descriptors or memory from a real answer: a failed query must not count as a no.</summary>
internal static class Scarcity
{
    /// <summary>Returns <paramref name="result"/>. Exit code 71 if it means that descriptors or memory have run out.</summary>
    internal static int Check(int result, string what) => result is -Errno.EMFILE or -Errno.ENFILE or -Errno.ENOMEM
        ? throw new SnapuserdException(ExitCode.OutOfResources, $"cannot find out which storage is used ({what}): {Reason.Of(result)}")
        : result;
}
