using System;
using System.Text;
using Snapuserd.Cow;
using Xunit;

namespace Snapuserd.Tests.Cow;

/// <summary>The byte-for-byte examples of the format reference (cow-format §6.8, §6.9, §7.4), and the text blocks in them.</summary>
internal static class AndroidFiles
{
    /// <summary>v2, 359 bytes: gz, clusters of 3, no scratch; Copy 10←20, Replace 50, Xor 51 (byte 98314), Zero 7, Label 9.</summary>
    public static byte[] V2 => Convert.FromHexString(
        "2121574f63776f43020000002600540014000010000003000000000000000000000000000000010000000a0000000000000014000000000000000201" +
        "380032000000000000006200000000000000050000000000000000000000380000000000000078daedc2510900200c4041a32c80712c3071e040f163" +
        "627ecd21efb8d23de48d354d9a6ecd526db81d13df090000000000fce002f8ca0a480601290033000000000000000a80010000000000030000000700" +
        "0000000000000000000000000000050000000000000000000000290000000000000078daedc1410900200c0040a3cc408618e87b20f6c71ee3ee56dd" +
        "133b5fce0100000034f501e491036f0400000000000000000000000900000000000000ff0040008c0000000000000007000000000000000000000000" +
        "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000");

    /// <summary>
    /// v3, 337 bytes: gz, 8 KiB units, no scratch; sequence 51, 10; Copy 10←20, Replace of 48 and 49, Xor 51, Label 9, Zero 7.
    /// </summary>
    public static byte[] V3 => Convert.FromHexString(
        "2121574f63776f43030000004e0000001000001000000000000000000000000000000000000002000000000000000100000004000000040000000000" +
        "000005000000000000000100000000200000330000000a00000009000000000000000300000000000000000000000000000000000000000000000000" +
        "000000000000000000000000000000000000000000000000000000000000000000000a00000014000000000000104200000030000000e60000000000" +
        "002229000000330000000a80010000000060000000000700000000000000000000300000000000000000000000000000000078daedd7c10980301000" +
        "414bb9022c270d443c30a0f84848fd5a4798619bd872b51e7ffd7d32ce3aea1e47de2d67461b1b000000b082e2ff01000060791f6b4e148f78daedc1" +
        "410900200c0040a3cc408618e87b20f6c71ee3ee56dd133b5fce0100000034f501e491036f");

    /// <summary>The text block T of cow-format §7.4.</summary>
    public static byte[] T => Block("This is some data, believe it");

    /// <summary>The short block M of cow-format §7.4.</summary>
    public static byte[] M => Block("More data!");

    /// <summary>A block of 4096 bytes that begins with <paramref name="text"/> and is zero after it.</summary>
    public static byte[] Block(string text)
    {
        byte[] block = new byte[4096];
        Encoding.ASCII.GetBytes(text).CopyTo(block, 0);
        return block;
    }

    /// <summary>The content of the unit of op <paramref name="index"/>, decoded from <paramref name="file"/>.</summary>
    public static byte[] Unit(CowFile cow, byte[] file, int index)
    {
        using var decoder = new UnitDecoder();
        CowOp op = cow[index];
        byte[] unit = new byte[op.UnitBytes];
        Assert.Equal(0, decoder.Decode(cow.AlgorithmOf(op), file.AsSpan((int)op.DataOffset, op.DataLength), unit));
        return unit;
    }
}
