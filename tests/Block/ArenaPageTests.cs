using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Block;

/// <summary>
/// The arena on simulated kernels with pages of 4, 16 and 64 KiB. Forgetting or unmapping a slice does not change its neighbours.
/// </summary>
public sealed class ArenaPageTests
{
    public static TheoryData<int> Pages => [.. SimulatedPages.All];

    [Theory]
    [MemberData(nameof(Pages))]
    public void Forgetting_slices_of_blocks_does_not_change_their_neighbours(int page)
    {
        const int seed = 14;
        Random random = new(seed);
        SimulatedPages pages = new(page);
        using Arena arena = new((4 << 20) + 1000, pages);
        List<Slice> slices = [];
        // Buffers have random lengths and begin at a block boundary.
        while (arena.Take(random.Next(1, 160 << 10)) is { } slice) slices.Add(slice);
        byte[] model = new byte[arena.Size];
        random.NextBytes(model);
        for (int turn = 0; turn < 20; turn++)
        {
            Slice all = new(0, arena.Size);
            model.CopyTo(arena[all]);
            byte[] expected = [.. model];
            long before = pages.Discarded, due = 0;
            foreach (Slice slice in slices)
            {
                if (random.Next(2) == 0) continue;
                arena.Forget(slice);
                for (int from = 0; from < arena.Size; from += page)
                {
                    int to = Math.Min(from + page, arena.Size);
                    if (from < slice.Offset || to > slice.Offset + slice.Length) continue;
                    expected.AsSpan(from, to - from).Clear();
                    due += page;
                }
            }
            int same = arena[all].CommonPrefixLength(expected);
            Assert.True(same == arena.Size,
                $"seed {seed}, turn {turn}, pages of {page}: byte {same} was given back although it must be kept, or the other way round");
            Assert.Equal(due, pages.Discarded - before);
        }
        pages.Check();
    }

    [Theory]
    [MemberData(nameof(Pages))]
    public void Slice_of_whole_pages_is_given_back_whole(int page)
    {
        SimulatedPages pages = new(page);
        using Arena arena = new(1 << 20, pages);
        Assert.Equal(page, arena.System.Page);
        Assert.NotNull(arena.Take(Sizes.Block));
        Slice slice = arena.Take(3 * page, page)!.Value;
        arena[slice].Fill(1);
        arena.Forget(slice);
        Assert.Equal(3 * page, pages.Discarded);
        Assert.False(arena[slice].ContainsAnyExcept((byte)0));
        // Forget keeps the pages of a registered arena: the ring has the old pages pinned.
        arena[slice].Fill(1);
        arena.IsRegistered = true;
        arena.Forget(slice);
        Assert.False(arena[slice].ContainsAnyExcept((byte)1));
    }

    [Theory]
    [MemberData(nameof(Pages))]
    public void Mapping_and_unmapping_memory_of_any_length_does_not_change_its_neighbours(int page)
    {
        SimulatedPages pages = new(page);
        int[] lengths = [1, Sizes.Block, page - 1, page, page + 1, (5 * page) + Sizes.Block];
        List<MappedMemory> all = [];
        foreach (int length in lengths)
        {
            Assert.Equal(0, MappedMemory.Map(length, out MappedMemory? memory, pages));
            Assert.Equal(0, memory!.Address % page);
            memory.Span<byte>(0, length).Fill(0xff);
            all.Add(memory);
        }
        pages.Check();
        for (int i = 0; i < lengths.Length; i++)
        {
            // The last page belongs to the memory, although the memory ends inside it.
            long before = pages.Discarded;
            Assert.Equal(lengths[i], all[i].Discard(0, lengths[i]));
            Assert.Equal(Sizes.RoundUp(lengths[i], page), pages.Discarded - before);
            Assert.False(all[i].Span<byte>(0, lengths[i]).ContainsAnyExcept((byte)0));
            all[i].Dispose();
            pages.Check();
        }
    }

    [Fact]
    public void Page_size_is_that_of_the_running_kernel_and_memory_is_whole_pages()
    {
        Assert.Equal(Environment.SystemPageSize, Sizes.SystemPage);
        Assert.Equal(Sizes.SystemPage, SystemMemory.Own.Page);
        using Arena arena = new(1 << 20);
        Assert.Same(SystemMemory.Own, arena.System);
    }

    [Fact]
    public void Simulated_kernel_refuses_and_rounds_like_a_real_one()
    {
        // The real system memory, with this machine's page size.
        Check(SystemMemory.Own, Sizes.SystemPage);
        foreach (int page in SimulatedPages.All) Check(new SimulatedPages(page), page);

        static void Check(SystemMemory system, int page)
        {
            nint start = system.Map(4 * page);
            Assert.True(start > 0);
            Span<byte> bytes = Bytes(start, 4 * page);
            bytes.Fill(7);
            Assert.Equal(-Errno.EINVAL, system.Discard(start + 512, page));
            Assert.False(bytes.ContainsAnyExcept((byte)7));
            Assert.Equal(0, system.Discard(start + page, page + 1));
            Assert.Equal(page, bytes.IndexOf((byte)0));
            Assert.Equal((3 * page) - 1, bytes.LastIndexOf((byte)0));
            Assert.Equal(-Errno.EINVAL, system.Unmap(start + 512, page));
            Assert.Equal(0, system.Unmap(start, 4 * page));
        }
    }

    private static unsafe Span<byte> Bytes(nint address, int length) => new((void*)address, length);
}
