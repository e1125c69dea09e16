using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Boot;
using Snapuserd.Control;
using Snapuserd.Host;
using Snapuserd.Interop;
using Snapuserd.Text;

namespace Snapuserd.Cli;

/// <summary>`boot`: called by an init script before it mounts.</summary>
internal static class BootVerb
{
    /// <summary>Default seconds to wait for devices: enough for a slow USB disk, or a RAID that waits for its last member.</summary>
    internal const int DefaultWait = 30;

    internal const string DefaultCommandLine = "/proc/cmdline";

    /// <summary>
    /// Milliseconds to wait for another boot to end, in addition to its wait for devices: the time that it gives a server to become ready.
    /// A boot that merges before mounting may take longer; then this boot fails, and the caller must call again.
    /// </summary>
    private const int OtherMilliseconds = BootSystem.ReadyMilliseconds;

    /// <summary>The kernel's own limit is 2 KiB on most architectures.</summary>
    private const int LongestCommandLine = 64 << 10;

    internal static ExitCode Run(Invocation invocation)
    {
        Arguments arguments = invocation.Arguments;
        string? text = ReadCommandLine(invocation);
        KernelCommandLine line = KernelCommandLine.Parse(text ?? "");
        foreach (string warning in line.Warnings) invocation.Output.Write(Priority.Warning, "command_line", warning);
        if (line.IsUnknown)
            invocation.Output.Write(Priority.Warning, "command_line", "the kernel's command line has a word that is not understood and "
                + "none about merging: nothing is merged until `ctl merge` requests it");
        if (line.Off)
        {
            invocation.Output.Write(Priority.Notice, "off", "snapuserd=off on the kernel's command line: nothing is done");
            return ExitCode.Done;
        }
        List<BootRow> rows = Rows(invocation, line);
        string folder = arguments.Text("--control-folder") ?? ControlFolder.Default;
        foreach (BootRow row in rows)
        {
            if (ByteText.GetByteCount($"{folder}/{row.Name}") > UnixAddress.LongestPath)
                throw BootTable.Wrong(row.Origin, $"the socket {folder}/{row.Name} would have more than {UnixAddress.LongestPath} bytes");
        }
        bool dryRun = arguments.Has("--dry-run"), json = arguments.Has("--json");
        // An initramfs without a table is normal, so this is a warning only in a dry run.
        if (rows.Count == 0)
            invocation.Output.Write(dryRun ? Priority.Warning : Priority.Notice, "no_rows",
                "there is no row in any table: nothing is done");
        HibernationSearch hibernation = new(new ResumeDevices(), text ?? "");
        BootOptions options = new()
        {
            // If /proc/cmdline does not exist, the command line may request a rollback, so nothing is merged automatically.
            Merge = text == null ? MergePolicy.Manual : line.Merge,
            Device = line.Device,
            Verify = line.Verify,
            Wait = line.Wait >= 0 ? line.Wait : (int)arguments.Number("--wait", DefaultWait),
            ControlFolder = folder,
            DryRun = dryRun,
            NoResume = hibernation.Words.Never,
            AfterResume = arguments.Has("--after-resume"),
        };
        using BootSystem system = new(invocation.Output, invocation.Output.HasTerminal, folder, hibernation);
        using BootLock? alone =
            rows.Count == 0 || dryRun ? null : BootLock.Take(folder, system, invocation.Output, (options.Wait * 1000L) + OtherMilliseconds);
        return new BootSequence(system, invocation.Output, options).Run(rows, result => Tell(invocation.Output, result, json, dryRun));
    }

    private static void Tell(Output output, RowResult result, bool json, bool dryRun)
    {
        if (json)
        {
            JsonLine row = JsonLine.Event("row").Add("name", result.Row.Name).Add("state", result.State)
                .Add("device", result.IsUsable ? result.Row.Path : null).Add("message", result.Why).Add("exit_code", (int)result.Code);
            if (result.Command.Length > 0) row.Add("command", string.Join(' ', result.Command));
            output.Result(row.ToString());
        }
        else if (dryRun)
        {
            output.Result($"{result.Row.Name} {result.State} {(result.IsUsable ? result.Row.Path : "-")}: {result.Why}");
            if (result.Command.Length > 0) output.Result($"  {string.Join(' ', result.Command)}");
        }
        else if (result.IsUsable)
        {
            output.Result($"{result.Row.Name} {result.State} {result.Row.Path}");
        }
    }

    private static string? ReadCommandLine(Invocation invocation)
    {
        string? given = invocation.Arguments.Text("--cmdline");
        byte[]? bytes = SmallFile.Read(given ?? DefaultCommandLine, LongestCommandLine);
        if (bytes != null) return ByteText.Decode(bytes);
        if (given != null) throw new SnapuserdException(ExitCode.InputMissing, $"{given} does not exist");
        invocation.Output.Write(Priority.Warning, "command_line", $"{DefaultCommandLine} is not there, so what the kernel's command line "
            + "says is not known (is /proc mounted?): nothing is merged until `ctl merge` requests it");
        return null;
    }

    /// <summary>The rows of the table and those of the kernel's command line, which replace rows of the same name.</summary>
    private static List<BootRow> Rows(Invocation invocation, KernelCommandLine line)
    {
        string? named = line.Table ?? invocation.Arguments.Text("--table");
        string path = named ?? BootTable.DefaultPath;
        byte[]? bytes = SmallFile.Read(path, BootTable.MostBytes);
        // Rows can exist without the default table, but an explicitly named table must exist.
        if (bytes == null && named != null) throw new SnapuserdException(ExitCode.InputMissing, $"the table {path} does not exist");
        List<BootRow> rows = [];
        foreach (BootRow row in bytes == null ? [] : BootTable.Parse(path, bytes))
            if (!line.Rows.Exists(other => other.Name == row.Name)) BootTable.Add(rows, row);
        foreach (BootRow row in line.Rows) BootTable.Add(rows, row);
        return rows;
    }
}
