namespace Snapuserd.Interop;

/// <summary>
/// Four sizes that are 4096 bytes on most machines and mean four things. Code names the one it means; tests/lint.sh forbids the number elsewhere.
/// <list type="table">
/// <item><term><see cref="Block"/></term><description>The format's. The same everywhere, for ever.</description></item>
/// <item><term><see cref="SystemPage"/></term><description>The running kernel's: 4, 16 or 64 KiB. What mmap, munmap and madvise round to.</description></item>
/// <item><term><see cref="LargestSector"/></term><description>Bound of a device's logical sector, which BLKSSZGET tells for each device: what a power cut may damage at once.</description></item>
/// <item><term><see cref="Granule"/></term><description>Alignment that satisfies direct I/O. What one device really asks for is <c>BlockDevice.Granule</c>.</description></item>
/// </list>
/// </summary>
public static class Sizes
{
    /// <summary>Bytes of a block of an image: <c>block_size</c> in a COW's header, where Android takes no other value (cow-format §2).</summary>
    public const int Block = 4096;

    /// <summary>log2 of <see cref="Block"/>.</summary>
    public const int BlockShift = 12;

    /// <summary>
    /// Bytes of the largest logical sector that COW and base may have when they are written: a block. A sector is the least that a device
    /// writes, so blocks that share one cannot be written independently of each other (docs/storage.md, "Sectors").
    /// </summary>
    public const int LargestSector = Block;

    /// <summary>
    /// Bytes to which buffers, offsets and lengths are aligned, so that direct I/O is possible on every device with a logical sector of at most
    /// <see cref="LargestSector"/>. A device that asks for more is used through the page cache.
    /// </summary>
    public const int Granule = 4096;

    /// <summary>
    /// Bytes of a page of the running kernel's memory, a power of two: AT_PAGESZ of the auxiliary vector, read once. x86-64 has 4096; arm64 has
    /// 4, 16 or 64 KiB, as its kernel was built. <see cref="SystemMemory"/> is what depends on it.
    /// </summary>
    public static int SystemPage { get; } = Libc.PageSize();

    /// <summary><paramref name="bytes"/> rounded up to a multiple of <paramref name="size"/>, a power of two.</summary>
    public static int RoundUp(int bytes, int size) => checked(bytes + size - 1) & -size;

    /// <inheritdoc cref="RoundUp(int, int)"/>
    public static long RoundUp(long bytes, long size) => checked(bytes + size - 1) & -size;

    /// <summary><paramref name="bytes"/> rounded down to a multiple of <paramref name="size"/>, a power of two.</summary>
    public static int RoundDown(int bytes, int size) => bytes & -size;

    /// <inheritdoc cref="RoundDown(int, int)"/>
    public static long RoundDown(long bytes, long size) => bytes & -size;
}
