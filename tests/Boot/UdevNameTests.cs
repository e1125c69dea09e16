using System;
using System.Text;
using Snapuserd.Boot;
using Snapuserd.Interop;
using Xunit;

namespace Snapuserd.Tests.Boot;

/// <summary>Labels as udev encodes them.</summary>
public sealed class UdevNameTests
{
    [Theory]
    [InlineData("my root", @"my\x20root")]
    [InlineData("/boot", @"\x2fboot")]
    [InlineData("a\\b", @"a\x5cb")]
    [InlineData("azAZ09#+-.:=@_", "azAZ09#+-.:=@_")]
    [InlineData("!\"$%&'()*,;<>?[]^`{|}~", @"\x21\x22\x24\x25\x26\x27\x28\x29\x2a\x2c\x3b\x3c\x3e\x3f\x5b\x5d\x5e\x60\x7b\x7c\x7d\x7e")]
    [InlineData("\u00e4\u20ac\U0001d11e\u0085", "\u00e4\u20ac\U0001d11e\u0085")]
    // udev rejects these code points: U+FDD0, U+FFFE, U+1FFFF.
    [InlineData("\ufdd0\ufffe\U0001ffff", @"\xef\xb7\x90\xef\xbf\xbe\xf0\x9f\xbf\xbf")]
    [InlineData("\n\u001b\u007f", @"\x0a\x1b\x7f")]
    // Already in udev's encoding.
    [InlineData(@"my\x20root", @"my\x20root")]
    [InlineData(@"a\x5cx20", @"a\x5cx20")]
    // Not escapes of udev.
    [InlineData(@"\x2F\x2\y20\", @"\x5cx2F\x5cx2\x5cy20\x5c")]
    public void A_label_is_encoded_as_udev_encodes_it(string label, string name) => Assert.Equal(name, UdevName.Of(label));

    [Fact]
    public void Bytes_that_are_not_utf8_are_escaped_one_by_one()
    {
        for (int b = 0x80; b <= 0xff; b++) Assert.Equal($"a\\x{b:x2}", UdevName.Of(ByteText.Decode([(byte)'a', (byte)b])));
        Assert.Equal(@"\xed\xb2\x80\xc0\xaf", UdevName.Of(ByteText.Decode(Encoding.Latin1.GetBytes("\u00ed\u00b2\u0080\u00c0\u00af"))));
        Assert.Equal("", UdevName.Of(""));
    }
}
