using System;
using System.Text;
using Snapuserd.Tests.Simulator;

namespace Snapuserd.Tests.Soak;

/// <summary>Random images, and random updates of them.</summary>
internal static class Images
{
    private const int Block = 4096;

    /// <summary>An image of random blocks: noise, text, zeros, and copies of other blocks.</summary>
    public static byte[] By(Chance chance, int blocks)
    {
        byte[] image = new byte[blocks * Block];
        for (int i = 0; i < blocks; i++)
        {
            Span<byte> block = image.AsSpan(i * Block, Block);
            switch (chance.Below(10))
            {
                case < 4: Noise(chance, block); break;
                case < 8: Words(chance, block); break;
                case 8 when i > 0: image.AsSpan(chance.Below(i) * Block, Block).CopyTo(block); break;
            }
        }
        return image;
    }

    /// <summary>The image after one to eight edits, with the same length.</summary>
    public static byte[] Edited(Chance chance, byte[] before)
    {
        byte[] image = (byte[])before.Clone();
        int blocks = image.Length / Block;
        for (int edits = 1 + chance.Below(8); edits > 0; edits--)
        {
            int start = chance.Below(blocks), count = 1 + chance.Below(Math.Min(blocks - start, 1 << chance.Below(11))),
                to = chance.Below(blocks - count + 1);
            Span<byte> part = image.AsSpan(start * Block, count * Block);
            switch (chance.Below(8))
            {
                case 0: // A move, which may overlap itself.
                    part.ToArray().CopyTo(image, to * Block);
                    break;
                case 1: // An insertion, which shifts the bytes after it.
                    int bytes = 1 + chance.Below(Math.Min(3 * Block, part.Length - 1));
                    part[..^bytes].ToArray().CopyTo(part[bytes..]);
                    Noise(chance, part[..bytes]);
                    break;
                case 2: // Small edits.
                    for (int i = 0; i < count; i++) part[chance.Below(part.Length)] ^= (byte)(1 + chance.Below(255));
                    break;
                case 3:
                    part.Clear();
                    break;
                case 4: // A permutation of blocks.
                    for (int i = count - 1; i > 0; i--) Swap(part, i, chance.Below(i + 1));
                    break;
                case 5: // A rotation: one long cycle, or several.
                    int by = chance.Below(count) * Block;
                    byte[] copy = part.ToArray();
                    copy.AsSpan(by).CopyTo(part);
                    copy.AsSpan(0, by).CopyTo(part[(part.Length - by)..]);
                    break;
                case 6:
                    Words(chance, part);
                    break;
                default:
                    Noise(chance, part);
                    break;
            }
        }
        return image;
    }

    private static void Swap(Span<byte> image, int one, int other)
    {
        byte[] saved = image.Slice(one * Block, Block).ToArray();
        image.Slice(other * Block, Block).CopyTo(image.Slice(one * Block, Block));
        saved.CopyTo(image.Slice(other * Block, Block));
    }

    private static void Noise(Chance chance, Span<byte> bytes) => new Random((int)chance.Next()).NextBytes(bytes);

    private static void Words(Chance chance, Span<byte> bytes)
    {
        for (int at = 0; at < bytes.Length;)
        {
            byte[] word = Encoding.ASCII.GetBytes($"{chance.Below(5000):x} ");
            word.AsSpan(0, Math.Min(word.Length, bytes.Length - at)).CopyTo(bytes[at..]);
            at += word.Length;
        }
    }
}
