using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>Flags of open(2) whose values depend on the architecture: those of x86-64.</summary>
[OnlyOn(Architecture.X64)]
[LibraryHeader("fcntl.h")]
internal static class OpenFlagsX64
{
    public const int O_DIRECT = 0x4000;
    public const int O_DIRECTORY = 0x10000;
    public const int O_NOFOLLOW = 0x20000;
}

/// <summary>The same flags on arm64, where the values of x86-64 mean other flags: O_DIRECT of x86-64 is O_DIRECTORY of arm64.</summary>
[OnlyOn(Architecture.Arm64)]
[LibraryHeader("fcntl.h")]
internal static class OpenFlagsArm64
{
    public const int O_DIRECT = 0x10000;
    public const int O_DIRECTORY = 0x4000;
    public const int O_NOFOLLOW = 0x8000;
}
