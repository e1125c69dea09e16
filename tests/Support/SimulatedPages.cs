using System;
using System.Collections.Generic;
using Snapuserd.Interop;

namespace Snapuserd.Tests.Support;

/// <summary>
/// The memory calls of a kernel with pages of <c>page</c> bytes, a multiple of this machine's page size. They behave as in such a kernel: a
/// range that does not begin on a page is EINVAL, and a range that does not end on a page includes the whole last page. Each mapping has a
/// neighbour page on either side. Bytes between the requested length and the end of the last page belong to the mapping, as in a kernel.
/// <see cref="Check"/> compares the neighbours byte for byte. Thread-safe.
/// </summary>
public sealed class SimulatedPages : SystemMemory
{
    private readonly object _gate = new();
    private readonly List<Mapping> _mappings = [];

    private sealed class Mapping
    {
        /// <summary>The real mapping, larger than the simulated one so that it can be aligned.</summary>
        public nint Whole, WholeLength;

        /// <summary>The simulated mapping, in whole pages.</summary>
        public nint Start, Length;

        public bool Unmapped;
    }

    public SimulatedPages(int page) : base(page)
    {
        if (page % Sizes.SystemPage != 0)
            throw new ArgumentOutOfRangeException(nameof(page), $"{page} is not a multiple of this machine's page size {Sizes.SystemPage}");
    }

    /// <summary>The page sizes that kernels are built for.</summary>
    public static IReadOnlyList<int> All { get; } = [4 << 10, 16 << 10, 64 << 10];

    /// <summary>Bytes discarded so far, in whole pages.</summary>
    public long Discarded { get; private set; }

    /// <inheritdoc/>
    public override nint Map(nint length)
    {
        if (length <= 0) return -Errno.EINVAL;
        nint pages = RoundUp(length);
        nint whole = base.Map(pages + (3 * Page));
        if (whole < 0) return whole;
        Mapping mapping = new() { Whole = whole, WholeLength = pages + (3 * Page), Start = RoundUp(whole) + Page, Length = pages };
        Neighbours(mapping, fill: true);
        lock (_gate) _mappings.Add(mapping);
        return mapping.Start;
    }

    /// <inheritdoc/>
    public override int Unmap(nint address, nint length)
    {
        lock (_gate)
        {
            if (address % Page != 0 || length <= 0) return -Errno.EINVAL;
            foreach (Mapping mapping in _mappings)
            {
                if (mapping.Unmapped || address < mapping.Start || address >= mapping.Start + mapping.Length) continue;
                // Clears any part of a neighbour that the range covers; Check then finds the change.
                Bytes(address, RoundUp(length)).Clear();
                mapping.Unmapped = address == mapping.Start && RoundUp(length) == mapping.Length;
                if (!mapping.Unmapped || !Neighbours(mapping, fill: false))
                    throw new InvalidOperationException($"munmap of {length} bytes, but the mapping has {mapping.Length}");
                _ = base.Unmap(mapping.Whole, mapping.WholeLength);
                return 0;
            }
            return 0;
        }
    }

    /// <inheritdoc/>
    public override int Discard(nint address, nint length)
    {
        if (address % Page != 0) return -Errno.EINVAL;
        lock (_gate) Discarded += RoundUp(length);
        return base.Discard(address, RoundUp(length));
    }

    /// <summary>Throws if the content of a neighbour of any mapping has changed.</summary>
    public void Check()
    {
        lock (_gate)
            foreach (Mapping mapping in _mappings)
                if (!mapping.Unmapped && !Neighbours(mapping, fill: false))
                    throw new InvalidOperationException($"the page before or after a mapping of {mapping.Length} bytes has changed");
    }

    private bool Neighbours(Mapping mapping, bool fill)
    {
        foreach (nint at in (ReadOnlySpan<nint>)[mapping.Start - Page, mapping.Start + mapping.Length])
        {
            Span<byte> bytes = Bytes(at, Page);
            if (fill) bytes.Fill(0x5a);
            else if (bytes.ContainsAnyExcept((byte)0x5a)) return false;
        }
        return true;
    }

    private nint RoundUp(nint bytes) => (nint)Sizes.RoundUp((long)bytes, Page);

    private static unsafe Span<byte> Bytes(nint address, nint length) => new((void*)address, (int)length);
}
