using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;

namespace Snapuserd.Tests.Mutants;

/// <summary>The parts of the product that are mutated.</summary>
public static class Scope
{
    /// <summary>Folders and files of the product, and why each is included.</summary>
    public static IReadOnlyList<(string Path, string Why)> Parts { get; } =
    [
        ("src/Merge", "the merge engine"),
        ("src/Block", "devices, rings, locks and identities that the merge relies on"),
        ("src/Cow", "reading and writing COWs"),
        ("src/Serve/ReadContext.cs", "the served read path"),
        ("src/Serve/SnapshotView.cs", "the served read path"),
        ("src/Serve/UnitCache.cs", "the served read path"),
        ("src/Serve/ViewRead.cs", "the served read path"),
        ("src/Serve/ViewReader.cs", "the served read path"),
        ("src/Serve/Mapper/MappedDevice.cs", "publishes the swapped table"),
        ("src/Merge/Lifecycle/MergeMarker.cs", "publishes the marker"),
        ("src/Merge/Lifecycle/MarkerState.cs", "reads the marker"),
        ("src/AndroidDaemon/SocketHandOver.cs", "hands the socket over"),
        ("src/Merge/Devices/StorageReserver.cs", "reserves space before the first write"),
        ("src/Merge/Devices/DeviceSet.cs", "detects write-back errors before a merge"),
        ("src/Control/Snapshot.cs", "reports that a merge is done"),
        ("src/Create/CowCreation.cs", "writes the COW that is published"),
        ("src/Boot/BootSystem.cs", "flushes before it swaps a table"),
        ("src/Images/BegunCow.cs", "protects a COW whose merge has begun"),
        ("src/Images/AtomicFile.cs", "publishes a COW by rename"),
        ("src/Cli/ExtractVerb.cs", "exit code after the flush"),
        ("src/Images/DeferredMagic.cs", "publishes a COW on a device by its magic"),
        ("src/Images/ImageFile.cs", "publishes an image by rename"),
        ("src/Cli/MergeVerb.cs", "exit code after the flush"),
        ("src/Images/TemporaryName.cs", "renames outputs"),
        ("src/Cli/ReadyReport.cs", "the ready message"),
        ("src/Host/ReadyNotifier.cs", "the ready message"),
        ("src/Host/ResumeCount.cs", "hands the count over"),
        ("src/Host/PersistedControlState.cs", "hands requests over"),
        ("src/Images/StreamImage.cs", "exit code after the flush"),
    ];

    /// <summary>All files of <see cref="Parts"/> below the root, by path; throws if one of the parts does not exist.</summary>
    public static IReadOnlyList<string> Files(string root)
    {
        List<string> files = [];
        foreach ((string part, _) in Parts)
        {
            string path = Path.Combine(root, part);
            if (File.Exists(path)) files.Add(part);
            else files.AddRange(Sources(root, part));
        }
        // A file may be listed for a reason of its own and also lie in a listed folder.
        return [.. files.Distinct().Order(StringComparer.Ordinal)];
    }

    /// <summary>The C# files of a folder, without build output, by path below the root.</summary>
    public static IEnumerable<string> Sources(string root, string folder) =>
        from path in Directory.EnumerateFiles(Path.Combine(root, folder), "*.cs", SearchOption.AllDirectories)
        let name = Path.GetRelativePath(root, path)
        where !name.Contains("/obj/", StringComparison.Ordinal) && !name.Contains("/bin/", StringComparison.Ordinal)
        orderby name
        select name;
}
