using System;
using System.Collections.Generic;
using System.Linq;
using System.Text;
using Snapuserd.Block;
using Snapuserd.Boot;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Boot;

/// <summary>Where the boot looks for hibernation images, over devices in memory.</summary>
public sealed class HibernationSearchTests
{
    private static readonly string[] s_signatures =
    [
        "S1SUSPEND\0", "S2SUSPEND\0", "ULSUSPEND\0", "LINHIB0001", "\u00ed\u00c3\u0002\u00e9\u0098\u0056\u00e5\u000c\0\0",
    ];

    private readonly FakeDevices _devices = new();

    /// <summary>A swap area with a signature at the end of its first page.</summary>
    private static byte[] Swap(string signature = "SWAPSPACE2", int page = 4096, long offset = 0, int bytes = 1 << 20)
    {
        byte[] device = new byte[bytes];
        device[(offset * page) + 1024] = 1;
        Enumerable.Range(0x10, 16).Select(value => (byte)value).ToArray().CopyTo(device, (offset * page) + 1036);
        "night"u8.CopyTo(device.AsSpan((int)(offset * page) + 1052));
        Encoding.Latin1.GetBytes(signature).CopyTo(device, ((offset + 1) * page) - 10);
        return device;
    }

    private const string Uuid = "10111213-1415-1617-1819-1a1b1c1d1e1f";

    private HibernationLook Look(string commandLine = "quiet") => new HibernationSearch(_devices, commandLine).Look();

    [Fact]
    public void Every_signature_is_seen_on_any_device_with_any_page_size()
    {
        foreach (string signature in s_signatures)
            for (int page = 4096; page <= 65536; page *= 2)
            {
                _devices.Clear();
                for (int i = 0; i < 100; i++) _devices.Add($"sda{i}", Swap());
                _devices.Add("nvme0n1p3", Swap(signature, page));
                HibernationLook look = Look();
                Assert.EndsWith(" on /dev/nvme0n1p3", look.Image);
                Assert.Empty(look.Unknown);
                // A resume= that names another device changes nothing.
                Assert.EndsWith(" on /dev/nvme0n1p3", Look("resume=/dev/sda7").Image);
            }
    }

    [Fact]
    public void Other_content_is_not_taken_for_an_image()
    {
        _devices.Add("sda1", Swap());
        _devices.Add("sda2", Swap("SWAP-SPACE"));
        _devices.Add("sda3", new byte[1 << 20]);
        _devices.Add("sda4", new byte[100]);
        _devices.Add("sda5", Swap("S1SUSPENT\0"));
        // The right signature at a wrong offset.
        byte[] text = new byte[1 << 20];
        "S1SUSPEND"u8.CopyTo(text.AsSpan(4000));
        "S1SUSPEND"u8.CopyTo(text.AsSpan(1 << 19));
        _devices.Add("sda6", text);
        HibernationLook look = Look("resume=/dev/sda1");
        Assert.Null(look.Image);
        Assert.Empty(look.Unknown);
    }

    [Theory]
    [InlineData("/dev/sdb7")]
    [InlineData("/dev/swap")]
    [InlineData("UUID=10111213-1415-1617-1819-1a1b1c1d1e1f")]
    [InlineData("UUID=10111213-1415-1617-1819-1A1B1C1D1E1F")]
    [InlineData("UUID=\"10111213-1415-1617-1819-1a1b1c1d1e1f\"")]
    [InlineData("LABEL=night")]
    [InlineData("LABEL=by\x20night")]
    [InlineData("PARTUUID=ab-02")]
    [InlineData("PARTUUID=AB-02")]
    [InlineData("PARTLABEL=Linux swap")]
    [InlineData("8:23")]
    [InlineData("817")]
    [InlineData("0x817")]
    [InlineData("sdb7")]
    [InlineData("swap:/dev/sdb7")]
    public void The_device_of_resume_is_found_by_every_kind_of_name(string name)
    {
        _devices.Add("sdb6", new byte[1 << 20]);
        // A swap file on the device: no signature at the device's beginning.
        byte[] device = Swap("S1SUSPEND\0", offset: 100);
        bool own = name.Contains("UUID=1", StringComparison.Ordinal) || name.Contains("UUID=\"", StringComparison.Ordinal)
            || name == "LABEL=night";
        if (own) Swap().AsSpan(0, 4096).CopyTo(device);
        _devices.Add("sdb7", device, 8, 23, "ab-02", "Linux swap");
        _devices.Links["/dev/swap"] = (8, 23);
        _devices.Links["/dev/disk/by-label/by\\x20night"] = (8, 23);
        HibernationSearch search = new(_devices, $"quiet \"resume={name}\" resume_offset=100");
        if (name.Contains('"', StringComparison.Ordinal)) search = new(_devices, $"resume={name} resume_offset=100");
        Assert.Null(search.MissingDevice());
        Assert.Equal("S1SUSPEND on /dev/sdb7, page 100", search.Look().Image);
        Assert.Null(Look($"\"resume={name}\"").Image);
        Assert.Null(Look("resume_offset=100").Image);
    }

    [Theory]
    [InlineData(4096)]
    [InlineData(16384)]
    [InlineData(65536)]
    public void A_swap_file_is_searched_with_any_page_size(int page)
    {
        _devices.Add("sda1", Swap("ULSUSPEND\0", page, 5));
        Assert.Equal("ULSUSPEND on /dev/sda1, page 5", Look("resume=/dev/sda1 resume_offset=5").Image);
        Assert.Equal("ULSUSPEND on /dev/sda1, page 5", Look("resume=/dev/sda1 resume-offset=0x5").Image);
        Assert.Null(Look("resume=/dev/sda1 resume_offset=6").Image);
        Assert.Null(Look("resume=/dev/sda1 resume_offset=9223372036854775807").Image);
    }

    [Fact]
    public void The_efi_variable_of_systemd_and_the_kernel_say_where_a_swap_file_is()
    {
        _devices.Add("sda1", Swap("S1SUSPEND\0", offset: 9), 8, 1);
        Assert.Null(Look().Image);
        string json = $$"""{"uuid":"{{Uuid}}","offset":9,"kernelVersion":"6.12"}""";
        _devices.Files[HibernationSearch.EfiVariable] = [7, 0, 0, 0, .. Encoding.Unicode.GetBytes(json)];
        HibernationLook lost = Look();
        Assert.Null(lost.Image);
        Assert.Equal([$"systemd's HibernateLocation is UUID={Uuid}, which is not there"], lost.Unknown);
        _devices.Links[$"/dev/disk/by-uuid/{Uuid}"] = (8, 1);
        Assert.Equal("S1SUSPEND on /dev/sda1, page 9", Look().Image);
        // Invalid content names no location.
        foreach (string nonsense in new[] { "", "{", "{\"uuid\"", "{\"uuid\":", "{\"uuid\":\"", "null", "{\"uuid\":7}" })
        {
            _devices.Files[HibernationSearch.EfiVariable] = [7, 0, 0, 0, .. Encoding.Unicode.GetBytes(nonsense)];
            Assert.Null(Look().Image);
        }
        _devices.Files.Clear();
        _devices.Files[HibernationSearch.KernelDevice] = "8:1\n"u8.ToArray();
        Assert.Null(Look().Image);
        _devices.Files[HibernationSearch.KernelOffset] = "9\n"u8.ToArray();
        Assert.Equal("S1SUSPEND on /dev/sda1, page 9", Look().Image);
        _devices.Files[HibernationSearch.KernelDevice] = "0:0\n"u8.ToArray();
        Assert.Null(Look().Image);
    }

    [Fact]
    public void The_configuration_of_the_initramfs_names_a_device_that_the_command_line_does_not()
    {
        _devices.Add("sda1", Swap());
        _devices.Folders["/conf/conf.d"] = ["resume"];
        _devices.Files["/conf/conf.d/resume"] = "# none yet\nRESUME=UUID=ff\n"u8.ToArray();
        Assert.Equal("UUID=ff", new HibernationSearch(_devices, "quiet").MissingDevice());
        Assert.Null(new HibernationSearch(_devices, "resume=/dev/sda1").MissingDevice());
        _devices.Files["/conf/conf.d/resume"] = "RESUME=none\n"u8.ToArray();
        Assert.Null(new HibernationSearch(_devices, "quiet").MissingDevice());
        _devices.Folders["/etc/cmdline.d"] = ["95resume.conf", "notes"];
        _devices.Files["/etc/cmdline.d/95resume.conf"] = "resume=/dev/disk/by-uuid/ee\n"u8.ToArray();
        _devices.Files["/etc/cmdline.d/notes"] = "noresume\n"u8.ToArray();
        HibernationSearch search = new(_devices, "quiet");
        Assert.Equal(("/dev/disk/by-uuid/ee", null), (search.MissingDevice(), search.Words.Never));
    }

    [Theory]
    [InlineData("quiet noresume", "noresume")]
    [InlineData("nohibernate", "nohibernate")]
    [InlineData("hibernate=no resume=/dev/sda1", "hibernate=no")]
    [InlineData("noresume=1", null)]
    [InlineData("hibernate=noresume", null)]
    [InlineData("xnoresume resume=noresume", null)]
    [InlineData("-- noresume", null)]
    public void Resuming_is_forbidden_by_the_words_that_every_initramfs_obeys(string line, string? word) =>
        Assert.Equal(word, ResumeParameters.Of(line, _ => [], _ => null).Never);

    [Fact]
    public void An_unreadable_device_is_not_an_image_and_is_named()
    {
        foreach (string name in new[] { "sda1", "sdb1", "sdc1", "sdd1", "sde1" })
        {
            _devices.Add(name, Swap());
            _devices.Errors[name] = _ => -Errno.EIO;
        }
        _devices.Add("cd", Swap());
        _devices.Errors["cd"] = _ => -Errno.ENOMEDIUM;
        HibernationLook look = Look("resume=/dev/sdc1");
        Assert.Null(look.Image);
        Assert.Equal(
            ["resume= is /dev/sdc1, which cannot be read: input/output error (EIO)",
                "/dev/sda1, /dev/sdb1, /dev/sdc1 and 2 more cannot be read: input/output error (EIO)"], look.Unknown);
        // A bad sector after the signature does not hide the signature.
        _devices.Clear();
        _devices.Add("sda1", Swap("S1SUSPEND\0"));
        _devices.Errors["sda1"] = end => end > 8192 ? -Errno.EIO : 0;
        Assert.Equal("S1SUSPEND on /dev/sda1", Look().Image);
        _devices.Clear();
        Assert.Equal(["resume= is /dev/none, which is not there"], Look("resume=/dev/none").Unknown);
    }

    [Fact]
    public void Without_the_kernels_list_only_named_devices_are_searched()
    {
        _devices.Add("sda1", Swap("S1SUSPEND\0"), 8, 1);
        _devices.Listed = false;
        HibernationLook look = Look();
        Assert.Null(look.Image);
        Assert.Equal(["the kernel's block devices cannot be listed (/sys)"], look.Unknown);
        Assert.Equal("S1SUSPEND on /dev/sda1", Look("resume=8:1").Image);
    }

    private sealed class FakeDevices : IResumeDevices
    {
        private readonly List<(KernelDevice Device, byte[] Bytes)> _all = [];

        internal Dictionary<string, (uint, uint)> Links { get; } = [];
        internal Dictionary<string, byte[]> Files { get; } = [];
        internal Dictionary<string, List<string>> Folders { get; } = [];
        /// <summary>The error of a read that ends at a given byte; 0 for none.</summary>
        internal Dictionary<string, Func<long, int>> Errors { get; } = [];
        internal bool Listed { get; set; } = true;

        internal void Clear()
        {
            _all.Clear();
            Errors.Clear();
        }

        internal void Add(string name, byte[] bytes, uint major = 0, uint minor = 0, string? uuid = null, string? label = null)
        {
            _all.RemoveAll(one => one.Device.Name == name);
            if (major == 0) (major, minor) = (300, (uint)_all.Count);
            _all.Add((new KernelDevice(major, minor, name, bytes.Length, uuid, label), bytes));
            Links[$"/dev/{name}"] = (major, minor);
        }

        public List<KernelDevice>? All() => Listed ? [.. _all.Select(one => one.Device)] : null;

        public KernelDevice? Of(uint major, uint minor) => _all.Find(one => (one.Device.Major, one.Device.Minor) == (major, minor)).Device;

        public (uint Major, uint Minor)? Number(string path) => Links.TryGetValue(path, out (uint, uint) number) ? number : null;

        public nint Read(KernelDevice device, long offset, Span<byte> bytes)
        {
            if (Errors.TryGetValue(device.Name, out Func<long, int>? error) && error(offset + bytes.Length) is < 0 and int code)
                return code;
            byte[] all = _all.Find(one => one.Device == device).Bytes;
            int length = (int)Math.Clamp(all.Length - offset, 0, bytes.Length);
            if (length > 0) all.AsSpan((int)offset, length).CopyTo(bytes);
            return length;
        }

        public byte[]? Bytes(string path) => Files.GetValueOrDefault(path);

        public List<string> Names(string folder) => Folders.GetValueOrDefault(folder) ?? [];
    }
}
