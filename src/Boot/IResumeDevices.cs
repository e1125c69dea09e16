using System;
using System.Collections.Generic;
using Snapuserd.Block;

namespace Snapuserd.Boot;

/// <summary>The devices and files that the search for a hibernation image reads. Tests replace them.</summary>
public interface IResumeDevices
{
    /// <summary>The readable block devices; null if the kernel's list is not available.</summary>
    List<KernelDevice>? All();

    /// <summary>The device with that number; null if there is none.</summary>
    KernelDevice? Of(uint major, uint minor);

    /// <summary>The number of the block device at a path; null if there is none.</summary>
    (uint Major, uint Minor)? Number(string path);

    /// <summary>Reads from a device; returns the bytes read, or a negative errno.</summary>
    nint Read(KernelDevice device, long offset, Span<byte> bytes);

    /// <summary>The content of a small file; null if it does not exist or cannot be read.</summary>
    byte[]? Bytes(string path);

    /// <summary>The names in a folder; none if it does not exist.</summary>
    List<string> Names(string folder);
}
