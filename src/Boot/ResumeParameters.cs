using System;
using System.Collections.Generic;
using System.Globalization;

namespace Snapuserd.Boot;

/// <summary>The settings for resuming from hibernation on the kernel's command line and in the initramfs's configuration.</summary>
public sealed class ResumeParameters
{
    /// <summary>Where dracut stores words of the command line, and initramfs-tools its settings, including RESUME=.</summary>
    public const string DracutFolder = "/etc/cmdline.d", InitramfsToolsFolder = "/conf/conf.d", InitramfsToolsFile = "/conf/initramfs.conf";

    /// <summary>
    /// The word that forbids resuming: "noresume", or a word that disables hibernation in the kernel; null if there is none.
    /// </summary>
    public string? Never { get; private set; }

    /// <summary>resume=: a path, a tag such as UUID=…, or a number; null if no device is given.</summary>
    public string? Device { get; private set; }

    /// <summary>resume_offset=: pages from the beginning of the device to the header of a swap file.</summary>
    public long Offset { get; private set; }

    /// <summary>
    /// Reads RESUME= of initramfs-tools, then the words of dracut's files, then those of the kernel's command line; a later value replaces
    /// an earlier one.
    /// </summary>
    public static ResumeParameters Of(string commandLine, Func<string, IEnumerable<string>> names, Func<string, string?> text)
    {
        ResumeParameters parameters = new();
        parameters.TakeSettings(text(InitramfsToolsFile));
        foreach (string name in Sorted(names(InitramfsToolsFolder))) parameters.TakeSettings(text($"{InitramfsToolsFolder}/{name}"));
        parameters.Take(text("/etc/cmdline"));
        foreach (string name in Sorted(names(DracutFolder)))
            if (name.EndsWith(".conf", StringComparison.Ordinal)) parameters.Take(text($"{DracutFolder}/{name}"));
        parameters.Take(commandLine);
        return parameters;
    }

    /// <summary>Parses a number of pages as the kernel does: decimal, or hexadecimal after 0x. 0 for anything else.</summary>
    public static long Pages(string? text)
    {
        bool hexadecimal = text?.StartsWith("0x", StringComparison.OrdinalIgnoreCase) == true;
        return long.TryParse(hexadecimal ? text.AsSpan(2) : text, hexadecimal ? NumberStyles.AllowHexSpecifier : NumberStyles.None,
            CultureInfo.InvariantCulture, out long pages) && pages > 0 ? pages : 0;
    }

    private void Take(string? line)
    {
        foreach ((string key, string? value) in KernelCommandLine.Split(line ?? ""))
        {
            switch (key.Replace('-', '_'))
            {
                case "noresume" or "nohibernate" when value == null:
                    Never = key;
                    break;
                case "hibernate" when value == "no":
                    Never = "hibernate=no";
                    break;
                case "resume":
                    Name(value);
                    break;
                case "resume_offset":
                    Offset = Pages(value);
                    break;
            }
        }
    }

    private void TakeSettings(string? text)
    {
        foreach (string line in (text ?? "").Split('\n'))
        {
            string setting = line.Trim();
            if (setting.StartsWith("export ", StringComparison.Ordinal)) setting = setting["export ".Length..].TrimStart();
            if (setting.StartsWith("RESUME=", StringComparison.Ordinal)) Name(setting["RESUME=".Length..]);
        }
    }

    /// <summary>Sets the device; initramfs-tools uses "none" and "auto" for no device.</summary>
    private void Name(string? value)
    {
        string device = (value ?? "").Replace("\"", "", StringComparison.Ordinal).Replace("'", "", StringComparison.Ordinal);
        // uswsusp's spelling.
        if (device.StartsWith("swap:", StringComparison.Ordinal)) device = device["swap:".Length..];
        Device = device is "" or "none" or "auto" ? null : device;
    }

    private static List<string> Sorted(IEnumerable<string> names)
    {
        List<string> sorted = [.. names];
        sorted.Sort(StringComparer.Ordinal);
        return sorted;
    }
}
