using System;
using System.Collections.Generic;
using System.IO;
using System.Runtime.InteropServices;

namespace Snapuserd.Tests.Benchmarks.Merging;

/// <summary>
/// The changes of an update to an image, in blocks of a 512 MiB image of 131072 blocks; other sizes are scaled. <paramref name="Moved"/>
/// blocks exist elsewhere in the old image. So do <paramref name="Inserted"/> ones, but with 37 bytes inserted in front of them.
/// <paramref name="Edited"/> ones keep their place and get a few other bytes. <paramref name="Shifted"/> ones move one block further, so
/// that each of them overwrites the source of another.
/// </summary>
internal sealed record Mix(string Name, int Moved, int Inserted, int Edited, int Replaced, int Zeroed, int Shifted)
{
    /// <summary>All mixes.</summary>
    internal static readonly Mix[] All =
    [
        // 73.6 k blocks: 33 k copied and 5 k zeroed; with xor, 19 k xored and 16 k replaced; without xor, 35 k replaced.
        new("mix", Moved: 33000, Inserted: 13000, Edited: 6300, Replaced: 16200, Zeroed: 5000, Shifted: 0),
        new("copy", Moved: 60000, Inserted: 0, Edited: 0, Replaced: 9000, Zeroed: 4600, Shifted: 0),
        new("xor", Moved: 8000, Inserted: 48000, Edited: 0, Replaced: 13000, Zeroed: 4600, Shifted: 0),
        new("replace", Moved: 8000, Inserted: 0, Edited: 0, Replaced: 61000, Zeroed: 4600, Shifted: 0),
        new("chains", Moved: 0, Inserted: 0, Edited: 0, Replaced: 10000, Zeroed: 3600, Shifted: 60000),
    ];
}

/// <summary>An old image and the results of a mix on it, both in memory during creation.</summary>
internal static class Pair
{
    internal const int Block = 4096;

    // The number of blocks to which the numbers of a mix refer.
    private const int Whole = 131072;

    /// <summary>Writes the old image of <paramref name="bytes"/> bytes, and the new image of each mix. Existing files are kept.</summary>
    internal static void Make(string folder, long bytes, bool ofThisMachine, IEnumerable<Mix> mixes, TextWriter log)
    {
        int blocks = checked((int)(bytes / Block));
        byte[]? old = null, fresh = null;
        foreach (Mix mix in mixes)
        {
            string path = Path.Combine(folder, $"new-{mix.Name}.img");
            if (File.Exists(path) && File.Exists(Path.Combine(folder, "old.img"))) continue;
            if (old == null)
            {
                log.WriteLine($"making images of {bytes >> 20} MiB in {folder}: {mix.Name} and missing files of other mixes");
                using Content content = new(ofThisMachine);
                old = new byte[bytes];
                content.Read(old);
                // Replaced blocks get contents of other files.
                fresh = new byte[bytes / 2];
                content.Read(fresh);
                if (content.Invented > 0 && ofThisMachine)
                    log.WriteLine($"this machine's files did not suffice: {content.Invented >> 20} MiB were generated");
                Save(Path.Combine(folder, "old.img"), old);
            }
            byte[] target = (byte[])old.Clone();
            new Update(mix, blocks, old, fresh!, target).Make();
            Save(path, target);
        }
    }

    private static void Save(string path, byte[] bytes)
    {
        File.WriteAllBytes(path + ".part", bytes);
        File.Move(path + ".part", path, overwrite: true);
    }

    /// <summary>
    /// The image is cut into stretches as long as files are, and each gets a role. Moved and inserted contents go to stretches whose old
    /// contents are no longer needed. Replacements and zeros go to stretches whose contents were moved away. So the copies of a mix depend
    /// only on one another's stretches, as in an update between two images with a fresh layout.
    /// </summary>
    private sealed class Update(Mix mix, int blocks, byte[] old, byte[] fresh, byte[] target)
    {
        private const int Shift = 1, Insert = 37, InsertAt = 9000;

        private readonly Random _random = new(2);
        private int _freshAt;

        internal void Make()
        {
            List<(int Start, int Length)> stretches = [];
            for (int at = 0; at < blocks;)
            {
                // Lengths like those of files on a system partition: many of some 100 KiB, some of megabytes.
                int length = _random.Next(4) == 0 ? _random.Next(256, 1024) : _random.Next(16, 128);
                // Many short chains merge in parallel without the journal, one step of each in turn; a few long chains cannot.
                if (mix.Shifted > 0) length = Math.Min(4 * length + 512, blocks / 16);
                length = Math.Min(length, blocks - at);
                stretches.Add((at, length));
                at += length;
            }
            _random.Shuffle(CollectionsMarshal.AsSpan(stretches));
            Stack<(int Start, int Length)> free = new(stretches), sources = new();

            for (int left = Share(mix.Shifted); left > 0;) left -= ShiftBlocks(Take(free, left));
            for (int left = Share(mix.Edited); left > 0;) left -= Edit(Take(free, int.MaxValue), left);
            for (int left = Share(mix.Moved); left > 0;)
            {
                (int from, int to, int length) = FromTo(free, sources, left);
                Span(old, from, length).CopyTo(Span(target, to, length));
                left -= length;
            }
            for (int left = Share(mix.Inserted); left > 0;)
            {
                (int from, int to, int length) = FromTo(free, sources, left);
                Span<byte> room = Span(target, to, length), contents = Span(old, from, length);
                int at = Math.Min(InsertAt, contents.Length / 2);
                contents[..at].CopyTo(room);
                room.Slice(at, Insert).Fill((byte)'+');
                contents[at..^Insert].CopyTo(room[(at + Insert)..]);
                left -= length;
            }
            for (int left = Share(mix.Replaced); left > 0;)
            {
                (int start, int length) = Take(sources.Count > 0 ? sources : free, left);
                for (int i = 0; i < length; i++)
                {
                    Span<byte> from = Span(fresh, _freshAt++ % (fresh.Length / Block), 1);
                    from.CopyTo(Span(target, start + i, 1));
                }
                left -= length;
            }
            for (int left = Share(mix.Zeroed); left > 0;)
            {
                (int start, int length) = Take(sources.Count > 0 ? sources : free, left);
                Span(target, start, length).Clear();
                left -= length;
            }
        }

        private int Share(int count) => (int)((long)count * blocks / Whole);

        private static Span<byte> Span(byte[] image, int start, int length) => image.AsSpan(start * Block, length * Block);

        private static (int Start, int Length) Take(Stack<(int Start, int Length)> from, int most)
        {
            (int start, int length) = from.Pop();
            return (start, Math.Min(length, most));
        }

        /// <summary>Pairs a stretch whose contents are needed elsewhere with one whose contents are not needed.</summary>
        private static (int From, int To, int Length) FromTo(Stack<(int Start, int Length)> free,
            Stack<(int Start, int Length)> sources, int most)
        {
            (int from, int fromLength) = free.Pop();
            (int to, int toLength) = free.Pop();
            int length = Math.Min(Math.Min(fromLength, toLength), most);
            sources.Push((from, length));
            if (length < toLength) free.Push((to + length, toLength - length));
            if (length < fromLength) free.Push((from + length, fromLength - length));
            return (from, to, length);
        }

        private int ShiftBlocks((int Start, int Length) stretch)
        {
            (int start, int length) = stretch;
            if (length <= Shift) return length;
            Span(old, start, length - Shift).CopyTo(Span(target, start + Shift, length - Shift));
            return length - Shift;
        }

        /// <summary>
        /// Changes a handful of bytes in every second block. Returns the number of changed blocks, at most <paramref name="most"/>.
        /// </summary>
        private int Edit((int Start, int Length) stretch, int most)
        {
            int count = 0;
            for (int i = 0; i < stretch.Length && count < most; i += 2, count++)
                _random.NextBytes(Span(target, stretch.Start + i, 1).Slice(_random.Next(Block - 16), 16));
            return count;
        }
    }
}
