namespace Snapuserd.Interop;

/// <summary>
/// The memory calls whose effect depends on the kernel's page size. Each takes a page-aligned address and rounds a length up to whole
/// pages. So a call also affects the bytes after a range that does not end on a page. Tests substitute a system with larger pages.
/// </summary>
public unsafe class SystemMemory
{
    /// <summary>Pages of <paramref name="page"/> bytes, a power of two.</summary>
    protected SystemMemory(int page) => Page = page;

    /// <summary>The memory calls of the running kernel.</summary>
    public static SystemMemory Own { get; } = new(Sizes.SystemPage);

    /// <summary>Bytes of a page.</summary>
    public int Page { get; }

    /// <summary>
    /// Maps <paramref name="length"/> bytes of zeros that cost nothing until they are touched. Returns the page-aligned address, or a
    /// negative errno.
    /// </summary>
    public virtual nint Map(nint length) =>
        Libc.MMap(0, length, Libc.PROT_READ | Libc.PROT_WRITE, Libc.MAP_PRIVATE | Libc.MAP_ANONYMOUS | Libc.MAP_NORESERVE, -1, 0);

    /// <summary>
    /// Unmaps the pages from <paramref name="address"/> to the one that holds the last of <paramref name="length"/> bytes. Returns 0 or a
    /// negative errno.
    /// </summary>
    public virtual int Unmap(nint address, nint length) => Libc.MUnmap(address, length);

    /// <summary>
    /// Returns the pages from <paramref name="address"/> to the one that holds the last of <paramref name="length"/> bytes to the system,
    /// including locked ones where the kernel can (5.18). They read as zeros afterwards. Returns 0 or a negative errno.
    /// </summary>
    public virtual int Discard(nint address, nint length) =>
        Libc.MAdvise(address, length, Libc.MADV_DONTNEED_LOCKED) < 0 ? Libc.MAdvise(address, length, Libc.MADV_DONTNEED) : 0;
}
