using System;
using System.Collections.Generic;
using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Text;

namespace Snapuserd.Boot;

/// <summary>
/// The result of a search for a hibernation image: the location of one (null if none was found), and sentences about places that could not
/// be read.
/// </summary>
public sealed record HibernationLook(string? Image, List<string> Unknown)
{
    public static readonly HibernationLook Nothing = new(null, []);
}

/// <summary>
/// Searches for a hibernation image at the places that resume= and resume_offset=, systemd's EFI variable and the kernel name, and at the
/// start of every block device. The system in an image has cached its disks, and writes the old data back when it is resumed; data that a
/// merge has written meanwhile would be lost.
/// </summary>
public sealed class HibernationSearch(IResumeDevices devices, string commandLine)
{
    /// <summary>systemd's variable with the location of the image: four bytes of attributes, then JSON in UTF-16.</summary>
    public const string EfiVariable = "/sys/firmware/efi/efivars/HibernateLocation-8cf2644b-4b0b-428f-9387-6d876050dc67";

    /// <summary>The device from which the kernel resumes or has tried to ("8:2"), and the offset in pages.</summary>
    public const string KernelDevice = "/sys/power/resume", KernelOffset = "/sys/power/resume_offset";

    private const int MostNames = 3;

    /// <summary>The settings for resuming, such as resume=.</summary>
    public ResumeParameters Words { get; } = ResumeParameters.Of(commandLine, devices.Names, path => Text(devices.Bytes(path)));

    /// <summary>The value of resume=, if no such device exists yet.</summary>
    public string? MissingDevice() => Words.Device is { } device && Find(device, devices.All() ?? []) == null ? device : null;

    /// <summary>Searches all places; writes nothing.</summary>
    public HibernationLook Look()
    {
        List<KernelDevice>? all = devices.All();
        List<string> unknown = [];
        foreach ((string origin, string device, long offset) in Places())
        {
            if (Find(device, all ?? []) is not { } found) unknown.Add($"{origin} is {device}, which is not there");
            else if (ImageAt(found, offset, out nint error) is { } image) return new HibernationLook(Place(image, found, offset), []);
            else if (error < 0) unknown.Add($"{origin} is {device}, which cannot be read: {ErrnoText.Of((int)error)}");
        }
        if (all == null) unknown.Add("the kernel's block devices cannot be listed (/sys)");
        List<string> unread = [];
        nint last = 0;
        foreach (KernelDevice device in all ?? [])
        {
            if (ImageAt(device, 0, out nint error) is { } image) return new HibernationLook(Place(image, device, 0), []);
            // The list includes drives without a medium.
            if (error >= 0 || error is -Errno.ENXIO or -Errno.ENODEV or -Errno.ENOMEDIUM) continue;
            unread.Add($"/dev/{device.Name}");
            last = error;
        }
        if (unread.Count > 0)
        {
            string names = string.Join(", ", unread.GetRange(0, Math.Min(unread.Count, MostNames)));
            string more = unread.Count > MostNames ? $" and {unread.Count - MostNames} more" : "";
            unknown.Add($"{names}{more} cannot be read: {ErrnoText.Of((int)last)}");
        }
        return new HibernationLook(null, unknown);
    }

    private static string Place(string image, KernelDevice device, long offset) =>
        $"{image} on /dev/{device.Name}{(offset > 0 ? $", page {offset}" : "")}";

    /// <summary>The configured locations of an image.</summary>
    private List<(string Origin, string Device, long Offset)> Places()
    {
        List<(string, string, long)> places = [];
        if (Words.Device is { } device) places.Add(("resume=", device, Words.Offset));
        if (devices.Bytes(EfiVariable) is { Length: > 4 } variable)
        {
            string json = Text(variable.AsSpan(4).ToArray())!.Replace("\0", "", StringComparison.Ordinal);
            if (JsonFields.Parse(json.Trim()) is { } fields && fields.Text("uuid") is { Length: > 0 } uuid)
                places.Add(("systemd's HibernateLocation", $"UUID={uuid}", ResumeParameters.Pages(fields.Text("offset"))));
        }
        string kernel = Text(devices.Bytes(KernelDevice))?.Trim() ?? "";
        if (kernel is not ("" or "0:0"))
            places.Add((KernelDevice, kernel, ResumeParameters.Pages(Text(devices.Bytes(KernelOffset))?.Trim())));
        return places;
    }

    /// <summary>
    /// The device for a value of resume=, as udev, the kernel or initramfs-tools interpret it; null if it does not exist.
    /// </summary>
    private KernelDevice? Find(string value, List<KernelDevice> all)
    {
        ReadOnlySpan<string> tags = ["UUID=", "LABEL=", "PARTUUID=", "PARTLABEL="];
        ReadOnlySpan<string> folders = ["by-uuid", "by-label", "by-partuuid", "by-partlabel"];
        for (int i = 0; i < tags.Length; i++)
        {
            if (!value.StartsWith(tags[i], StringComparison.Ordinal)) continue;
            string name = value[tags[i].Length..];
            return At($"/dev/disk/{folders[i]}/{UdevName.Of(name)}") ?? At($"/dev/disk/{folders[i]}/{UdevName.Of(name.ToLowerInvariant())}")
                ?? all.Find(device => Has(device, value, name));
        }
        if (value.StartsWith('/')) return At(value) ?? all.Find(device => value == $"/dev/{device.Name}");
        string[] numbers = value.Split(':');
        if (numbers.Length >= 2 && uint.TryParse(numbers[0], NumberStyles.None, CultureInfo.InvariantCulture, out uint major)
            && uint.TryParse(numbers[1], NumberStyles.None, CultureInfo.InvariantCulture, out uint minor))
            return devices.Of(major, minor);
        if (all.Find(device => device.Name == value) is { } named) return named;
        if (!uint.TryParse(value.StartsWith("0x", StringComparison.Ordinal) ? value.AsSpan(2) : value, NumberStyles.AllowHexSpecifier,
            CultureInfo.InvariantCulture, out uint number))
            return null;
        (major, minor) = Libc.DecodeDevice(number);
        return devices.Of(major, minor);
    }

    private KernelDevice? At(string path) => devices.Number(path) is { } number ? devices.Of(number.Major, number.Minor) : null;

    /// <summary>Compares the tag with the swap area's or the kernel's own data, for a system without udev.</summary>
    private bool Has(KernelDevice device, string tagged, string name)
    {
        if (tagged.StartsWith("PARTUUID=", StringComparison.Ordinal))
            return name.Equals(device.PartitionUuid, StringComparison.OrdinalIgnoreCase);
        if (tagged.StartsWith("PARTLABEL=", StringComparison.Ordinal)) return name == device.PartitionLabel;
        byte[] header = new byte[SwapHeader.LargestPage];
        nint read = devices.Read(device, 0, header);
        if (read <= 0) return false;
        ReadOnlySpan<byte> bytes = header.AsSpan(0, (int)read);
        return tagged.StartsWith("UUID=", StringComparison.Ordinal) ? SwapHeader.HasUuid(bytes, name) : SwapHeader.HasLabel(bytes, name);
    }

    /// <summary>
    /// Returns the signature of an image whose header is at page <paramref name="offset"/> of a device; tries every possible page size.
    /// <paramref name="error"/> is negative if a place could not be read.
    /// </summary>
    private string? ImageAt(KernelDevice device, long offset, out nint error)
    {
        error = 0;
        if (offset == 0)
        {
            byte[] header = new byte[SwapHeader.LargestPage];
            nint read = devices.Read(device, 0, header);
            if (read >= 0) return SwapHeader.ImageIn(header.AsSpan(0, (int)read));
        }
        // Read each signature by itself. If the whole header could not be read, its bad sector may lie outside the signatures.
        byte[] signature = new byte[SwapHeader.SignatureBytes];
        for (int page = SwapHeader.SmallestPage; page <= SwapHeader.LargestPage; page *= 2)
        {
            if (offset >= (long.MaxValue / page) - 1) break;
            nint read = devices.Read(device, ((offset + 1) * page) - SwapHeader.SignatureBytes, signature);
            if (read < 0) error = read;
            else if (SwapHeader.Image(signature.AsSpan(0, (int)read)) is { } image) return image;
        }
        return null;
    }

    private static string? Text(byte[]? bytes) => bytes == null ? null : ByteText.Decode(bytes);
}
