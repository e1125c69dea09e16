using System;
using System.Collections.Generic;
using Snapuserd.Block;

namespace Snapuserd.Cli.Boot;

/// <summary>What the search for a hibernation image asks the system. The tests have one of their own.</summary>
internal interface IResumeDevices
{
    /// <summary>The block devices that can be looked at; null if the kernel's list cannot be had.</summary>
    List<KernelDevice>? All();

    /// <summary>The device of a number; null if there is none.</summary>
    KernelDevice? Of(uint major, uint minor);

    /// <summary>The number of the block device that a path leads to; null if it leads to none.</summary>
    (uint Major, uint Minor)? Number(string path);

    /// <summary>Reads a device; bytes, or a negative errno.</summary>
    nint Read(KernelDevice device, long offset, Span<byte> bytes);

    /// <summary>A small file; null if it is not there or cannot be read.</summary>
    byte[]? Bytes(string path);

    /// <summary>The names in a folder; none if it is not there.</summary>
    List<string> Names(string folder);
}
