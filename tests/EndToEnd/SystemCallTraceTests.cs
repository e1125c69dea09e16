using System;
using System.IO;
using System.Linq;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>The traces that the checks accept and reject, in the format of strace.</summary>
public sealed class SystemCallTraceTests : IDisposable
{
    private const string Write = "1 pwrite64(3</d/f.new>, \"maybe\"..., 88, 0) = 88", Flush = "1 fsync(3</d/f.new>) = 0",
        Rename = "1 rename(\"/d/f.new\", \"/d/f\") = 0", Folder = "1 fsync(4</d>) = 0",
        Start = "1 execve(\"/p\", [\"p\"], 0x1 /* 1 var */) = 0",
        FlushOfName = "1 fsync(3</d/f>) = 0", WriteToName = "1 pwrite64(3</d/f>, \"begun\"..., 88, 0) = 88";

    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("a flush under the old name", Flush, Write, Flush, Rename, Folder, Start)]
    [InlineData("a flush under the new name", FlushOfName, Write, Rename, FlushOfName, Folder, Start)]
    [InlineData("a flush under either name", FlushOfName, Write, Flush, Rename, Folder, FlushOfName, Folder, Start)]
    [InlineData("a write that is flushed under the new name", FlushOfName, Write, Flush, Rename, WriteToName, FlushOfName, Start)]
    [InlineData("no rename", FlushOfName, WriteToName, FlushOfName, Start)]
    [InlineData("a rename that failed", FlushOfName, WriteToName, FlushOfName,
        "1 rename(\"/d/f.new\", \"/d/f\") = -1 EIO (Input/output error)", Start)]
    [InlineData("a rename of another file", FlushOfName, WriteToName, FlushOfName, "1 rename(\"/d/g.new\", \"/d/g\") = 0", Start)]
    [InlineData("two renames", Flush, Write, Flush, "1 rename(\"/d/f.new\", \"/d/g\") = 0", "1 rename(\"/d/g\", \"/d/f\") = 0", Start)]
    [InlineData("renameat", Flush, Write, Flush, "1 renameat(AT_FDCWD</d>, \"/d/f.new\", AT_FDCWD</d>, \"/d/f\") = 0", Start)]
    [InlineData("names in folders", Flush, Write, Flush, "1 renameat2(5</d>, \"f.new\", AT_FDCWD</d>, \"f\", RENAME_NOREPLACE) = 0", Start)]
    [InlineData("calls that overlap others", Flush, Write, "1 fsync(3</d/f.new> <unfinished ...>", "2 fsync(9</d/h>) = 0",
        "1 <... fsync resumed>) = 0",
        "1 rename(\"/d/f.new\", \"/d/f\" <unfinished ...>", "2 fsync(9</d/h>) = 0", "1 <... rename resumed>) = 0", Start)]
    public void File_that_is_durable_under_either_name_is_accepted(string what, string flush, params string[] lines)
    {
        SystemCallTrace trace = Trace(lines);
        TracedCall found = trace.IsDurable("/d/f", trace.Calls[^1]);
        Assert.True(flush == $"{found.Thread} {found}", $"{what}: {found}");
    }

    [Theory]
    [InlineData("no flush", "/d/f is not flushed", Write, Rename, Folder, Start)]
    [InlineData("a write after the flush", "f.new>", Write, Flush, Write, Rename, Folder, Start)]
    [InlineData("a write under the new name after the flush", "/d/f>", Write, Flush, Rename, WriteToName, Folder, Start)]
    [InlineData("a write after the flush of the new name", "/d/f>", Write, Rename, FlushOfName, WriteToName, Folder, Start)]
    [InlineData("a flush after the publishing", "/d/f is not flushed", Write, Rename, Folder, Start, FlushOfName)]
    [InlineData("a flush that failed", "/d/f is not flushed", Write, "1 fsync(3</d/f.new>) = -1 EIO (Input/output error)", Rename, Start)]
    [InlineData("a flush of the file that was replaced", "/d/f is not flushed", Write, FlushOfName, Rename, Folder, Start)]
    [InlineData("a flush of the next file of the old name", "/d/f is not flushed", Write, Rename, Flush, Folder, Start)]
    [InlineData("a rename that failed", "/d/f is not flushed", Write, Flush,
        "1 rename(\"/d/f.new\", \"/d/f\") = -1 EIO (Input/output error)", Start)]
    [InlineData("a rename after the publishing", "/d/f is not flushed", Write, Flush, Start, Rename)]
    [InlineData("a rename of another file", "/d/f is not flushed", Write, Flush, "1 rename(\"/d/f.new\", \"/d/g\") = 0", Start)]
    [InlineData("a flush that ends during the rename", "/d/f is not flushed", Write, "2 fsync(3</d/f.new> <unfinished ...>",
        "1 rename(\"/d/f.new\", \"/d/f\" <unfinished ...>", "2 <... fsync resumed>) = 0", "1 <... rename resumed>) = 0", Start)]
    [InlineData("a write that overlaps the flush", "f.new>", "2 pwrite64(3</d/f.new>, \"a\", 1, 0 <unfinished ...>", Flush,
        "2 <... pwrite64 resumed>) = 1", Rename, Start)]
    public void File_that_is_not_durable_under_its_name_is_refused(string what, string why, params string[] lines)
    {
        SystemCallTrace trace = Trace(lines);
        TracedCall publishing = trace.First("the publishing", call => call.Name == "execve");
        InvalidOperationException refused = Assert.Throws<InvalidOperationException>(() => trace.IsDurable("/d/f", publishing));
        Assert.True(refused.Message.Split('\n')[0].Contains(why, StringComparison.Ordinal), $"{what}: {refused.Message}");
    }

    [Theory]
    [InlineData("", Write, Flush, Rename, Folder, Start)]
    [InlineData("", Write, Flush, Rename, Folder, WriteToName, FlushOfName, Folder, Start)]
    [InlineData("no rename to /d/f ", WriteToName, FlushOfName, Folder, Start)]
    [InlineData("/d/f.new is not flushed ", Write, Rename, Folder, Start)]
    [InlineData("/d/f.new is not flushed ", Write, Rename, FlushOfName, Folder, Start)]
    [InlineData("/d/f.new: pwrite64(", Write, Flush, Write, Rename, FlushOfName, Folder, Start)]
    [InlineData("/d is not flushed ", Write, Flush, Rename, Start)]
    [InlineData("/d is not flushed ", Write, Flush, Folder, Rename, Start)]
    [InlineData("/d is not flushed ", Write, Flush, Rename, Start, Folder)]
    [InlineData("/d is not flushed ", Write, Flush, "1 rename(\"/d/f.new\", \"/d/f\" <unfinished ...>", "2 fsync(4</d>) = 0",
        "1 <... rename resumed>) = 0", Start)]
    public void Name_comes_after_the_content_and_before_the_flush_of_the_folder(string why, params string[] lines)
    {
        SystemCallTrace trace = Trace(lines);
        TracedCall publishing = trace.First("the publishing", call => call.Name == "execve");
        if (why.Length == 0) Assert.Equal(("/d/f.new", "/d/f"), trace.IsNamed("/d/f", publishing).Renamed);
        else
            Assert.StartsWith(why, Assert.Throws<InvalidOperationException>(() => trace.IsNamed("/d/f", publishing)).Message,
                StringComparison.Ordinal);
    }

    private SystemCallTrace Trace(string[] lines)
    {
        File.WriteAllLines(_folder["trace"], lines);
        SystemCallTrace trace = SystemCallTrace.Read(_folder["trace"]);
        Assert.Equal(lines.Count(line => !line.Contains("resumed", StringComparison.Ordinal)), trace.Calls.Count);
        return trace;
    }
}
