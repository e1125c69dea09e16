namespace Snapuserd.Interop;

/// <summary>Permissions of the files and folders that this program creates, before the umask.</summary>
public static class Modes
{
    /// <summary>0600: for its owner only.</summary>
    public const uint PrivateFile = 0x180;
    /// <summary>0700: for its owner only.</summary>
    public const uint PrivateFolder = 0x1c0;
    /// <summary>0644: others may read it.</summary>
    public const uint ReadableFile = 0x1a4;
    /// <summary>0755: others may list and enter it.</summary>
    public const uint ReadableFolder = 0x1ed;
}
