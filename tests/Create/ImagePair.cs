using System;
using System.Text;

namespace Snapuserd.Tests.Create;

/// <summary>An old image, and a new image that a seeded series of edits makes of it.</summary>
internal sealed class ImagePair
{
    private const int Size = 4096;

    private readonly Random _random;

    private ImagePair(Random random, byte[] old)
    {
        _random = random;
        Old = old;
        New = (byte[])old.Clone();
    }

    public byte[] Old { get; }

    public byte[] New { get; private set; }

    private int Blocks => New.Length / Size;

    /// <summary>A pair of some tens to hundreds of blocks with one to six edits, determined by the seed.</summary>
    public static ImagePair Random(int seed)
    {
        var random = new Random(seed);
        var pair = new ImagePair(random, Image(random, random.Next(1, 400)));
        for (int edits = random.Next(1, 7); edits > 0; edits--) pair.Edit();
        return pair;
    }

    /// <summary>Blocks of noise, of text and of zeros, and some contents that repeat.</summary>
    public static byte[] Image(Random random, int blocks)
    {
        byte[] image = new byte[blocks * Size];
        for (int i = 0; i < blocks; i++)
        {
            Span<byte> block = image.AsSpan(i * Size, Size);
            switch (random.Next(10))
            {
                case < 4: random.NextBytes(block); break;
                case < 8: Text(random, block); break;
                case 8: block.Fill((byte)random.Next(3)); break;
                case 9 when i > 0: image.AsSpan(random.Next(i) * Size, Size).CopyTo(block); break;
            }
        }
        return image;
    }

    private static void Text(Random random, Span<byte> block)
    {
        for (int at = 0; at < block.Length;)
        {
            byte[] word = Encoding.ASCII.GetBytes($"{random.Next(5000):x} ");
            word.AsSpan(0, Math.Min(word.Length, block.Length - at)).CopyTo(block[at..]);
            at += word.Length;
        }
    }

    private void Edit()
    {
        if (Blocks == 0) return;
        int start = _random.Next(Blocks), count = _random.Next(1, Blocks - start + 1), to = _random.Next(Blocks - count + 1);
        Span<byte> all = New, part = all.Slice(start * Size, count * Size);
        switch (_random.Next(11))
        {
            case 0: // A move to any position, possibly overlapping itself: a shift by whole blocks in either direction.
                part.ToArray().CopyTo(all[(to * Size)..]);
                break;
            case 1: // Bytes inserted: the later bytes of the range move by that length.
                int bytes = _random.Next(1, Math.Min(3 * Size, part.Length));
                part[..^bytes].ToArray().CopyTo(part[bytes..]);
                _random.NextBytes(part[..bytes]);
                break;
            case 2: // Bytes removed.
                bytes = _random.Next(1, Math.Min(3 * Size, part.Length));
                part[bytes..].ToArray().CopyTo(part);
                break;
            case 3: // Small edits.
                for (int i = 0; i < count; i++) part[_random.Next(part.Length)] ^= (byte)_random.Next(1, 256);
                break;
            case 4:
                part.Clear();
                break;
            case 5: // Two blocks swapped, several times.
                for (int i = 0; i < 5; i++) Swap(all, _random.Next(Blocks), _random.Next(Blocks));
                break;
            case 6: // A rotation: one long cycle, or several.
                int by = _random.Next(count) * Size;
                byte[] copy = part.ToArray();
                copy.AsSpan(by).CopyTo(part);
                copy.AsSpan(0, by).CopyTo(part[(part.Length - by)..]);
                break;
            case 7: // A permutation.
                for (int i = count - 1; i > 0; i--) Swap(part, i, _random.Next(i + 1));
                break;
            case 8: // One block repeated over the whole range.
                for (int i = 1; i < count; i++) part[..Size].CopyTo(part.Slice(i * Size, Size));
                break;
            case 9:
                New = [.. New, .. Image(_random, _random.Next(1, 20))];
                break;
            case 10 when Blocks > 1:
                New = New[..(_random.Next(1, Blocks) * Size)];
                break;
        }
    }

    private static void Swap(Span<byte> image, int a, int b)
    {
        byte[] held = image.Slice(a * Size, Size).ToArray();
        image.Slice(b * Size, Size).CopyTo(image.Slice(a * Size, Size));
        held.CopyTo(image.Slice(b * Size, Size));
    }
}
