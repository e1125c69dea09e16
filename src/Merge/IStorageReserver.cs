using System.Collections.Generic;

namespace Snapuserd.Merge;

/// <summary>A range of bytes of a device.</summary>
public readonly record struct ByteRange(long Offset, long Length);

/// <summary>Ensures, before a merge's first write, that the file systems below its devices have space for all of its writes.</summary>
public interface IStorageReserver
{
    /// <summary>
    /// Reserves the space that <paramref name="ranges"/> of a device need. The ranges must be ascending, contain each byte once, and be the
    /// same on every enumeration. The contents of the device do not change. Exit code 74 if there is not enough space, with the missing
    /// amount in the message; 75 if asked to stop.
    /// </summary>
    void Reserve(MergeDevice device, IEnumerable<ByteRange> ranges);
}
