using System;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>Exit codes of the process; the values follow sysexits(3) where it has one (design §7).</summary>
public enum ExitCode
{
    /// <summary>Done, or already merged.</summary>
    Done = 0,
    /// <summary>The command line is invalid.</summary>
    Usage = 64,
    /// <summary>The COW is corrupt or does not fit base or source.</summary>
    CowCorrupt = 65,
    /// <summary>An input does not exist.</summary>
    InputMissing = 66,
    /// <summary>The kernel lacks a required feature.</summary>
    Unavailable = 69,
    /// <summary>A bug in this program.</summary>
    Internal = 70,
    /// <summary>Out of memory or descriptors.</summary>
    OutOfResources = 71,
    /// <summary>The output or a socket cannot be created.</summary>
    CannotCreate = 73,
    /// <summary>A device failed.</summary>
    InputOutput = 74,
    /// <summary>Interrupted; the same command continues the work when it is run again.</summary>
    Interrupted = 75,
    /// <summary>Mounted, held or locked by another process.</summary>
    InUse = 76,
    /// <summary>Permission denied.</summary>
    Permission = 77,
    /// <summary>A hibernation image has not been resumed, and it assumes the disks' earlier content.</summary>
    Hibernated = 78,
}

/// <summary>The exception of all code above interop: a message for the user and the exit code.</summary>
public class SnapuserdException(ExitCode code, string sentence) : Exception(sentence)
{
    /// <summary>Exit code of the process if this is not handled.</summary>
    public ExitCode Code { get; } = code;
}

/// <summary>
/// A device cannot be written because a logical sector holds several blocks (docs/storage.md, "Sectors"): exit code 64. Reading it does
/// no harm.
/// </summary>
/// <param name="path">The device.</param>
/// <param name="sector">Bytes of its logical sector.</param>
public sealed class LargeSectorException(string path, int sector) : SnapuserdException(ExitCode.Usage,
    $"cannot open {path} for writing: its sectors have {sector} bytes, and a power cut while one block of {Sizes.Block} bytes is "
    + "written could destroy "
    + $"the others in its sector; use a device with sectors of {Sizes.LargestSector} bytes or less");
