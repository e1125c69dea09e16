using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Text.RegularExpressions;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// Every verb on a file system that lacks an operation or returns wrong results. Either the verb works and its result is right, or it ends
/// with a documented exit code and a message. In both cases no data is lost.
/// </summary>
public sealed class LackingFileSystemTests(ITestOutputHelper output)
{
    private const int EPERM = 1, EINTR = 4, EIO = 5, EBADF = 9, EAGAIN = 11, EACCES = 13, EINVAL = 22, EFBIG = 27, ENOSPC = 28, EROFS = 30,
        ENOLCK = 37, ENOSYS = 38, EOPNOTSUPP = 95, EDQUOT = 122;

    /// <summary>The documented exit codes.</summary>
    private static readonly int[] s_codes = [0, 64, 65, 66, 69, 70, 71, 73, 74, 75, 76, 77];

    private static readonly string[] s_verbs = ["create", "extract", "verify", "inspect", "merge", "merge-sync", "serve"];

    /// <summary>Rules with which every verb must still work.</summary>
    private static readonly string[] s_workable =
    [
        .. Rows("fsyncdir", EINVAL, EBADF, ENOSYS, EOPNOTSUPP, EPERM, EACCES, EROFS), .. Rows("opendir", EACCES, EPERM),
        .. Rows("fallocate", EOPNOTSUPP, ENOSYS, EPERM, EINVAL), .. Rows("lseek", EINVAL, ENOSYS, EIO, 6),
        "lseek=hole", "lseek=data", "lseek=first", "lseek=beyond", "lseek=turn",
        .. Rows("direct", EINVAL, EOPNOTSUPP), .. Rows("chown", EPERM, ENOSYS, EOPNOTSUPP, EINVAL),
        .. Rows("chmod", EPERM, ENOSYS, EOPNOTSUPP),
        .. Rows("statfs", ENOSYS, EIO, EPERM), "statfs=none", "statfs=full", "stat=dense",
        "read=short", "read=odd", "write=short", "write=odd",
        .. Rows("read", EINTR).Select(row => row + "@3"), .. Rows("write", EINTR).Select(row => row + "@3"),
        .. Rows("read", EAGAIN).Select(row => row + "@3"), .. Rows("write", EAGAIN).Select(row => row + "@3"),
    ];

    /// <summary>Rules with which a verb may fail.</summary>
    private static readonly string[] s_failing =
    [
        .. Rows("fsyncdir", EIO, ENOSPC, EDQUOT, EINTR), .. Rows("opendir", EIO), .. Rows("fsync", EIO, EINVAL, ENOSPC), $"fsync={EIO}@2",
        .. Rows("fallocate", ENOSPC, EDQUOT, EIO, EFBIG, EINTR), .. Rows("ftruncate", ENOSYS, EOPNOTSUPP, EPERM, EIO, ENOSPC),
        .. Rows("rename", EINVAL, EIO, ENOSPC, EROFS, EPERM), .. Rows("unlink", EPERM, EROFS),
        .. Rows("create", EROFS, ENOSPC, EACCES, EDQUOT),
        .. Rows("open", EIO, EACCES, ENOSYS), .. Rows("stat", EIO, EACCES), .. Rows("chown", EIO), .. Rows("chmod", EIO),
        .. Rows("read", EIO, EINVAL, EAGAIN, EACCES), $"read={EIO}@7", .. Rows("write", EIO, ENOSPC, EDQUOT, EFBIG, EAGAIN, EPERM),
        $"write={ENOSPC}@4", $"write={ENOSPC}+9", $"write={EDQUOT}+5", $"write={EIO}@12",
    ];

    private static IEnumerable<string> Rows(string operation, params int[] errnos) => errnos.Select(errno => $"{operation}={errno}");

    public static TheoryData<string> Verbs => [.. s_verbs];

    /// <summary>The <paramref name="rules"/> for calls that the verb may make.</summary>
    private static IEnumerable<string> For(string verb, string[] rules)
    {
        bool writes = verb is "create" or "extract", merges = verb is "merge" or "merge-sync";
        // The kernel's workers repeat a ring request while the answer is EAGAIN; a permanent EAGAIN is therefore tested with synchronous
        // calls only.
        bool ring = verb is "merge" or "extract" or "verify" or "serve";
        return rules.Where(rule => rule.Split('=')[0] switch
        {
            "read" when ring && rule == $"read={EAGAIN}" => false,
            // FUSE itself answers a short write of a ring with EIO.
            "write" when verb == "merge" && rule is "write=short" or "write=odd" => false,
            "write" when ring && rule == $"write={EAGAIN}" => false,
            "fallocate" or "statfs" => merges,
            "lseek" => merges || verb == "create",
            "fsync" => merges || writes,
            "write" => merges || writes,
            "read" or "direct" or "stat" or "open" => true,
            _ => writes,
        });
    }

    [RootTheory]
    [MemberData(nameof(Verbs))]
    public void Each_verb_works_without_optional_operations_and_with_wrong_maps(string verb)
    {
        string[] rules = [.. For(verb, s_workable)];
        foreach (string rule in rules)
        {
            using Place place = new(sparse: false);
            BinaryResult result = place.Run(verb, rule);
            Assert.True(result.ExitCode == 0, $"{verb}, {rule}: {result}");
            place.AssertRight(verb, $"{verb}, {rule}");
        }
        output.WriteLine($"{verb}: {rules.Length} rows");
    }

    [RootTheory]
    [MemberData(nameof(Verbs))]
    public void Each_verb_ends_with_a_documented_code_and_a_message_and_loses_nothing_when_an_operation_fails(string verb)
    {
        int failed = 0;
        string[] rules = [.. For(verb, s_failing)];
        foreach (string rule in rules)
        {
            string where = $"{verb}, {rule}";
            using Place place = new(sparse: false);
            BinaryResult result = place.Run(verb, rule);
            Assert.True(s_codes.Contains(result.ExitCode), $"{where}: {result}");
            if (result.ExitCode == 0)
            {
                place.AssertRight(verb, where);
                continue;
            }
            failed++;
            Assert.True(Regex.IsMatch(result.Error, "^(snapuserd: [^\\n]+\\n)+$"), $"{where}: {result}");
            place.AssertNothingLost(verb, where);
            BinaryResult again = place.Run(verb, "");
            Assert.True(again.ExitCode == 0, $"{where}, and again without it: {again}");
            place.AssertRight(verb, where);
        }
        output.WriteLine($"{verb}: {rules.Length} rows, {failed} of them failed");
        Assert.True(failed > 2, $"{verb}: only {failed} rows failed; the file system does not apply its rules");
    }

    [RootTheory]
    [MemberData(nameof(Verbs))]
    public void Without_locks_readers_continue_and_writers_name_the_file_system_and_require_an_option(string verb)
    {
        bool writes = verb is "create" or "extract" or "merge" or "merge-sync";
        // ENOSYS is left out: on that answer FUSE handles locks itself, and only its own host sees them.
        foreach (int errno in (int[])[ENOLCK, EOPNOTSUPP, EPERM])
        {
            using Place place = new(sparse: false);
            BinaryResult result = place.Run(verb, $"flock={errno}");
            Assert.True(result.ExitCode == (writes ? 69 : 0), $"{verb}, {errno}: {result}");
            if (verb is not "inspect" and not "serve") Assert.Contains("fuse has no locks (flock: ", result.Error);
            if (!writes)
            {
                place.AssertRight(verb, $"{verb}, {errno}");
                continue;
            }
            Assert.Contains("--no-lock", result.Error);
            place.AssertUntouched();
            BinaryResult told = place.Run(verb, $"flock={errno}", "--no-lock");
            Assert.True(told.ExitCode == 0, $"{verb}, {errno}: {told}");
            place.AssertRight(verb, $"{verb}, {errno}, --no-lock");
        }
    }

    [RootTheory]
    [InlineData("create")]
    [InlineData("extract")]
    public void Output_whose_folder_cannot_be_flushed_is_written_with_a_warning(string verb)
    {
        using Place place = new(sparse: false);
        foreach (int errno in (int[])[EINVAL, EBADF, EOPNOTSUPP, EPERM])
        {
            BinaryResult result = place.Run(verb, $"fsyncdir={errno}");
            Assert.True(result.ExitCode == 0, result.ToString());
            Assert.Matches("^snapuserd: [^\\n]* is written and in place, but its folder cannot be flushed: [^\\n]*\\(E[A-Z]+\\)[^\\n]*\\n$",
                result.Error);
            place.AssertRight(verb, $"{verb}, errno {errno}");
        }
        BinaryResult real = place.Run(verb, $"fsyncdir={EIO}");
        Assert.True(real.ExitCode is 73 or 74, real.ToString());
        Assert.Contains("EIO", real.Error);
    }

    [RootTheory]
    [InlineData("lseek=hole", false)]
    [InlineData("lseek=hole", true)]
    [InlineData("lseek=beyond", false)]
    [InlineData("lseek=beyond", true)]
    [InlineData("lseek=6", true)]
    [InlineData("lseek=turn", true)]
    [InlineData("lseek=first", true)]
    public void Create_with_and_without_check_reads_data_that_a_map_calls_a_hole(string rule, bool noCheck)
    {
        using Place place = new(sparse: true);
        BinaryResult result = place.Run("create", rule, noCheck ? ["--no-check"] : []);
        Assert.True(result.ExitCode == 0, result.ToString());
        place.AssertRight("create", rule);
    }

    [RootTheory]
    [InlineData(ENOSPC)]
    [InlineData(EDQUOT)]
    [InlineData(EIO)]
    public void Merge_does_not_begin_when_holes_of_its_base_cannot_be_reserved(int errno)
    {
        using Place place = new(sparse: true);
        BinaryResult result = place.Run("merge", $"fallocate={errno}");
        Assert.True(result.ExitCode == 74, result.ToString());
        Assert.Matches("^snapuserd: [^\\n]*nothing was written[^\\n]*\\n$", result.Error);
        place.AssertUntouched();
        Assert.Equal(0, place.Run("merge", "").ExitCode);
        place.AssertRight("merge", "with room");
    }

    [RootTheory]
    [InlineData($"fallocate=95", "EOPNOTSUPP")]
    [InlineData($"fallocate=1", "EPERM")]
    public void Merge_into_holes_continues_with_a_warning_where_nothing_can_be_reserved(string rule, string name)
    {
        using Place place = new(sparse: true);
        BinaryResult result = place.Run("merge", rule);
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Matches($"^snapuserd: [^\\n]*cannot be reserved: [^\\n]*{name}[^\\n]*\\n$", result.Error);
        place.AssertRight("merge", rule);
    }

    [RootFact]
    public void Merge_into_holes_does_not_begin_where_nothing_can_be_reserved_and_nothing_is_free()
    {
        using Place place = new(sparse: true);
        BinaryResult result = place.Run("merge", "fallocate=95 statfs=full");
        Assert.True(result.ExitCode == 74, result.ToString());
        Assert.Matches("^snapuserd: [^\\n]*takes at least [0-9]+ bytes more[^\\n]*\\(0 free\\): [^\\n]*ENOSPC[^\\n]*\\n$", result.Error);
        place.AssertUntouched();
    }

    /// <summary>A COW with its base, and the outputs of each verb, on a file system that lacks something.</summary>
    private sealed class Place : IDisposable
    {
        // Waits until the view is served, then reads all of it.
        private const string Serve = """
            mkfifo "$1.ready" || exit 99
            "$0" serve --cow "$2" --base "$3" --device nbd --socket "$1.nbd" --progress never >"$1.ready" &
            read -r line <"$1.ready"
            if [ -n "$line" ]; then nbdcopy "nbd+unix:///?socket=$1.nbd" "$1.read" 2>/dev/null || read=74; kill $!; fi
            wait $!
            code=$?
            rm -f "$1.ready"
            [ "$code" -ne 0 ] || exit ${read:-0}
            exit $code
            """;

        private static readonly Lazy<(byte[] Old, byte[] New, byte[] Cow)> s_case = new(Make);

        private readonly LackingFileSystem _place = new();
        private readonly TempFolder _folder = new();
        private readonly byte[] _old, _new, _cow;
        private readonly byte[] _before = [1, 2, 3];

        /// <param name="sparse">The base has holes, where the merge writes random bytes.</param>
        public Place(bool sparse)
        {
            (_old, _new, _cow) = s_case.Value;
            Write("base", _old, sparse);
            Write("new", _new, sparse);
            File.WriteAllBytes(_place["cow"], _cow);
            File.WriteAllBytes(_place["out"], _before);
            // The owner differs from that of the test, so that the program has to set it.
            File.SetUnixFileMode(_place["out"], UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.OtherRead);
            LoopDevice.Call("chown", "7:7", _place["out"]);
        }

        public BinaryResult Run(string verb, string rule, params string[] more)
        {
            (string cow, string old, string image, string result) =
                (_place.Inside("cow"), _place.Inside("base"), _place.Inside("new"), _place.Inside("out"));
            string[] command = verb switch
            {
                "create" => ["create", "--source", old, "--target", image, "--output", result, "--progress", "never", .. more],
                "extract" => ["extract", "--cow", cow, "--base", old, "--output", result, "--progress", "never", .. more],
                "verify" => ["verify", "--cow", cow, "--base", old, "--progress", "never"],
                "inspect" => ["inspect", cow],
                "merge" => ["merge", "--cow", cow, "--base", old, "--progress", "never", .. more],
                _ => ["merge", "--cow", cow, "--base", old, "--io", "sync", "--progress", "never", .. more],
            };
            return verb == "serve" ? _place.Run(rule, "/bin/sh", "-c", Serve, Binary.Path, _folder["served"], cow, old) : _place.Run(rule,
                [Binary.Path, .. command]);
        }

        public void AssertRight(string verb, string where)
        {
            if (verb is "merge" or "merge-sync") Same(_new, _place["base"], where);
            else Same(_old, _place["base"], where);
            if (verb == "extract") Same(_new, _place["out"], where);
            if (verb == "serve") Same(_new, _folder["served.read"], where);
            if (verb != "create") return;
            string made = _folder["made"];
            BinaryResult extracted = Binary.Run("extract", "--cow", _place["out"], "--base", _place["base"], "--output", made,
                "--progress", "never");
            Assert.True(extracted.ExitCode == 0, $"{where}: {extracted}");
            Same(_new, made, where);
        }

        /// <summary>The output is the old one or complete; the inputs are unchanged; a merge can continue.</summary>
        public void AssertNothingLost(string verb, string where)
        {
            Same(_new, _place["new"], where);
            if (verb is "merge" or "merge-sync") return;
            Same(_old, _place["base"], where);
            Same(_cow, _place["cow"], where);
            if (verb is "create" or "extract" && !File.ReadAllBytes(_place["out"]).AsSpan().SequenceEqual(_before))
                AssertRight(verb, where);
        }

        public void AssertUntouched()
        {
            Same(_old, _place["base"], "the base has changed");
            Same(_cow, _place["cow"], "the COW has changed");
        }

        public void Dispose()
        {
            _place.Dispose();
            _folder.Dispose();
        }

        private static void Same(byte[] expected, string path, string where) =>
            Assert.True(expected.AsSpan().SequenceEqual(File.ReadAllBytes(path)),
                $"{where}: {Path.GetFileName(path)} has the wrong content");

        /// <summary>Copies that go through scratch, and Replaces into holes of a sparse base.</summary>
        private static (byte[] Old, byte[] New, byte[] Cow) Make()
        {
            const int blocks = 512;
            Random random = new(5);
            byte[] old = new byte[blocks * CowOp.BlockSize], unit = new byte[CowOp.BlockSize];
            random.NextBytes(old.AsSpan(0, 64 * CowOp.BlockSize));
            CowBuilder cow = new();
            for (uint i = 0; i < 32; i++) cow.Copy(i, i + 1);
            for (uint i = 256; i < 320; i++)
            {
                random.NextBytes(unit);
                cow.Replace(i, unit);
            }
            return (old, NaiveMerger.Merge(cow, old), cow.Build());
        }

        private void Write(string name, byte[] bytes, bool sparse)
        {
            using FileStream file = File.Create(_place[name]);
            for (int at = 0; at < bytes.Length; at += CowOp.BlockSize)
            {
                ReadOnlySpan<byte> block = bytes.AsSpan(at, Math.Min(CowOp.BlockSize, bytes.Length - at));
                if (sparse && !block.ContainsAnyExcept((byte)0)) continue;
                file.Position = at;
                file.Write(block);
            }
            file.SetLength(bytes.Length);
        }
    }
}
