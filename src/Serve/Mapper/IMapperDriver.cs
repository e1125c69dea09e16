using System;

namespace Snapuserd.Serve;

/// <summary>The kernel's device mapper. Tests replace it with one that needs no kernel.</summary>
internal interface IMapperDriver : IDisposable
{
    /// <summary>Sends a message and receives the reply in the same memory. Returns 0 or a negative errno.</summary>
    int Control(uint command, Span<byte> message);

    /// <summary>The udev that processes the events of these devices.</summary>
    IUdev Udev { get; }

    /// <summary>Path of the device of that name.</summary>
    string PathOf(string name);

    /// <summary>Creates the node or link at <see cref="PathOf"/> for that device. Returns 0 or a negative errno.</summary>
    int MakeNode(string name, uint major, uint minor);

    /// <summary>Removes that node or link if it exists and leads to that device.</summary>
    void RemoveNode(string name, uint major, uint minor);

    /// <summary>Sleeps for <paramref name="milliseconds"/>.</summary>
    void Pause(int milliseconds);
}
