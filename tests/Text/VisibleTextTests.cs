using Snapuserd.Text;
using Xunit;

namespace Snapuserd.Tests.Text;

/// <summary>Names in output for people.</summary>
public sealed class VisibleTextTests
{
    [Fact]
    public void Control_characters_are_escaped_and_everything_else_stays()
    {
        (string Text, string OnOneLine, string OnTerminal)[] cases =
        [
            ("", "", ""),
            ("/data/\u00e4 \U0001d11e\\x0a.cow", "/data/\u00e4 \U0001d11e\\x0a.cow", "/data/\u00e4 \U0001d11e\\x0a.cow"),
            ("a\nb\tc\u001b]0;x\u0007\u007f", @"a\x0ab\x09c\x1b]0;x\x07\x7f", @"a\x0ab\x09c\x1b]0;x\x07\x7f"),
            ("\u0085\u009b2J", @"\xc2\x85\xc2\x9b2J", @"\xc2\x85\xc2\x9b2J"),
            // Names that look like other names: a right-to-left override, an isolate, a line separator.
            ("a\u202egnp.exe\u2066\u2028", @"a\xe2\x80\xaegnp.exe\xe2\x81\xa6\xe2\x80\xa8",
                @"a\xe2\x80\xaegnp.exe\xe2\x81\xa6\xe2\x80\xa8"),
            ("\udcff\udc9b2J\n", "\udcff\udc9b2J\\x0a", @"\xff\x9b2J\x0a"),
        ];
        foreach ((string text, string line, string terminal) in cases)
        {
            Assert.Equal(line, VisibleText.OnOneLine(text));
            Assert.Equal(terminal, VisibleText.OnTerminal(text));
        }
    }
}
