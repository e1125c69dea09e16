using System;

namespace Snapuserd.Serve;

/// <summary>The kernel's device mapper. Tests replace it with one that needs no kernel.</summary>
internal interface IMapperDriver : IDisposable
{
    /// <summary>Sends a message and receives the answer in the same memory. Returns 0 or a negative errno.</summary>
    int Control(uint command, Span<byte> message);

    /// <summary>The udev that handles events of these devices.</summary>
    IUdev Udev { get; }

    /// <summary>Path of the device of that name.</summary>
    string PathOf(string name);

    /// <summary>Makes <see cref="PathOf"/> lead to that device. Returns 0 or a negative errno.</summary>
    int MakeNode(string name, uint major, uint minor);

    /// <summary>Removes the path if it still exists and leads to that device.</summary>
    void RemoveNode(string name, uint major, uint minor);

    /// <summary>Sleeps for <paramref name="milliseconds"/>.</summary>
    void Pause(int milliseconds);
}
