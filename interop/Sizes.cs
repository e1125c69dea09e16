namespace Snapuserd.Interop;

/// <summary>
/// Four sizes that are 4096 bytes on most machines and mean different things. Code names the one it means; tests/lint.sh forbids the
/// number elsewhere.
/// <list type="table">
/// <item><term><see cref="Block"/></term><description>The format's block. The same everywhere; never changes.</description></item>
/// <item><term><see cref="SystemPage"/></term><description>The running kernel's page: 4, 16 or 64 KiB. mmap, munmap and madvise round to
/// it.</description></item>
/// <item><term><see cref="LargestSector"/></term><description>Limit of a device's logical sector (BLKSSZGET). A power cut during a write
/// may damage the whole sector.</description></item>
/// <item><term><see cref="Granule"/></term><description>Alignment that satisfies direct I/O. A device's own alignment is
/// <c>BlockDevice.Granule</c>.</description></item>
/// </list>
/// </summary>
public static class Sizes
{
    /// <summary>
    /// Bytes of a block of an image: <c>block_size</c> in a COW's header, where Android accepts no other value (cow-format §2).
    /// </summary>
    public const int Block = 4096;

    /// <summary>log2 of <see cref="Block"/>.</summary>
    public const int BlockShift = 12;

    /// <summary>
    /// Largest logical sector in bytes of a COW or base that is written: one block. A sector is the smallest unit that a device writes,
    /// so blocks in one sector cannot be written independently of each other (docs/storage.md, "Sectors").
    /// </summary>
    public const int LargestSector = Block;

    /// <summary>
    /// Alignment in bytes of buffers, offsets and lengths, sufficient for direct I/O on every device with a logical sector of at most
    /// <see cref="LargestSector"/>. A device with a larger alignment is used through the page cache.
    /// </summary>
    public const int Granule = 4096;

    /// <summary>
    /// Page size of the running kernel in bytes, a power of two: AT_PAGESZ of the auxiliary vector, read once. x86-64 has 4096; arm64 has
    /// 4, 16 or 64 KiB, depending on its kernel. <see cref="SystemMemory"/> is the code that depends on it.
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
