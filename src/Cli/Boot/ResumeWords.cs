using System;
using System.Collections.Generic;
using System.Globalization;

namespace Snapuserd.Cli.Boot;

/// <summary>What the kernel's command line, or the configuration of the initramfs, says about resuming from hibernation.</summary>
internal sealed class ResumeWords
{
    /// <summary>Where an initramfs keeps words of the command line (dracut), and settings of which RESUME= is one (initramfs-tools).</summary>
    internal const string DracutFolder = "/etc/cmdline.d", InitramfsToolsFolder = "/conf/conf.d", InitramfsToolsFile = "/conf/initramfs.conf";

    /// <summary>The word that forbids resuming: "noresume", or one without which the kernel has no hibernation at all; null if there is none.</summary>
    internal string? Never { get; private set; }

    /// <summary>resume=: a path, a tag such as UUID=…, or a number; null if nothing is named.</summary>
    internal string? Device { get; private set; }

    /// <summary>resume_offset=: pages from the beginning of the device to the header of a swap file.</summary>
    internal long Offset { get; private set; }

    /// <summary>The words of the kernel's command line, before them those of dracut's files, and RESUME= of initramfs-tools where there is no resume=.</summary>
    internal static ResumeWords Of(string commandLine, Func<string, IEnumerable<string>> names, Func<string, string?> text)
    {
        ResumeWords words = new();
        words.TakeSettings(text(InitramfsToolsFile));
        foreach (string name in Sorted(names(InitramfsToolsFolder))) words.TakeSettings(text($"{InitramfsToolsFolder}/{name}"));
        words.Take(text("/etc/cmdline"));
        foreach (string name in Sorted(names(DracutFolder)))
            if (name.EndsWith(".conf", StringComparison.Ordinal)) words.Take(text($"{DracutFolder}/{name}"));
        words.Take(commandLine);
        return words;
    }

    /// <summary>A number of pages as the kernel takes it: decimal, or hexadecimal after 0x. 0 for anything else.</summary>
    internal static long Pages(string? text)
    {
        bool hexadecimal = text?.StartsWith("0x", StringComparison.OrdinalIgnoreCase) == true;
        return long.TryParse(hexadecimal ? text.AsSpan(2) : text, hexadecimal ? NumberStyles.AllowHexSpecifier : NumberStyles.None, CultureInfo.InvariantCulture, out long pages) && pages > 0 ? pages : 0;
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

    /// <summary>"none" and "auto" are initramfs-tools' words for no device.</summary>
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
