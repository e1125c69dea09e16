using System;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using Snapuserd.Interop;

namespace Snapuserd.Tests.Support;

/// <summary>
/// A file system on a loop device, in a separate mount namespace, whose power can be cut; needs root. <see cref="CutPower"/> shuts it down
/// without flushing its log (FS_IOC_SHUTDOWN with NOLOGFLUSH; the default would flush everything first) and mounts it again. Everything
/// that no call flushed is lost. Here ext4 does not commit by time for minutes, and does not flush files that are closed after a truncation
/// or renamed over another file (noauto_da_alloc). XFS does neither by default.
/// </summary>
public sealed class ShutdownFileSystem : IDisposable
{
    // EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN have the same number and the same flags.
    private const uint ShutdownRequest = 0x8004587d, NoLogFlush = 2;

    /// <summary>
    /// Mounts and unmounts on commands from its standard input, and unmounts at end of input. The loop device stays attached in between,
    /// because with autoclear a program that scans all devices could open it at that moment and keep it. For the same reason an unmount may
    /// have to wait. A file system that is shut down fails every query of its root, so the script reads the mount table.
    /// </summary>
    private const string Script = """
        loop=$(losetup --find --show "$1") || exit 1
        leave() { until umount "$2"; do grep -qF " $2 " /proc/self/mountinfo || return 0; sleep 0.05; done; }
        enter() { mount -o "$3" "$loop" "$2" || { losetup --detach "$loop"; exit 1; }; echo ready; }
        enter "$@"
        while read -r line; do
            leave "$@" 2>/dev/null
            enter "$@"
        done
        leave "$@" 2>/dev/null
        losetup --detach "$loop"
        """;

    private readonly TempFolder _folder = new();
    private readonly Process _holder;

    /// <summary>Makes an empty file system: "ext4" or "xfs".</summary>
    public ShutdownFileSystem(string kind)
    {
        string image = _folder["image"], options = kind == "ext4" ? "commit=600,noauto_da_alloc" : "defaults";
        // The smallest size that mkfs.xfs accepts. The image file is sparse: unwritten blocks take no space.
        using (FileStream file = File.Create(image)) file.SetLength(300 << 20);
        LoopDevice.Call($"mkfs.{kind}", kind == "ext4" ? ["-q", "-F", image] : ["-q", "-f", image]);
        Directory.CreateDirectory(_folder["mounted"]);
        _holder = Binary.StartProgram("unshare", ["--mount", "--propagation", "private", "sh", "-c", Script, "sh", image,
            _folder["mounted"], options]);
        AwaitReady();
    }

    /// <summary>The path of a file for programs that <see cref="Run"/> starts.</summary>
    public string this[string name] => Path.Combine(_folder["mounted"], name);

    /// <summary>The path of a file for this process.</summary>
    public string Outside(string name) => string.Create(CultureInfo.InvariantCulture, $"/proc/{_holder.Id}/root{this[name]}");

    /// <summary>Runs a command in the mount namespace of the file system.</summary>
    public BinaryResult Run(params string[] command) => Binary.RunProgram("nsenter", Entering(command));

    /// <summary>Starts such a command without waiting for it.</summary>
    public Process Start(params string[] command) => Binary.StartProgram("nsenter", Entering(command));

    /// <summary>Writes files and makes everything durable.</summary>
    public void Put(params (string Name, byte[] Bytes)[] files)
    {
        foreach ((string name, byte[] bytes) in files) File.WriteAllBytes(Outside(name), bytes);
        Sync();
    }

    /// <summary>Makes everything durable.</summary>
    public void Sync() => LoopDevice.Call("sync", "-f", Outside(""));

    /// <summary>A file's bytes; null if there is none.</summary>
    public byte[]? Read(string name) => File.Exists(Outside(name)) ? File.ReadAllBytes(Outside(name)) : null;

    /// <summary>Cuts the power and mounts the file system again. No process may have files open there.</summary>
    public void CutPower()
    {
        Shutdown();
        Remount();
    }

    /// <summary>The first half of <see cref="CutPower"/>: from here on no write reaches the disk, and programs get errors.</summary>
    public void Shutdown()
    {
        int fd = Libc.OpenAt(Libc.AT_FDCWD, Outside(""), Libc.O_RDONLY | Libc.O_CLOEXEC);
        uint flags = NoLogFlush;
        int result = fd < 0 ? fd : Libc.Ioctl(fd, ShutdownRequest, ref flags);
        if (fd >= 0) _ = Libc.Close(fd);
        if (result < 0) throw new InvalidOperationException($"the file system cannot be shut down: {Errno.Name(result)}");
    }

    /// <summary>The second half of <see cref="CutPower"/>: mounts the file system again.</summary>
    public void Remount()
    {
        _holder.StandardInput.WriteLine("again");
        _holder.StandardInput.Flush();
        AwaitReady();
    }

    public void Dispose()
    {
        _holder.StandardInput.Close();
        if (!_holder.WaitForExit(60_000)) _holder.Kill(entireProcessTree: true);
        _holder.Dispose();
        _folder.Dispose();
    }

    private string[] Entering(string[] command) => ["--mount=" + string.Create(CultureInfo.InvariantCulture, $"/proc/{_holder.Id}/ns/mnt"),
        "--", .. command];

    private void AwaitReady()
    {
        string? line = _holder.StandardOutput.ReadLine();
        if (line != "ready") throw new InvalidOperationException($"the file system is not mounted: {_holder.StandardError.ReadToEnd()}");
    }
}
