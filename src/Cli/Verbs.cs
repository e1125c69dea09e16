using System.Text;
using Snapuserd.Boot;
using Snapuserd.Control;
using Snapuserd.Interop;
using Snapuserd.Merge;

namespace Snapuserd.Cli;

/// <summary>The command line: all verbs and options (design §7).</summary>
internal static class Verbs
{
    /// <summary>
    /// Default of `--memory`, and its bounds. With less than 8 MiB the largest units and a journal window leave too little memory to work;
    /// offsets in the arena have 32 bits.
    /// </summary>
    internal const long DefaultMemory = DeviceOptions.DefaultArenaBytes;
    private const long SmallestMemory = 8L << 20;
    private const long LargestMemory = 1L << 30;

    private static readonly Option s_cow =
        new("--cow", OptionKind.Text, "FILE", "The COW file, of format 1 to 3.") { Required = true, DashIs = Option.StandardInput };
    private static readonly Option s_base = new("--base", OptionKind.Text, "DEV",
        "The device or image file that the COW belongs to; a raw image, not an Android sparse one.")
    { DashIs = Option.StandardInput };
    private static readonly Option s_source = new("--source", OptionKind.Text, "DEV",
        "Where copied and xored blocks are read from; the base, unless it is given. It may share storage with the base; if no order of "
        + "writes is safe then, merging ends with 64, and reading works.")
    { DashIs = Option.StandardInput };
    private static readonly Option s_separate = new("--source-separate", OptionKind.Flag, "", "The source shares no block with the base, "
        + "so it is never overwritten. A merge that was begun with it goes on only with it and the same --source: the COW cannot tell.")
    {
        Needs = "--source",
    };
    private static readonly Option s_io = new("--io", OptionKind.Choice, "auto|uring|sync", "How devices are read and written: auto takes "
        + "io_uring and falls back to plain system calls, saying so in one line whatever --progress is; uring fails instead (69, or 71 for "
        + "want of memory or descriptors).")
    { Choices = ["auto", "uring", "sync"] };
    private static readonly Option s_depth = new("--queue-depth", OptionKind.Count, "N",
        "Requests in flight at once, 1 to 1024; 32 unless given.")
    { Minimum = 1, Maximum = 1024 };
    private static readonly Option s_memory = new("--memory", OptionKind.Size, "SIZE", "Memory for buffers, 8M to 1G; 32M unless given. "
        + "The process needs about 5 MB and 36 bytes per op beside it.")
    { Minimum = SmallestMemory, Maximum = LargestMemory };
    private static readonly Option s_threads = new("--threads", OptionKind.Count, "N",
        "Threads to decompress with, 1 to 64; one per processor, but no more than 16, unless given.")
    { Minimum = 1, Maximum = 64 };
    private static readonly Option s_noLock = new("--no-lock", OptionKind.Flag, "", "Go on where a file system has no locks (flock), which "
        + "is 69 otherwise: nothing then keeps other programs from the files. A lock that another holds is 76 all the same.");
    private static readonly Option s_json = new("--json", OptionKind.Flag, "", "Print one JSON object per line on standard output.");
    private static readonly Option s_progress = new("--progress", OptionKind.Choice, "auto|never|plain",
        "auto draws a bar on a terminal and prints a line now and then elsewhere; plain prints lines (JSON objects with --json), the first "
        + "at once and one at the end; never prints none.")
    { Choices = ["auto", "never", "plain"] };

    internal static readonly Verb[] All =
    [
        new("merge", "Merges a COW into its base. Interrupted at any moment, by a signal, a crash or a power cut, the same command goes on "
            + "where it stopped.", [],
        [
            s_cow with { Help = "The COW file, of format 2 or 3." }, s_base with { Required = true }, s_source, s_separate, s_io, s_depth,
            s_memory, s_threads,
            new("--no-verify-first", OptionKind.Flag, "", "Do not decode every payload before the first write. A payload that turns out to "
                + "be damaged then stops a merge half-way, and the base can neither go on nor back."),
            new("--rate", OptionKind.Size, "SIZE", "Write at most SIZE bytes per second to the base, over a second or more, as `ctl rate` "
                + "has it for a server; no limit unless given.") { Minimum = 1 },
            new("--allow-unsafe", OptionKind.Flag, "", "Merge even where a COW without scratch space makes a crash unrecoverable; a crash "
                + "at such a block loses the base, and the next run says so. Without it such a COW is refused (64)."),
            s_noLock, LogForms.Option, s_json, s_progress,
        ],
        "SIGTERM, SIGINT and SIGHUP stop at the next checkpoint with exit code 75; one that was ignored when the program started (SIGINT "
        + "in the background jobs of sh, SIGHUP under nohup) stays ignored. "
        + "The COW and the base are checked completely before the first write, unless --no-verify-first was given. Then the holes that it "
        + "will fill are reserved, in files and in the files below loop devices; "
        + "without room for them it ends with 74, says how many bytes are missing, and has written nothing. Space that nothing can reserve "
        + "(files that share extents, compressed file systems, thin volumes) may still run out in the middle: make room, and the same "
        + "command goes on. If another process holds or locks a device, the command waits 2 seconds for it, then ends with 76.",
        MergeVerb.Run),

        new("serve",
            "Shows the merged image as a block device before a byte of it is merged, and while it is merged, until it is told to stop.", [],
        [
            s_cow with { Help = "The COW file, of format 2 or 3." }, s_base with { Required = true }, s_source, s_separate,
            new("--device", OptionKind.Choice, "auto|ublk|nbd|dm-user", "What to serve it as: /dev/ublkbN (kernels from 6.5 on), "
                + "/dev/nbdN, or Android's dm-user; auto takes ublk, and nbd where the "
                + "kernel has no ublk.") { Choices = ["auto", "ublk", "nbd", "dm-user"] },
            new("--name", OptionKind.Text, "NAME", "Which one: ublkb3, nbd3, or the name of the dm-user device, which has no default. The "
                + "next free one unless given. With --socket, the name of the export, which has none unless given."),
            new("--socket", OptionKind.Text, "PATH", "Serve NBD on this Unix socket to programs (nbdcopy, qemu, fio), not to the kernel; "
                + "only with --device nbd. Up to 2048 clients at a time, as far as RLIMIT_NOFILE allows. An idle client is never dropped; "
                + "one that does not finish the handshake, or takes nothing of its answers, is dropped after 30 seconds."),
            new("--queues", OptionKind.Count, "N", "Queues of a ublk device, each with a thread that reads and decodes, 1 to 16 and at "
                + "most one per processor; 1 unless given. A device that is taken over keeps its own.") { Minimum = 1, Maximum = 16 },
            new("--mapper", OptionKind.Text, "NAME", "Have /dev/mapper/NAME stand over the device. When all is merged it stands on the "
                + "base instead, also while it is mounted; the device is removed then, and the server ends with 0."),
            new("--merge", OptionKind.Flag, "", "Merge meanwhile, as `merge` does."),
            new("--merge-on-request", OptionKind.Flag, "", "Merge when `ctl merge` asks for it.") { Needs = "--control" },
            new("--control", OptionKind.Text, "PATH", "Listen on this Unix socket for `ctl`."),
            new("--as", OptionKind.Text, "NAME", "What `ctl` calls this server; 76 if another one with its socket in the same folder has "
                + "that name. Unless given: --mapper's or --name's NAME or the file name of the COW, with .2, .3 … after it if that is "
                + "taken. It is the second line on standard output.") { Needs = "--control" },
            new("--no-verify-first", OptionKind.Flag, "", "Do not decode every payload before the first write, as `merge` would."),
            s_io with { Help = "How the merge reads and writes, as `merge` takes it." }, s_depth, s_memory, s_threads,
            new("--ready-fd", OptionKind.Count, "N", "Write the device's path to descriptor N when it is usable, and close it.")
            {
                Minimum = 0,
                Maximum = 1 << 20,
            },
            new("--supervise", OptionKind.Flag, "", "Start the server as a child, and again whenever it was killed: who reads the device "
                + "sees a pause and no error. With --device ublk, a --name, and absolute paths. Started before switch_root it "
                + "goes on after it.") { Needs = "--name" },
            s_noLock, LogForms.Option, s_json, s_progress,
        ],
        "The path of the device is the first line on standard output, as soon as the device can be used; $NOTIFY_SOCKET is told as well. "
        + "Reads that fail are answered with an I/O error and told on "
        + "standard error; nothing else ends by them. When the merge is done or has failed, the device stays. SIGTERM, SIGINT and SIGHUP "
        + "stop the merge at its next checkpoint, answer the requests that came and remove the device; the exit "
        + "code is 0, or that of the merge: 75 if it was not done, and the same command goes on.",
        ServeVerb.Run),

        new("daemon", "Serves and merges any number of snapshots, under the control of Android's libsnapshot or of `ctl`; Android's own "
            + "flags call it as well (docs/daemon.md).", [],
        [
            new("--socket", OptionKind.Text, "PATH", "Listen on this Unix socket. A name without a slash is one that init has opened "
                + "(ANDROID_SOCKET_NAME), or else /dev/socket/NAME."),
            new("--no-socket", OptionKind.Flag, "",
                "Serve NAME,COW,SOURCE,BASE … and then take the socket over from a proxy at /dev/socket/snapuserd_proxy."),
            new("--socket-handoff", OptionKind.Flag, "", "Be that proxy: hand the socket that init has opened to the daemon, and end."),
            new("--device", OptionKind.Choice, "dm-user|ublk|nbd", "What to serve snapshots as; dm-user unless given, whose devices their "
                + "makers remove. Others are made here, and end with their snapshots.") { Choices = ["dm-user", "ublk", "nbd"] },
            new("--socket-folder", OptionKind.Text, "DIR", "With --device nbd: serve on sockets DIR/NAME to programs, not to the kernel."),
            new("--merges", OptionKind.Count, "N", "Merges at a time; 2 unless given. The others wait for their turn.")
            {
                Minimum = 1,
                Maximum = 64,
            },
            new("--no-verify-first", OptionKind.Flag, "", "Do not decode every payload before the first write, as `merge` would."),
            s_io with { Help = "How merges read and write, as `merge` takes it." },
            s_memory with
            {
                Help = "Memory for the buffers of all merges together, 8M per merge at the least; 32M unless given. Each snapshot takes "
                    + "5 MB beside it.",
            },
            s_threads with { Help = "Threads of each snapshot to decompress with; one per processor, but no more than 4, unless given." },
            new("--worker-count", OptionKind.Count, "N", "Threads that serve a dm-user device; 4 unless given, and 1 if there is a socket "
                + "from the start.") { Minimum = 1, Maximum = 64 },
            new("--user-snapshot", OptionKind.Flag, "", "Taken for granted."),
            new("--io-uring", OptionKind.Flag, "", "Taken for granted: where the kernel has it, it is used; see --io."),
            new("--o-direct", OptionKind.Flag, "", "Taken, without effect."),
            new("--cow-op-merge-size", OptionKind.Count, "N", "Taken, without effect: --memory bounds what is done at once."),
            s_noLock, LogForms.Option, s_json with { Help = "Print errors as JSON objects on standard output." },
        ],
        "It takes one of three: --socket PATH, whose clients say what to serve; --no-socket with at least one NAME,COW,SOURCE,BASE, which "
        + "is then served at once (SOURCE is what copies read and BASE what is merged into; they may be one); "
        + "or --socket-handoff. NAME becomes the name of a device or socket, so it has no slash and is not . or .. (64). "
        + "SIGTERM, SIGINT and SIGHUP stop merges at their next checkpoints. Devices that are made here are removed then; dm-user devices "
        + "are served until they are removed, and the daemon ends with the last one.",
        DaemonVerb.Run) { OptionalOperands = ["NAME,COW,SOURCE,BASE"], OperandsRepeat = true },

        new("boot", "What an init script calls before it mounts: looks at every update of a table, and puts /dev/mapper/NAME on what "
            + "can be mounted.", [],
        [
            new("--table", OptionKind.Text, "FILE", $"The table; {BootTable.DefaultPath} unless given. A row is: name cow base "
                + "[source] [phase].") { DashIs = Option.StandardInput },
            new("--cmdline", OptionKind.Text, "FILE", $"What the kernel's command line is; {BootVerb.DefaultCommandLine} unless given.")
            {
                DashIs = Option.StandardInput,
            },
            new("--control-folder", OptionKind.Text, "DIR",
                $"Where the servers listen for `ctl`, on a socket for each row; {ControlFolder.Default} unless given."),
            new("--wait", OptionKind.Count, "SECONDS", "How long to wait for devices that come late, all together; 30 unless given.")
            {
                Maximum = KernelCommandLine.LongestWait,
            },
            new("--after-resume", OptionKind.Flag, "", "The system's own resume from hibernation has been tried: the device of resume= is "
                + "not waited for. A hibernation image that is there all the same is 78."),
            new("--dry-run", OptionKind.Flag, "", "Say what would be done, and do nothing."),
            LogForms.Option, s_json,
        ],
        "Prints a line per row, \"NAME plain|old|served|merged /dev/mapper/NAME\": there is no update, or it is merged; the update cannot "
        + "be used or is not wanted, so the old image is there, read-only; the new image is served "
        + "while it is merged; it was merged just now. A row that cannot be used has a sentence on standard error instead, and the exit "
        + "code is that of the first: boot from none then. The kernel's command line may say "
        + "snapuserd=off, snapuserd.merge=background|manual|before|rollback, snapuserd.device=auto|ublk|nbd, snapuserd.verify=on|off, "
        + "snapuserd.wait=SECONDS, snapuserd.table=FILE, and as often as needed "
        + "snapuserd.row=NAME,COW,BASE[,SOURCE[,PHASE]]. What it says comes before the options. See docs/boot.md.",
        BootVerb.Run) { OutputIsResult = true },

        new("ctl", "Asks servers how they are, and tells them what to do.", ["COMMAND"],
        [
            new("--socket", OptionKind.Text, "PATH",
                $"Where the server listens (its --control or --socket). Unless given, everything in {ControlFolder.Default}."),
            new("--all", OptionKind.Flag, "", "For merge, pause, resume, rate and stop: all snapshots, where there are several."),
            s_cow with { Required = false, Help = "For attach: the COW, which is opened here and handed to the daemon." },
            s_base with { Required = false, Help = "For attach: the base that it is merged into." },
            s_source with { Help = "For attach: what copies read, if it is not the base." },
            s_json,
        ],
        "Commands: list; status [NAME]; watch [NAME] shows progress until nothing is merged any more, and ends with 0, with the code of "
        + "what made a merge fail, with 75 if it was stopped or with 74 if a server was killed, of several with the first of these; these "
        + "are for all snapshots unless there is a NAME. merge [NAME] begins to merge; pause [NAME] and resume [NAME] hold the merge "
        + "and let it go on; "
        + "rate SIZE|off [NAME] limits the bytes it writes per second; stop [NAME] ends the server, or a daemon's snapshot, and removes "
        + "the device; these take a NAME or --all (64) where there are several. "
        + "attach NAME --cow PATH --base PATH has a running daemon serve one more snapshot, and prints its device; detach NAME ends one "
        + "that is not being merged and not in use (76). Both are for root and the daemon's own user, "
        + "and a daemon that is started again knows nothing of them. Exit code 66: no server or no such snapshot.",
        CtlVerb.Run) { OptionalOperands = ["SIZE", "NAME"], OutputIsResult = true },

        new("verify", "Decodes everything in a COW; with a base, also computes the merged image's SHA-256 without writing anything.", [],
        [
            s_cow, s_base, s_source with { Needs = "--base" }, s_separate,
            new("--sha256", OptionKind.Sha256, "HEX", "What the merged image must hash to.") { Needs = "--base" },
            s_io, s_memory, s_threads, s_json, s_progress,
        ],
        "Ops that are merged already are taken from the base as it is: whether that is the right base only --sha256 can tell. This is what "
        + "Android's inspect_cow calls --decompress.",
        VerifyVerb.Run) { OutputIsResult = true },

        new("inspect", "Prints what is in a COW: its header, footer, state, ops, and whether its order is consistent.", ["FILE"],
        [
            s_cow with { Required = false, Help = "The same as FILE." },
            new("--ops", OptionKind.Flag, "", "List every op."),
            new("--order", OptionKind.Choice, "ORDER", "The order of that list: file, as they lie there; merge, as they are "
                + "merged; reverse-merge.") { Choices = ["file", "merge", "reverse-merge"], Needs = "--ops" },
            new("--raw", OptionKind.Flag, "",
                "List every record of format 1 or 2 as it is stored, with its place in the file and that of its data."),
            s_json,
        ],
        "Of what Android's inspect_cow does, --decompress is `snapuserd verify`, and --extract_to is `snapuserd extract`, which needs the "
        + "base because it writes the whole image.",
        Inspect.Run) { OutputIsResult = true, OperandOption = "--cow" },

        new("create", "Compares two images and writes the COW that turns the first into the second, in Android's format.", [],
        [
            new("--source", OptionKind.Text, "OLD", "The image or device that the update starts from, raw or an Android sparse image.")
            {
                Required = true,
                DashIs = Option.StandardInput,
            },
            new("--target", OptionKind.Text, "NEW", "The image or device that it leads to, raw or an Android sparse image.")
            {
                Required = true,
                DashIs = Option.StandardInput,
            },
            new("--output", OptionKind.Text, "COW", "The file to write, or a block device; an existing file is replaced when the new one "
                + "is whole. A COW whose merge has begun (65) and what is in use (76) are not.")
            {
                Required = true,
                DashIs = "standard output, and a COW cannot be streamed: its beginning is written last, and it is read again for the check",
            },
            new("--format", OptionKind.Choice, "3|2", "The COW format; 3 unless given.") { Choices = ["3", "2"] },
            new("--compression", OptionKind.Text, "ALG[,LEVEL]", "none, gz, brotli, lz4 or zstd, with a level; lz4 unless given."),
            new("--block-factor", OptionKind.Size, "SIZE", "Largest unit that is compressed as one, 4k to 256k, format 3 only; 4k unless "
                + "given. Larger ones are smaller in sum.") { Minimum = Sizes.Block, Maximum = 256 << 10 },
            new("--cluster-ops", OptionKind.Count, "N", "Ops per cluster, format 2 only: 0 for none, or 2 and more; 1024 unless given, as "
                + "Android's writer.") { Minimum = 0, Maximum = 65536 },
            new("--op-slots", OptionKind.Count, "N", "Room for N ops, format 3; as many as there are unless given. Android's tools that "
                + "map a COW without a slot switch take this for the image's length in blocks.") { Minimum = 0, Maximum = int.MaxValue },
            new("--xor", OptionKind.Flag, "", "Store the difference to similar blocks where that is smaller."),
            new("--threads", OptionKind.Count, "N", "Threads to compare and compress with; one per processor unless given. The file does "
                + "not depend on it.") { Minimum = 1, Maximum = 256 },
            new("--memory", OptionKind.Size, "SIZE", "Memory for buffers, 8M to 1G; 64M unless given. 32 bytes per block of the larger "
                + "image come on top.") { Minimum = SmallestMemory, Maximum = LargestMemory },
            new("--no-check", OptionKind.Flag, "",
                "Do not compare what the COW makes of OLD with NEW, byte for byte, before it gets its name."),
            s_noLock, s_json, s_progress,
        ],
        "It says how many ops will need the journal when they are merged: those cost four flushes per window of 510 and are written twice. "
        + "What a file system calls a hole is read as well, past the page cache: such maps can be wrong.",
        CreateVerb.Run),

        new("extract", "Writes the merged image to a file, leaving COW and base as they are.", [],
        [
            s_cow, s_base with { Required = true }, s_source, s_separate,
            new("--output", OptionKind.Text, "FILE", "The image to write, a regular file; one that exists is replaced, and keeps its mode. "
                + "A COW whose merge has begun (65) and a file in use (76) are not. - streams it to standard output, which is no terminal "
                + "then; what would be printed there goes to standard error.") { Required = true },
            s_io, s_memory, s_threads, s_noLock, s_json, s_progress,
        ],
        "The image is as long as the base. It is written as FILE.part and gets its name when it is whole and durable; a run that fails "
        + "removes FILE.part, "
        + "and what a power cut or SIGKILL leaves of it is used again by the next run.",
        ExtractVerb.Run),
    ];

    /// <summary>The text of `snapuserd --help`.</summary>
    internal static string HelpText()
    {
        var text = new StringBuilder(
            "usage: snapuserd VERB [OPTION ...]\n\nMerges Android's copy-on-write snapshots (Virtual A/B, COW formats 1 to 3).\n\n");
        foreach (Verb verb in All) Verb.AppendEntry(text, verb.Name, verb.Summary);
        text.Append('\n');
        Verb.AppendEntry(text, "VERB --help, help VERB", "The options of one verb.");
        Verb.AppendEntry(text, "--help, -h, help", "This text.");
        Verb.AppendEntry(text, "--version, version", "The version, and what it was built for and tested on.");
        text.Append("\nExit codes:\n");
        (int Code, string Meaning)[] codes =
        [
            (0, "done, or nothing left to do"), (64, "wrong usage, a device that is none, or --allow-unsafe is missing"),
            (65, "the COW is corrupt, does not fit the base, or the hash differs"), (66, "an input does not exist"),
            (69, "the kernel lacks a feature that was asked for"), (70, "a defect of this program"), (71, "out of memory or descriptors"),
            (73, "the output cannot be created"), (74, "I/O error"), (75, "interrupted; run the same command again"),
            (76, "a device is in use"), (77, "permission denied"),
            (78, "boot: a hibernation image has not been resumed"),
        ];
        foreach ((int code, string meaning) in codes) text.Append("  ").Append(code.ToString().PadRight(4)).Append(meaning).Append('\n');
        return text.ToString().TrimEnd('\n');
    }
}
