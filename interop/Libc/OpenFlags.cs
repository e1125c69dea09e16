using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>Flags of open(2) whose values depend on the architecture: x86-64's.</summary>
[OnlyOn(Architecture.X64)]
[LibraryHeader("fcntl.h")]
internal static class OpenFlagsX64
{
    public const int O_DIRECT = 0x4000;
    public const int O_DIRECTORY = 0x10000;
    public const int O_NOFOLLOW = 0x20000;
}

/// <summary>The same flags on arm64. There x86-64's values are valid but mean something else: its O_DIRECT is O_DIRECTORY.</summary>
[OnlyOn(Architecture.Arm64)]
[LibraryHeader("fcntl.h")]
internal static class OpenFlagsArm64
{
    public const int O_DIRECT = 0x10000;
    public const int O_DIRECTORY = 0x4000;
    public const int O_NOFOLLOW = 0x8000;
}
