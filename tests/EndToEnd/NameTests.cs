using System;
using System.IO;
using System.Linq;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// File names, arguments and environment variables with arbitrary bytes: from the command line of the built binary to the file system and
/// back into its output. Each character of a string here is one byte (Latin-1).
/// </summary>
public sealed class NameTests : IDisposable
{
    private const string Vector = "v3-zstd-256k-xor";
    private readonly RawShell _shell = new();

    public NameTests()
    {
        File.WriteAllBytes(_shell["cow"], Golden.Cow(Vector));
        File.WriteAllBytes(_shell["base"], Golden.Old);
        File.WriteAllBytes(_shell["new"], Golden.New);
    }

    public void Dispose() => _shell.Dispose();

    /// <summary>Selected by number, because a test's own name cannot contain such bytes.</summary>
    private static readonly string[] s_names =
    [
        "caf\u00e9",
        string.Concat(Enumerable.Range(0x80, 128).Select(b => (char)b)),
        "a\nb", "ends\n", "\n", "\u001b[2Jx\u0007", "\u0085\u009b2J",
        // An encoded surrogate, a truncated character, an overlong slash, and the replacement character of other programs for invalid
        // UTF-8.
        "\u00ed\u00b2\u0080", "\u00e2\u0082", "\u00c0\u00af", "\u00fe\u00ff", "\u00ef\u00bf\u00bd",
        "back\\slash\\xff", " ' \" ", "-", "--help", "=", "\t", "\u007f",
        new string('\u00e9', 255), new string('n', 255), string.Concat(Enumerable.Repeat("\u00c3\u00a4", 127)) + "\u00c3",
        new string('n', 250) + ".part",
    ];

    public static TheoryData<int> Numbers => [.. Enumerable.Range(0, s_names.Length)];

    [Theory]
    [MemberData(nameof(Numbers))]
    public void Every_verb_opens_a_file_of_any_name(int number)
    {
        string name = RawShell.Quote(s_names[number]);
        Done(_shell.Run($"mkdir c b s n o; cp cow c/{name}; cp base b/{name}; cp base s/{name}; cp new n/{name}"));
        string hash = Convert.ToHexStringLower(SHA256.HashData(Golden.New));
        Done(_shell.Run($"$P inspect c/{name} && $P inspect --cow=c/{name} --json"));
        Done(_shell.Run($"$P verify --cow c/{name} --base b/{name} --source s/{name} --source-separate --sha256 {hash}"));
        Done(_shell.Run($"$P extract --cow c/{name} --base=b/{name} --output o/{name} && cmp o/{name} new"));
        Assert.Equal([s_names[number]], _shell.Names("o"));
        Done(_shell.Run($"$P extract --cow c/{name} --base b/{name} --output - | cmp - new"));
        Done(_shell.Run($"rm o/{name}; $P create --source b/{name} --target n/{name} --output o/{name} && $P verify --cow o/{name} --base "
            + $"b/{name} --sha256 {hash}"));
        Assert.Equal([s_names[number]], _shell.Names("o"));
        Done(_shell.Run(
            $"$P merge --cow c/{name} --base b/{name} --source b/{name} && cmp b/{name} new && $P merge --cow c/{name} --base b/{name}"));
        foreach (string folder in (string[])["c", "b", "s", "n"]) Assert.Equal([s_names[number]], _shell.Names(folder));
    }

    [Theory]
    [MemberData(nameof(Numbers))]
    public void Name_without_a_folder_is_a_file_in_the_working_folder(int number)
    {
        string name = RawShell.Quote(s_names[number].StartsWith('-') ? "./" + s_names[number] : s_names[number]);
        Done(_shell.Run($"mkdir d; cp cow d/{name}; cd d; $P inspect {name} && $P inspect --cow {name} && $P inspect -- {name}"));
        Assert.Equal([s_names[number]], _shell.Names("d"));
    }

    [Fact]
    public void Extract_does_not_change_a_file_whose_name_has_a_replacement_character_for_the_byte()
    {
        Done(_shell.Run("mkdir o; echo precious >'o/x\u00ef\u00bf\u00bd'; echo precious >'o/x?'"));
        Done(_shell.Run("$P extract --cow cow --base base --output 'o/x\u00ff' && cmp 'o/x\u00ff' new && cat "
            + "'o/x\u00ef\u00bf\u00bd' 'o/x?'"), "precious\nprecious\n");
        Assert.Equal(["x?", "x\u00ef\u00bf\u00bd", "x\u00ff"], _shell.Names("o"));
    }

    [Fact]
    public void A_link_whose_target_is_not_utf8_is_followed_to_that_target()
    {
        Done(_shell.Run("mkdir o; echo old >'o/image\u00ff'; ln -s 'image\u00ff' o/link; ln -s 'new\u00fe' o/create"));
        Done(_shell.Run("$P extract --cow cow --base base --output o/link && cmp 'o/image\u00ff' new"));
        Done(_shell.Run("$P create --source base --target new --output o/create && test -L o/create && test -f 'o/new\u00fe'"));
        Assert.Equal(["create", "image\u00ff", "link", "new\u00fe"], _shell.Names("o"));
    }

    [Fact]
    public void Failed_extract_removes_its_temporary_file_of_any_name()
    {
        Done(_shell.Run("mkdir o; printf 'x' | dd of=cow bs=1 seek=$(($(stat -c %s cow) - 100)) conv=notrunc 2>&1"));
        Assert.Equal(65, _shell.Run("$P extract --cow cow --base base --output 'o/x\u00ff'").ExitCode);
        Assert.Empty(_shell.Names("o"));
    }

    [Fact]
    public void Messages_contain_the_bytes_of_a_name_and_no_name_forges_a_second_record()
    {
        RawResult raw = _shell.Run("$P inspect 'no\u00ff\u00e9\u00c3\u00a4'");
        Assert.Equal((66, "snapuserd: cannot open no\u00ff\u00e9\u00c3\u00a4: no such file or directory (ENOENT)\n"),
            (raw.ExitCode, raw.Error));
        RawResult forged = _shell.Run("$P inspect 'no\nsnapuserd: forged\u001b[2J\r\u00c2\u009b'");
        Assert.Equal("snapuserd: cannot open no\\x0asnapuserd: forged\\x1b[2J\\x0d\\xc2\\x9b: no such file or directory (ENOENT)\n",
            forged.Error);
        RawResult done = _shell.Run("$P extract --cow cow --base base --output 'x\u00ff'");
        Assert.EndsWith("to x\u00ff\n", done.Output);
        RawResult unknown =
            _shell.Run("$P merge --cow c --base b '--n\u00ff=\u00fe'; $P 'verb\u00ff'; $P inspect a 'b\u00ff'; $P merge --io 'u\u00ff'");
        Assert.Contains("unknown option '--n\u00ff'", unknown.Error);
        Assert.Contains("unknown verb 'verb\u00ff'", unknown.Error);
        Assert.Contains("unexpected argument 'b\u00ff'", unknown.Error);
        Assert.Contains("'u\u00ff' is not one of auto, uring, sync", unknown.Error);
    }

    [Fact]
    public void Names_print_no_control_characters_on_a_terminal()
    {
        // script(1) gives the program a terminal for all three streams.
        string name = "no\u00ff\u009b2J\n\u001b]0;title\u0007\u00c3\u00a4\u00c2\u0085";
        RawResult error = _shell.Run($"printf %s {RawShell.Quote(name)} >name; SHELL=/bin/sh script -qec \"'$P' inspect \\\"\\$(cat "
            + "name)\\\"\" /dev/null </dev/null");
        Assert.Contains("cannot open no\\xff\\x9b2J\\x0a\\x1b]0;title\\x07\u00c3\u00a4\\xc2\\x85: ", error.Output);
        RawResult result = _shell.Run("SHELL=/bin/sh script -qec \"'$P' extract --cow cow --base base --progress never --output "
            + "\\\"\\$(cat name)\\\"\" /dev/null </dev/null");
        Assert.Contains("to no\\xff\\x9b2J\\x0a\\x1b]0;title\\x07\u00c3\u00a4\\xc2\\x85\r\n", result.Output);
        // The program's own line breaks remain.
        Assert.Contains("\r\n\r\n", _shell.Run("SHELL=/bin/sh script -qec \"'$P' --help\" /dev/null </dev/null").Output);
    }

    [Theory]
    [MemberData(nameof(Numbers))]
    public void Json_is_valid_utf8_and_preserves_the_bytes_of_a_name(int number)
    {
        string path = "d/" + s_names[number];
        Done(_shell.Run("mkdir d"));
        RawResult result = _shell.Run($"$P extract --cow cow --base base --json --progress never --output {RawShell.Quote(path)}");
        Assert.Equal(0, result.ExitCode);
        Assert.Equal(path, Unescaped(Parsed(result.Output).GetProperty("output").GetString()!));
        RawResult error = _shell.Run($"rm {RawShell.Quote(path)}; $P inspect --json {RawShell.Quote(path)}");
        Assert.Equal($"cannot open {path}: no such file or directory (ENOENT)",
            Unescaped(Parsed(error.Output).GetProperty("message").GetString()!));
        RawResult log = _shell.Run($"$P merge --log json --cow {RawShell.Quote(path)} --base base");
        Assert.Equal($"cannot open {path}: no such file or directory (ENOENT)",
            Unescaped(Parsed(log.Error).GetProperty("message").GetString()!));
    }

    [Fact]
    public void Server_and_ctl_work_with_sockets_and_files_of_any_name()
    {
        Done(_shell.Run("""
            mkdir c b; cp cow 'c/COW'; cp base 'b/BASE'
            mkfifo ready notify.fifo
            $P serve --cow 'c/COW' --base 'b/BASE' --device nbd --socket 'S' --control 'C' --merge-on-request --ready-fd 3 3>ready >out \
                2>err &
            read -r line <ready
            printf '%s\n' "$line" >line
            $P ctl --socket 'C' status --json >json
            $P ctl --socket 'C' status >text
            $P ctl --socket 'C' pause 'COW'
            $P ctl --socket 'C' stop 'COW'
            wait $!
            """.Replace("COW", "co\nw\u00ff\\", StringComparison.Ordinal).Replace("BASE", "ba\u001bse\u00fe", StringComparison.Ordinal)
            .Replace("'S'", "'so\u00ff'", StringComparison.Ordinal).Replace("'C'", "'ct\u00fe\u00ff'", StringComparison.Ordinal)));
        JsonElement status = Parsed(_shell.Run("cat json").Output);
        Assert.Equal("co\nw\u00ff\\", Unescaped(status.GetProperty("name").GetString()!));
        Assert.Equal("c/co\nw\u00ff\\", Unescaped(status.GetProperty("cow").GetString()!));
        Assert.Equal("b/ba\u001bse\u00fe", Unescaped(status.GetProperty("base").GetString()!));
        string text = _shell.Run("cat text").Output;
        Assert.StartsWith("co\\x0aw\u00ff\\: serving", text);
        Assert.Contains("; cow c/co\\x0aw\u00ff\\, base b/ba\\x1bse\u00fe", text);
        Assert.Single(text.TrimEnd('\n').Split('\n'));
        Assert.Contains("so\u00ff", _shell.Run("cat line").Output);
        Assert.Contains("so\u00ff", _shell.Run("cat out").Output);
    }

    [Fact]
    public void Boot_accepts_names_of_any_bytes_in_the_table_and_the_kernel_command_line()
    {
        Done(_shell.Run("""
            mkdir 'd'; cp cow 'd/cow'; cp base 'd/base'
            printf '%s\n' "one \"$PWD/d/cow\" $PWD/d/base" >table
            printf '%s\n' "quiet snapuserd.wait=0 \"snapuserd.row=two,PARTLABEL=my \u00ffcow,LABEL=/my root\" -- x" >cmdline
            $P boot --table table --cmdline cmdline --control-folder 'ctl' --dry-run --json >json
            true
            """.Replace("'d", "'d\u00ff", StringComparison.Ordinal).Replace("/d/", "/d\u00ff/", StringComparison.Ordinal)
            .Replace("'ctl'", "'ctl\u00fe'", StringComparison.Ordinal)));
        string[] rows =
        [
            .. _shell.Run("cat json").Output.TrimEnd('\n').Split('\n')
                .Select(line => Unescaped(Parsed(line).GetProperty("message").GetString()!)),
        ];
        Assert.True(rows.Length == 2, string.Join('\n', rows));
        Assert.Contains("/d\u00ff/cow", rows[0]);
        Assert.Contains("/dev/disk/by-label/\\x2fmy\\x20root", rows[1]);
    }

    [Fact]
    public void A_notification_names_the_device_in_utf8_and_forges_no_line()
    {
        Done(_shell.Run("""
            mkfifo ready
            perl -MSocket -e 'socket(S,AF_UNIX,SOCK_DGRAM,0) or die; bind(S,pack_sockaddr_un("n\xff")) or die; open(R,">bound"); close R;
                while (1) { recv(S,$m,4096,0); print "$m\0"; last if $m =~ /STOPPING/ }' >told &
            listener=$!
            while ! test -e bound && kill -0 $listener; do :; done
            NOTIFY_SOCKET=$(printf 'n\377') $P serve --cow cow --base base --device nbd --socket 'ADDRESS' --control control --ready-fd 3 \
                3>ready >/dev/null 2>&1 &
            server=$!
            read -r line <ready
            $P ctl --socket control stop
            wait $server && wait $listener
            """.Replace("ADDRESS", "s\u00ff\nMAINPID=1", StringComparison.Ordinal)));
        Assert.StartsWith("READY=1\nSTATUS=serving ", _shell.Run("cat told").Output);
        Assert.Contains("s\\xff\\x0aMAINPID=1\0", _shell.Run("cat told").Output);
    }

    [Fact]
    public void Daemon_serves_files_of_any_name()
    {
        Done(_shell.Run("""
            mkdir sockets; cp cow 'COW'; cp base 'BASE'
            $P daemon --socket 'D' --device nbd --socket-folder sockets 2>err &
            while ! test -S 'D' && kill -0 $!; do :; done
            perl -MSocket -e 'sub ask { socket(S,AF_UNIX,SOCK_STREAM,0) or die; connect(S,pack_sockaddr_un($ARGV[0])) or die "connect: $!";
                send(S,$_[0],0); recv(S,$a,512,0); print "$a\n"; close S } ask("init,$ARGV[1],$ARGV[2],$ARGV[3],$ARGV[3]");
                ask("start,$ARGV[1]")' 'D' 'NAME' 'COW' 'BASE' >answers
            $P ctl --socket 'D' list --json >json
            ls sockets >listed
            $P ctl --socket 'D' stop 'NAME' >stopped
            perl -MSocket -e 'socket(S,AF_UNIX,SOCK_STREAM,0); connect(S,pack_sockaddr_un($ARGV[0])); send(S,"detach",0);
                recv(S,$a,512,0)' 'D'
            wait $!
            """.Replace("'D'", "'./d\u00ff'", StringComparison.Ordinal).Replace("NAME", "n\u00fe\n\\x", StringComparison.Ordinal)
            .Replace("COW", "c\u00ed\u00b2\u0080", StringComparison.Ordinal).Replace("BASE", "b\u00ff", StringComparison.Ordinal)));
        Assert.Matches("^success,[0-9]+\nsuccess\n$", _shell.Run("cat answers").Output);
        JsonElement status = Parsed(_shell.Run("cat json").Output);
        Assert.Equal("n\u00fe\n\\x", Unescaped(status.GetProperty("name").GetString()!));
        Assert.Equal("c\u00ed\u00b2\u0080", Unescaped(status.GetProperty("cow").GetString()!));
        Assert.Equal("b\u00ff", Unescaped(status.GetProperty("base").GetString()!));
    }

    [RootFact]
    public void Restart_under_the_name_for_an_initrd_keeps_the_arguments()
    {
        // In a separate mount namespace, with a root that identifies itself as an initrd.
        Done(_shell.Run("""
            mkdir -p root/proc root/etc root/dev; cp "$P" root/snapuserd; : >root/etc/initrd-release
            export P; unshare -m --propagation private sh -c '
                mount --rbind /proc root/proc || exit 1
                chroot root /snapuserd daemon --device nbd --socket "$1" 2>err &
                while ! test -S "root/$1" && kill -0 $!; do :; done
                tr "\0" "|" </proc/$!/cmdline >words
                kill $!; wait $!' sh 'SOCKET'
            """.Replace("SOCKET", "./d\u00ff\n\u00fe", StringComparison.Ordinal)));
        Assert.Equal("@snapuserd|daemon|--device|nbd|--socket|./d\u00ff\n\u00fe|", _shell.Run("cat words").Output);
    }

    [Fact]
    public void An_empty_name_is_64_with_every_option()
    {
        foreach (string arguments in (string[])["inspect ''", "inspect --cow ''", "inspect --cow=", "verify --cow ''",
            "merge --cow c --base ''", "extract --cow cow --base base --output ''", "extract --cow cow --base base --output=",
            "create --source '' --target new --output x", "create --source base --target '' --output x",
            "create --source base --target new --output ''", "serve --cow cow --base base --device nbd --socket ''", "ctl list --socket ''",
            "boot --table ''"])
        {
            RawResult result = _shell.Run($"$P {arguments}");
            Assert.True(result.ExitCode == 64, $"{arguments}: {result}");
        }
    }

    private static void Done(RawResult result, string? output = null)
    {
        Assert.True(result.ExitCode == 0, result.ToString());
        if (output != null) Assert.Equal(output, result.Output[^output.Length..]);
    }

    /// <summary>Parses one JSON object from bytes that are valid UTF-8.</summary>
    private static JsonElement Parsed(string latin)
    {
        string line = Assert.Single(latin.TrimEnd('\n').Split('\n'));
        return JsonDocument.Parse(new UTF8Encoding(false, throwOnInvalidBytes: true).GetString(Encoding.Latin1.GetBytes(line))).RootElement;
    }

    /// <summary>The bytes that a JSON string encodes, by the rules of the man page.</summary>
    private static string Unescaped(string text) =>
        Regex.Replace(Encoding.Latin1.GetString(Encoding.UTF8.GetBytes(text)), @"\\x([0-9a-f]{2})",
            escape => ((char)Convert.ToByte(escape.Groups[1].Value, 16)).ToString());
}
