using System;

namespace Snapuserd.Serve;

/// <summary>The kernel's device mapper as we use it. The tests have one that is no kernel.</summary>
internal interface IMapperDriver : IDisposable
{
    /// <summary>Sends a message, which is the answer afterwards. Returns 0 or a negative errno.</summary>
    int Control(uint command, Span<byte> message);

    /// <summary>The udev that learns of these devices.</summary>
    IUdev Udev { get; }

    /// <summary>Where a device of that name is found.</summary>
    string PathOf(string name);

    /// <summary>Sees to it that <see cref="PathOf"/> leads to that device. Returns 0 or a negative errno.</summary>
    int MakeNode(string name, uint major, uint minor);

    /// <summary>Removes it, if it is still there and led to that device.</summary>
    void RemoveNode(string name, uint major, uint minor);

    /// <summary>Lets <paramref name="milliseconds"/> pass.</summary>
    void Pause(int milliseconds);
}
