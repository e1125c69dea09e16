namespace Snapuserd.Recovery;

/// <summary>Where the parts of an Android device are, as options say it. Null for a part that has to be found.</summary>
public sealed class DeviceLocations
{
    /// <summary>The block device or file of the partition super.</summary>
    public string? Super { get; init; }
    /// <summary>The folder that is mounted at /metadata, or the partition to mount.</summary>
    public string? Metadata { get; init; }
    /// <summary>The block device or file of the partition userdata.</summary>
    public string? UserData { get; init; }
    /// <summary>The block device or file of the partition misc.</summary>
    public string? Misc { get; init; }
    /// <summary>The folder that has all partitions under their names: links to block devices, or files.</summary>
    public string? ByName { get; init; }
    /// <summary>A file like /proc/cmdline, which is read unless another is named.</summary>
    public string? CommandLine { get; init; }
    /// <summary>A file like /proc/bootconfig, which is read unless another is named.</summary>
    public string? BootConfig { get; init; }
    /// <summary>The suffix of the current slot, for a device that does not tell it.</summary>
    public string? Slot { get; init; }
}
