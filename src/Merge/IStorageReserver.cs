using System.Collections.Generic;

namespace Snapuserd.Merge;

/// <summary>Some bytes of a device.</summary>
public readonly record struct ByteRange(long Offset, long Length);

/// <summary>Makes sure, before a merge's first write, that the file systems below its devices have room for all of its writes.</summary>
public interface IStorageReserver
{
    /// <summary>
    /// Reserves what <paramref name="ranges"/> of a device need: ascending, each byte once, and the same whenever they are enumerated. No byte of the device changes. Exit code
    /// 74 if there is not enough room, which says how much is missing; 75 when asked to stop.
    /// </summary>
    void Reserve(MergeDevice device, IEnumerable<ByteRange> ranges);
}
