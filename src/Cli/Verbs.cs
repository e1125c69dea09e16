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
    /// Default of `--memory`, and its bounds. Below 8 MiB, the largest units and a journal window would leave too little memory for the
    /// rest. The largest value is 1 GiB, because offsets in the arena have 32 bits.
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
        "The device or image file that copied and xored blocks are read from; the base unless given. It may share storage with the base. "
        + "If no order of writes is safe then, a merge ends with 64, and the image can only be read.")
    { DashIs = Option.StandardInput };
    private static readonly Option s_separate = new("--source-separate", OptionKind.Flag, "", "The source shares no block with the base, "
        + "so the merge never overwrites it. To continue a merge that began with this option, give it and the same --source again: the "
        + "COW does not record them.")
    {
        Needs = "--source",
    };
    private static readonly Option s_io = new("--io", OptionKind.Choice, "auto|uring|sync", "How devices are read and written. With auto, "
        + "by io_uring; if it is not available, by plain system calls, which one line reports whatever --progress is. With uring, the "
        + "command fails instead (69, or 71 for lack of memory or descriptors).")
    { Choices = ["auto", "uring", "sync"] };
    private static readonly Option s_depth = new("--queue-depth", OptionKind.Count, "N",
        "Requests in flight at once, 1 to 1024; 32 unless given.")
    { Minimum = 1, Maximum = 1024 };
    private static readonly Option s_memory = new("--memory", OptionKind.Size, "SIZE", "Memory for buffers, 8M to 1G; 32M unless given. "
        + "The process needs about 5 MB and 36 bytes per op in addition.")
    { Minimum = SmallestMemory, Maximum = LargestMemory };
    private static readonly Option s_threads = new("--threads", OptionKind.Count, "N",
        "Threads that decompress, 1 to 64. Unless given, one per processor, at most 16.")
    { Minimum = 1, Maximum = 64 };
    private static readonly Option s_noLock = new("--no-lock", OptionKind.Flag, "", "Continue if a file system has no locks (flock), which "
        + "ends with 69 otherwise. Other programs may then use the files at the same time. A lock that another process holds still ends "
        + "with 76.");
    private static readonly Option s_json = new("--json", OptionKind.Flag, "", "Print one JSON object per line on standard output.");
    private static readonly Option s_progress = new("--progress", OptionKind.Choice, "auto|never|plain",
        "With auto, a bar on a terminal, and elsewhere a line every few seconds. With plain, lines (JSON objects with --json), the first "
        + "at once and one at the end. With never, no progress.")
    { Choices = ["auto", "never", "plain"] };

    internal static readonly Verb[] All =
    [
        new("merge", "Merges a COW into its base. After an interruption at any moment, by a signal, a crash or a power cut, the same "
            + "command continues the merge.", [],
        [
            s_cow with { Help = "The COW file, of format 2 or 3." }, s_base with { Required = true }, s_source, s_separate, s_io, s_depth,
            s_memory, s_threads,
            new("--no-verify-first", OptionKind.Flag, "", "Do not decode every payload before the first write. A damaged payload then "
                + "stops the merge half-way, and the base can become neither the new image nor the old one."),
            new("--rate", OptionKind.Size, "SIZE", "Write at most SIZE bytes per second to the base, averaged over a second or more, as "
                + "`ctl rate` does for a server; no limit unless given.") { Minimum = 1 },
            new("--allow-unsafe", OptionKind.Flag, "", "Merge a COW without scratch space even if a crash at some of its blocks cannot be "
                + "recovered: such a crash loses the base, and the next run says so. Without this option, such a COW is refused (64)."),
            s_noLock, LogForms.Option, s_json, s_progress,
        ],
        "SIGTERM, SIGINT and SIGHUP stop the merge at the next checkpoint with exit code 75. A signal that was ignored when the program "
        + "started (SIGINT in the background jobs of sh, SIGHUP under nohup) stays ignored. "
        + "The COW and the base are checked completely before the first write, unless --no-verify-first was given. Then space is reserved "
        + "for the holes that the merge will fill, in files and in the files below loop devices. "
        + "Without enough space the command ends with 74, says how many bytes are missing, and has written nothing. Space that cannot be "
        + "reserved (files that share extents, compressed file systems, thin volumes) may still run out during the merge: free some space, "
        + "and run the same command again. If another process holds or locks a device, the command waits 2 seconds for it, then ends with "
        + "76.",
        MergeVerb.Run),

        new("serve",
            "Shows the merged image as a block device, before and during the merge, until the server is stopped.", [],
        [
            s_cow with { Help = "The COW file, of format 2 or 3." }, s_base with { Required = true }, s_source, s_separate,
            new("--device", OptionKind.Choice, "auto|ublk|nbd|dm-user", "The kind of device: /dev/ublkbN (kernels from 6.5 on), /dev/nbdN, "
                + "or Android's dm-user. With auto, ublk, or nbd if the kernel has no ublk.")
            {
                Choices = ["auto", "ublk", "nbd", "dm-user"],
            },
            new("--name", OptionKind.Text, "NAME", "The device: ublkb3, nbd3, or the name of the dm-user device. Unless given, the next "
                + "free device; dm-user requires a name. With --socket, the name of the export, which is empty unless given."),
            new("--socket", OptionKind.Text, "PATH", "Serve NBD on this Unix socket to programs (nbdcopy, qemu, fio), not to the kernel; "
                + "only with --device nbd. At most 2048 clients at a time, fewer if RLIMIT_NOFILE is too low. An idle client is never "
                + "dropped; a client that does not finish the handshake, or reads none of its replies, is dropped after 30 seconds."),
            new("--queues", OptionKind.Count, "N", "Queues of a ublk device, each with a thread that reads and decodes, 1 to 16 and at "
                + "most one per processor; 1 unless given. A device that is taken over keeps its number of queues.")
            {
                Minimum = 1,
                Maximum = 16,
            },
            new("--mapper", OptionKind.Text, "NAME", "Put /dev/mapper/NAME on top of the device. When all is merged, it is switched to the "
                + "base, even while it is mounted; then the device is removed, and the server ends with 0."),
            new("--merge", OptionKind.Flag, "", "Merge while serving, as `merge` does."),
            new("--merge-on-request", OptionKind.Flag, "", "Merge when `ctl merge` requests it.") { Needs = "--control" },
            new("--control", OptionKind.Text, "PATH", "Listen on this Unix socket for `ctl`."),
            new("--as", OptionKind.Text, "NAME", "The name of this server in `ctl`; 76 if another server with its socket in the same "
                + "folder has that name. Unless given, the NAME of --mapper or --name or the file name of the COW, with .2, .3 … appended "
                + "if that is taken. The second line on standard output shows the name.") { Needs = "--control" },
            new("--no-verify-first", OptionKind.Flag, "", "Do not decode every payload before the first write, as `merge` would."),
            s_io with { Help = "How the merge reads and writes, as for `merge`." }, s_depth, s_memory, s_threads,
            new("--ready-fd", OptionKind.Count, "N", "Write the device's path to descriptor N when the device is usable, and close N.")
            {
                Minimum = 0,
                Maximum = 1 << 20,
            },
            new("--supervise", OptionKind.Flag, "", "Start the server as a child process, and start it again whenever it was killed: "
                + "readers of the device see a pause and no error. Requires --device ublk, a --name, and absolute paths. If started before "
                + "switch_root, it continues after it.") { Needs = "--name" },
            s_noLock, LogForms.Option, s_json, s_progress,
        ],
        "As soon as the device can be used, the first line on standard output is its path, and the service manager at $NOTIFY_SOCKET is "
        + "notified. A read that fails is answered with an I/O error and reported on standard error; serving and merging continue. The "
        + "device stays when the merge is done or has failed. On SIGTERM, SIGINT and SIGHUP the server stops the merge at its next "
        + "checkpoint, answers the requests that it has received, and removes the device. The exit code is 0, or that of the merge: 75 if "
        + "the merge is not done, which the same command then continues.",
        ServeVerb.Run),

        new("daemon", "Serves and merges any number of snapshots, controlled by Android's libsnapshot or by `ctl`. Without a verb, "
            + "Android's own flags start it as well (docs/daemon.md).", [],
        [
            new("--socket", OptionKind.Text, "PATH", "Listen on this Unix socket. A name without a slash means the socket that init has "
                + "opened (ANDROID_SOCKET_NAME), or else /dev/socket/NAME."),
            new("--no-socket", OptionKind.Flag, "",
                "Serve NAME,COW,SOURCE,BASE … and then take the socket over from a proxy at /dev/socket/snapuserd_proxy."),
            new("--socket-handoff", OptionKind.Flag, "", "Be that proxy: hand the socket that init has opened to the daemon, and end."),
            new("--device", OptionKind.Choice, "dm-user|ublk|nbd", "The kind of device for each snapshot; dm-user unless given. Another "
                + "process makes and removes dm-user devices; the daemon makes the others, and removes them with their snapshots.")
            {
                Choices = ["dm-user", "ublk", "nbd"],
            },
            new("--socket-folder", OptionKind.Text, "DIR", "With --device nbd: serve on sockets DIR/NAME to programs, not to the kernel."),
            new("--merges", OptionKind.Count, "N", "Merges that run at the same time; 2 unless given. The others wait for their turn.")
            {
                Minimum = 1,
                Maximum = 64,
            },
            new("--no-verify-first", OptionKind.Flag, "", "Do not decode every payload before the first write, as `merge` would."),
            s_io with { Help = "How merges read and write, as for `merge`." },
            s_memory with
            {
                Help = "Memory for the buffers of all merges together, at least 8M per merge; 32M unless given. Each snapshot needs 5 MB "
                    + "in addition.",
            },
            s_threads with { Help = "Threads of each snapshot that decompress. Unless given, one per processor, at most 4." },
            new("--worker-count", OptionKind.Count, "N", "Threads that serve a dm-user device; 4 unless given. With --socket it is always "
                + "1.") { Minimum = 1, Maximum = 64 },
            new("--user-snapshot", OptionKind.Flag, "", "Accepted for compatibility; always on."),
            new("--io-uring", OptionKind.Flag, "", "Accepted for compatibility: io_uring is used if the kernel has it; see --io."),
            new("--o-direct", OptionKind.Flag, "", "Accepted and ignored."),
            new("--cow-op-merge-size", OptionKind.Count, "N", "Accepted and ignored: --memory limits how much is merged at once."),
            s_noLock, LogForms.Option, s_json with { Help = "Print errors as JSON objects on standard output." },
        ],
        "Give one of three: --socket PATH, whose clients request what to serve; --no-socket and at least one NAME,COW,SOURCE,BASE, which "
        + "is served at once; or --socket-handoff. Copies read from SOURCE, and the merge writes to BASE, which may be the same device. "
        + "NAME becomes the name of a device or socket, so . or .. or a name with a slash is an error (64). SIGTERM, SIGINT and SIGHUP "
        + "stop merges at their next checkpoints. The daemon then removes the devices that it has made. It serves dm-user devices until "
        + "their owner removes them, and ends with the last one.",
        DaemonVerb.Run) { OptionalOperands = ["NAME,COW,SOURCE,BASE"], OperandsRepeat = true },

        new("boot", "For init scripts, before they mount: inspects every update of a table, and puts /dev/mapper/NAME on the device that "
            + "can be mounted.", [],
        [
            new("--table", OptionKind.Text, "FILE", $"The table; {BootTable.DefaultPath} unless given. A row is: name cow base "
                + "[source] [phase].") { DashIs = Option.StandardInput },
            new("--cmdline", OptionKind.Text, "FILE",
                $"The file with the kernel's command line; {BootVerb.DefaultCommandLine} unless given.")
            {
                DashIs = Option.StandardInput,
            },
            new("--control-folder", OptionKind.Text, "DIR",
                $"The folder in which the servers listen for `ctl`, each on its own socket; {ControlFolder.Default} unless given."),
            new("--wait", OptionKind.Count, "SECONDS", "How long to wait for devices that appear late, for all together; 30 unless given.")
            {
                Maximum = KernelCommandLine.LongestWait,
            },
            new("--after-resume", OptionKind.Flag, "", "The system has already tried to resume from hibernation: do not wait for the "
                + "device of resume=. If there still is a hibernation image, the command ends with 78."),
            new("--dry-run", OptionKind.Flag, "", "Say what would be done, and do nothing."),
            LogForms.Option, s_json,
        ],
        "Prints a line per row, \"NAME plain|old|served|merged /dev/mapper/NAME\". With plain, there is no update, or all of it is merged. "
        + "With old, the update cannot be used or is not wanted, and the device is the old image, read-only. With served, the device is "
        + "the new image, which is merged meanwhile. With merged, the update was merged just now. For a row that cannot be used, standard "
        + "error has the reason instead. The exit code is that of the first such row; do not boot from any row then. The kernel's command "
        + "line may have "
        + "snapuserd=off, snapuserd.merge=background|manual|before|rollback, snapuserd.device=auto|ublk|nbd, snapuserd.verify=on|off, "
        + "snapuserd.wait=SECONDS, snapuserd.table=FILE, and as often as needed "
        + "snapuserd.row=NAME,COW,BASE[,SOURCE[,PHASE]]. It takes precedence over the options. See docs/boot.md.",
        BootVerb.Run) { OutputIsResult = true },

        new("android", "Says in which state the update of an Android device is, and merges it: from the device's recovery, or from dumps "
            + "of its partitions.", ["COMMAND"],
        [
            new("--dry-run", OptionKind.Flag, "", "For merge: check everything, say what would be merged, and write nothing."),
            new("--conclude", OptionKind.Flag, "", "For merge: when all is merged, also write into /metadata and misc that it is, as "
                + "Android's own recovery does. Needed only if something other than Android comes next, such as a wipe."),
            new("--unmap", OptionKind.Flag, "", "For merge: remove unused device-mapper devices over the partitions to be merged, which a "
                + "recovery has made."),
            new("--report", OptionKind.Text, "IN.tar", "For status: of the device that an archive of `report` is from."),
            new("--super", OptionKind.Text, "DEV", "The super partition, or a raw dump of it."),
            new("--metadata", OptionKind.Text, "DIR|DEV", "The folder that is mounted at /metadata, or the partition, which is then "
                + "mounted for this command alone."),
            new("--userdata", OptionKind.Text, "DEV", "The data partition, on which a part of a COW may lie."),
            new("--misc", OptionKind.Text, "DEV", "The bootloader's partition misc."),
            new("--by-name", OptionKind.Text, "DIR", "A folder with all partitions under their names: links, or dumps. Unless given, "
                + "/dev/block/by-name, or the names that the kernel knows."),
            new("--slot", OptionKind.Choice, "a|b", "The current slot, for a device that does not say it, as with dumps.")
            {
                Choices = ["a", "b"],
            },
            new("--cmdline", OptionKind.Text, "FILE", "The file with the kernel's command line; /proc/cmdline unless given."),
            new("--bootconfig", OptionKind.Text, "FILE", "The file with the bootloader's parameters; /proc/bootconfig unless given."),
            s_io, s_memory, s_json, s_progress,
        ],
        "COMMAND is status; merge; map, which makes read-only devices /dev/mapper/NAME of the partitions of the current slot, without "
        + "those whose update is not merged; unmap, which removes them; or report, which writes what someone who helps has to see, without "
        + "any content of partitions, to the new archive OUT.tar. Without options, everything is found on the device that the command runs "
        + "on. status writes nothing. It ends with 0 if nothing is "
        + "to be done, with 75 if merge would finish the update, and otherwise with the code with which merge refuses: 69 if only Android "
        + "can go on, 65 if something is damaged or contradictory, 66 if super or metadata is missing, 76 if something is in use. merge "
        + "checks every COW before the first write; interrupted at any moment, the same command goes on. It changes no state files "
        + "without --conclude: Android concludes the update at its next boot.",
        AndroidVerb.Run) { OptionalOperands = ["OUT.tar"] },

        new("ctl", "Shows the state of servers, and controls them and their merges.", ["COMMAND"],
        [
            new("--socket", OptionKind.Text, "PATH",
                $"The socket of the server (its --control or --socket). Unless given, all sockets in {ControlFolder.Default}."),
            new("--all", OptionKind.Flag, "", "For merge, pause, resume, rate and stop: all snapshots, if there are several."),
            s_cow with { Required = false, Help = "For attach: the COW, which ctl opens and passes to the daemon." },
            s_base with { Required = false, Help = "For attach: the base that the COW is merged into." },
            s_source with { Help = "For attach: the device that copies read from, if it is not the base." },
            s_json,
        ],
        "Commands for all snapshots, or for one NAME: list; status [NAME]; watch [NAME] shows progress until no merge runs any more. It "
        + "ends with 0, with the exit code of a merge that failed, with 75 if a merge was stopped, or with 74 if a server was killed; "
        + "after several such events, with the code of the first. Commands that need a NAME or --all if there are several snapshots (64): "
        + "merge [NAME] starts to merge; pause [NAME] and resume [NAME] pause the merge and continue it; rate SIZE|off [NAME] limits the "
        + "bytes that the merge writes per second; stop [NAME] ends the server, or a daemon's snapshot, and removes the device. Commands "
        + "for a running daemon: attach NAME --cow PATH --base PATH adds a snapshot to serve, and prints its device; detach NAME removes a "
        + "snapshot, unless it is being merged or in use (76). Both are for root and the daemon's own user only; the snapshots are not "
        + "restored when the daemon is started again. Exit code 66: no server or no such snapshot.",
        CtlVerb.Run) { OptionalOperands = ["SIZE", "NAME"], OutputIsResult = true },

        new("verify", "Decodes everything in a COW; with a base, also computes the merged image's SHA-256 without writing anything.", [],
        [
            s_cow, s_base, s_source with { Needs = "--base" }, s_separate,
            new("--sha256", OptionKind.Sha256, "HEX", "The hash that the merged image must have.") { Needs = "--base" },
            s_io, s_memory, s_threads, s_json, s_progress,
        ],
        "For ops that are merged already, the content of the base is used as it is; only --sha256 can show whether it is the right base. "
        + "Android's inspect_cow has this as --decompress.",
        VerifyVerb.Run) { OutputIsResult = true },

        new("inspect", "Prints what is in a COW: its header, footer, state, ops, and whether its order is consistent.", ["FILE"],
        [
            s_cow with { Required = false, Help = "The same as FILE." },
            new("--ops", OptionKind.Flag, "", "List every op."),
            new("--order", OptionKind.Choice, "ORDER", "The order of that list: file, as in the file; merge, as they are merged; or "
                + "reverse-merge.") { Choices = ["file", "merge", "reverse-merge"], Needs = "--ops" },
            new("--raw", OptionKind.Flag, "",
                "List every record of format 1 or 2 as it is stored, with its position in the file and that of its data."),
            s_json,
        ],
        "Instead of the option --decompress of Android's inspect_cow use `snapuserd verify`; instead of --extract_to use `snapuserd "
        + "extract`, which needs the base because it writes the whole image.",
        Inspect.Run) { OutputIsResult = true, OperandOption = "--cow" },

        new("create", "Compares two images and writes the COW that turns the first into the second, in Android's format.", [],
        [
            new("--source", OptionKind.Text, "OLD", "The image or device that the update starts from, raw or an Android sparse image.")
            {
                Required = true,
                DashIs = Option.StandardInput,
            },
            new("--target", OptionKind.Text, "NEW", "The image or device that the update leads to, raw or an Android sparse image.")
            {
                Required = true,
                DashIs = Option.StandardInput,
            },
            new("--output", OptionKind.Text, "COW", "The file to write, or a block device. An existing file is replaced when the new one "
                + "is complete, unless it is a COW whose merge has begun (65) or is in use (76).")
            {
                Required = true,
                DashIs = "standard output, and a COW cannot be streamed: its beginning is written last, and it is read again for the check",
            },
            new("--format", OptionKind.Choice, "3|2", "The COW format; 3 unless given.") { Choices = ["3", "2"] },
            new("--compression", OptionKind.Text, "ALG[,LEVEL]", "none, gz, brotli, lz4 or zstd, with a level; lz4 unless given."),
            new("--block-factor", OptionKind.Size, "SIZE", "Largest unit that is compressed as one, 4k to 256k, format 3 only; 4k unless "
                + "given. Larger units make the COW smaller.") { Minimum = Sizes.Block, Maximum = 256 << 10 },
            new("--cluster-ops", OptionKind.Count, "N", "Ops per cluster, format 2 only: 0 for no clusters, or at least 2. 1024 unless "
                + "given, as in Android's writer.") { Minimum = 0, Maximum = 65536 },
            new("--op-slots", OptionKind.Count, "N", "Space for N ops, format 3 only; unless given, for as many as there are. Android's "
                + "tools that map a COW without a slot switch take this number as the image's length in blocks.")
            {
                Minimum = 0,
                Maximum = int.MaxValue,
            },
            new("--xor", OptionKind.Flag, "", "Store the difference to similar blocks where that is smaller."),
            new("--threads", OptionKind.Count, "N", "Threads that compare and compress. Unless given, one per processor, at most 16. The "
                + "COW does not depend on their number.") { Minimum = 1, Maximum = 256 },
            new("--memory", OptionKind.Size, "SIZE", "Memory for buffers, 8M to 1G; 64M unless given. The process needs 32 bytes per block "
                + "of the larger image in addition.") { Minimum = SmallestMemory, Maximum = LargestMemory },
            new("--no-check", OptionKind.Flag, "", "Skip the check at the end, before the COW gets its name: that merging the COW into OLD "
                + "gives NEW, byte for byte."),
            s_noLock, s_json, s_progress,
        ],
        "The result has the number of ops that will need the journal when they are merged: such ops are written twice, and cost four "
        + "flushes per window of 510. Ranges that a file system reports as holes are read as well, past the page cache, because the report "
        + "can be wrong.",
        CreateVerb.Run),

        new("extract", "Writes the merged image to a file, leaving COW and base as they are.", [],
        [
            s_cow, s_base with { Required = true }, s_source, s_separate,
            new("--output", OptionKind.Text, "FILE", "The image to write, a regular file. An existing file is replaced, and keeps its "
                + "mode, unless it is a COW whose merge has begun (65) or is in use (76). With -, the image goes to standard output, which "
                + "must not be a terminal, and results go to standard error.") { Required = true },
            s_io, s_memory, s_threads, s_noLock, s_json, s_progress,
        ],
        "The image is as long as the base. It is written as FILE.part and gets its name when it is complete and durable. A run that fails "
        + "removes FILE.part. After a power cut or SIGKILL the next run uses the same FILE.part again.",
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
            (0, "done, or nothing left to do"), (64, "wrong usage, not a file or block device, or --allow-unsafe is missing"),
            (65, "the COW is corrupt, does not fit the base, or the hash differs"), (66, "an input does not exist"),
            (69, "the kernel lacks a requested feature"), (70, "a defect of this program"), (71, "out of memory or descriptors"),
            (73, "the output cannot be created"), (74, "I/O error"), (75, "interrupted; run the same command again"),
            (76, "a device is in use"), (77, "permission denied"),
            (78, "boot: a hibernation image has not been resumed"),
        ];
        foreach ((int code, string meaning) in codes) text.Append("  ").Append(code.ToString().PadRight(4)).Append(meaning).Append('\n');
        return text.ToString().TrimEnd('\n');
    }
}
