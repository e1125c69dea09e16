using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Text.Json;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>Files that users may mistake for a COW or a raw image, passed to every verb of the built binary.</summary>
public sealed class ForeignTests : IDisposable
{
    private const string Vector = "v3-lz4-4k-xor";
    private readonly RawShell _shell = new();

    public ForeignTests()
    {
        Write("cow", Golden.Cow(Vector));
        Write("base", Golden.Old);
        Write("new", Golden.New);
    }

    public void Dispose() => _shell.Dispose();

    public static TheoryData<string> Names => [.. ForeignFiles.Names];

    /// <summary>Commands that contain COW, BASE and SOURCE; each ends by itself when its input is refused.</summary>
    private static readonly string[] s_readers =
    [
        "verify --cow COW --base BASE --source SOURCE --source-separate",
        "extract --cow COW --base BASE --source SOURCE --source-separate --output out",
        "extract --cow COW --base BASE --source SOURCE --source-separate --output -",
        "serve --cow COW --base BASE --source SOURCE --source-separate --device nbd --socket nbd",
        "serve --merge --cow COW --base BASE --source SOURCE --source-separate --device nbd --socket nbd",
        "merge --cow COW --base BASE --source SOURCE --source-separate",
    ];

    public static TheoryData<string> Readers => [.. s_readers];

    [Theory]
    [MemberData(nameof(Names))]
    public void Every_verb_names_the_format_of_a_foreign_file_given_as_the_COW(string name)
    {
        (string what, string remedy) = ForeignFiles.Words(name);
        foreach (byte[] file in (byte[][])[ForeignFiles.Magic(name), ForeignFiles.Whole(name, 50_000)])
        {
            Write("foreign", file);
            foreach (string command in (string[])["inspect foreign", "verify --cow foreign", .. s_readers.Select(
                words => Words(words, "foreign", "base", "base").Replace(" --source-separate", "", StringComparison.Ordinal))])
            {
                RawResult result = _shell.Run($"$P {command}");
                Assert.True(result.ExitCode == 65, $"{command}: {result}");
                Assert.Equal("", result.Output);
                Assert.StartsWith("snapuserd: foreign is not a COW file: it is ", result.Error);
                Assert.Contains(what, result.Error);
                Assert.Contains(remedy, result.Error);
                Assert.Single(result.Error.TrimEnd('\n').Split('\n'));
            }
            Assert.Equal(file, File.ReadAllBytes(_shell["foreign"]));
            Assert.Equal(Golden.Old, File.ReadAllBytes(_shell["base"]));
            Assert.False(File.Exists(_shell["out"]) || File.Exists(_shell["out.part"]));
        }
    }

    [Theory]
    [MemberData(nameof(Readers))]
    public void Sparse_image_is_refused_as_base_and_source(string words)
    {
        byte[] sparse = SparseImages.Of(Golden.Old);
        // The whole sparse image, only its magic, and a file as long as the raw image.
        foreach (byte[] file in (byte[][])[sparse, sparse[..4], [.. sparse, .. new byte[Golden.Old.Length - sparse.Length]]])
        {
            Write("sparse", file);
            Refused(Words(words, "cow", "sparse", "base"));
            Refused(Words(words, "cow", "base", "sparse"));
            Assert.Equal(file, File.ReadAllBytes(_shell["sparse"]));
        }
        Assert.Equal(Golden.Cow(Vector), File.ReadAllBytes(_shell["cow"]));
        Assert.Equal(Golden.Old, File.ReadAllBytes(_shell["base"]));
        Assert.False(File.Exists(_shell["out"]) || File.Exists(_shell["out.part"]));
    }

    [RootFact]
    public void Sparse_image_on_a_block_device_is_refused_as_base()
    {
        byte[] sparse = [.. SparseImages.Of(Golden.Old), .. new byte[4096]];
        Write("sparse", sparse[..(sparse.Length & -4096)]);
        using LoopDevice loop = new(_shell["sparse"]);
        Refused($"merge --cow cow --base {loop.Path}", loop.Path);
        Assert.Equal(sparse[..(sparse.Length & -4096)], File.ReadAllBytes(_shell["sparse"]));
    }

    [Fact]
    public void Sparse_image_is_refused_as_base_of_a_merged_COW()
    {
        Assert.Equal(0, _shell.Run("$P merge --cow cow --base base").ExitCode);
        Write("sparse", SparseImages.Of(Golden.New));
        Refused("merge --cow cow --base sparse");
        Assert.Equal(0, _shell.Run("$P merge --cow cow --base base").ExitCode);
    }

    [Fact]
    public void Boot_refuses_a_sparse_base_with_any_update()
    {
        byte[] sparse = SparseImages.Of(Golden.Old);
        Write("sparse", sparse);
        Write("table", System.Text.Encoding.UTF8.GetBytes($"fresh {_shell["cow"]} {_shell["sparse"]}\nsource {_shell["cow2"]} "
            + $"{_shell["base"]} {_shell["sparse2"]}\n"));
        Write("sparse2", sparse);
        Write("cow2", Golden.Cow(Vector));
        Write("cmdline", "quiet"u8.ToArray());
        foreach (string dry in (string[])["--dry-run", ""])
        {
            RawResult result = _shell.Run($"$P boot --table table --cmdline cmdline --control-folder run --wait 0 --json {dry}");
            Assert.True(result.ExitCode == 65, result.ToString());
            JsonElement[] rows =
            [
                .. result.Output.Split('\n').Where(line => line.Contains("\"row\"", StringComparison.Ordinal))
                    .Select(line => JsonDocument.Parse(line).RootElement),
            ];
            Assert.Equal(2, rows.Length);
            Assert.All(rows, row => Assert.Equal("failed", row.GetProperty("state").GetString()));
            Assert.Contains("sparse holds an Android sparse image", rows[0].GetProperty("message").GetString());
            Assert.Contains("sparse2 holds an Android sparse image", rows[1].GetProperty("message").GetString());
            Assert.Equal(sparse, File.ReadAllBytes(_shell["sparse"]));
        }
    }

    [Fact]
    public void Daemon_refuses_a_sparse_base_and_a_foreign_COW()
    {
        Write("sparse", SparseImages.Of(Golden.Old));
        Write("payload", ForeignFiles.Whole("payload", 50_000));
        RawResult result = _shell.Run("""
            mkdir sockets
            $P daemon --socket ./socket --device nbd --socket-folder sockets 2>err &
            while ! test -S socket && kill -0 $!; do :; done
            perl -MSocket -e 'sub ask { socket(S,AF_UNIX,SOCK_STREAM,0) or die;
                connect(S,pack_sockaddr_un("./socket")) or die "connect: $!"; send(S,$_[0],0); recv(S,$a,512,0); print "$a\n";
                close S } ask("init,one,cow,sparse,sparse"); ask("init,two,payload,base,base"); ask("detach")'
            wait $!
            cat err >&2
            """);
        Assert.StartsWith("fail\nfail\n", result.Output);
        Assert.Contains("sparse holds an Android sparse image", result.Error);
        Assert.Contains("payload is not a COW file: it is an Android OTA payload (payload.bin)", result.Error);
    }

    /// <summary>A base may begin with any bytes; only an Android sparse image is refused.</summary>
    [Theory]
    [InlineData("gzip")]
    [InlineData("zip")]
    [InlineData("payload")]
    [InlineData("squashfs")]
    [InlineData("elf")]
    [InlineData("text")]
    public void Raw_image_that_begins_like_another_format_is_accepted(string name)
    {
        byte[] old = (byte[])Golden.Old.Clone(), changed = (byte[])Golden.New.Clone();
        ForeignFiles.Magic(name).CopyTo(old, 0);
        ForeignFiles.Magic(name).CopyTo(changed, 0);
        Write("old", old);
        Write("new", changed);
        RawResult result = _shell.Run("$P create --source old --target new --output made && $P merge --cow made --base old && cmp old new");
        Assert.True(result.ExitCode == 0, result.ToString());
    }

    /// <summary>Sparse or raw, source or target: the COW is the same, byte for byte.</summary>
    [Fact]
    public void Create_makes_the_same_COW_of_sparse_images()
    {
        byte[] old = [.. Golden.Old, .. new byte[40 * 4096]], changed = [.. Golden.New, .. new byte[40 * 4096]];
        Array.Fill(old, (byte)0x11, Golden.Old.Length + (10 * 4096), 5 * 4096);
        Array.Fill(changed, (byte)0x22, Golden.Old.Length + (12 * 4096), 9 * 4096);
        Write("old", old);
        Write("new", changed);
        Write("old.sparse", SparseImages.Of(old));
        Write("new.sparse", SparseImages.Of(changed, 512));
        Assert.True(new FileInfo(_shell["new.sparse"]).Length < changed.Length);
        RawResult result = _shell.Run("""
            set -e
            $P create --source old --target new --output cow.raw --xor --block-factor 64k
            for source in old old.sparse; do
                for target in new new.sparse; do
                    $P create --source $source --target $target --output cow.made --xor --block-factor 64k
                    cmp cow.raw cow.made
                done
            done
            $P merge --cow cow.made --base old
            cmp old new
            """);
        Assert.True(result.ExitCode == 0, result.ToString());
    }

    [Fact]
    public void Create_refuses_a_damaged_sparse_image_and_leaves_no_output()
    {
        byte[] sparse = SparseImages.Of(Golden.New), wrong = (byte[])sparse.Clone();
        wrong[5000] ^= 1;
        foreach ((byte[] file, string sentence) in new List<(byte[], string)> { (sparse[..4], "cut off within its header"),
            (sparse[..(sparse.Length / 2)], "cut off within chunk "), (wrong, "the checksum of its first ") })
        {
            Write("sparse", file);
            foreach (string images in (string[])["--source base --target sparse", "--source sparse --target base"])
            {
                RawResult result = _shell.Run($"$P create {images} --output made");
                Assert.True(result.ExitCode == 65, result.ToString());
                Assert.StartsWith("snapuserd: sparse is a damaged Android sparse image: ", result.Error);
                Assert.Contains(sentence, result.Error);
                Assert.False(File.Exists(_shell["made"]) || File.Exists(_shell["made.part"]));
            }
        }
    }

    private static string Words(string words, string cow, string @base, string source) =>
        words.Replace("COW", cow, StringComparison.Ordinal).Replace("BASE", @base, StringComparison.Ordinal)
            .Replace("SOURCE", source, StringComparison.Ordinal);

    private void Refused(string words, string path = "sparse")
    {
        RawResult result = _shell.Run($"$P {words}");
        Assert.True(result.ExitCode == 65, $"{words}: {result}");
        Assert.Equal("", result.Output);
        Assert.StartsWith($"snapuserd: {path} holds an Android sparse image, not a raw one: ", result.Error);
        Assert.Contains("simg2img", result.Error);
    }

    private void Write(string name, byte[] bytes) => File.WriteAllBytes(_shell[name], bytes);
}
