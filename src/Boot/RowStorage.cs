using System.Collections.Generic;
using Snapuserd.Block;

namespace Snapuserd.Boot;

/// <summary>
/// Applies the rule of <see cref="BootTable.Add"/> to devices and files instead of paths: no COW or base shares a byte with another row's
/// COW, base or source, or with its own row's COW. Different names of one device count as the same: links, nodes, loop devices, partitions,
/// mapped devices, hard links.
/// </summary>
public static class RowStorage
{
    /// <summary>
    /// Throws with exit code 64 (EX_USAGE) for the first two files or devices that share storage. Ignores those that cannot be opened:
    /// their row fails with the reason, or nothing is written to them.
    /// </summary>
    public static void Check(List<BootRow> rows)
    {
        List<Part> parts = [];
        foreach (BootRow row in rows)
        {
            foreach (Part part in Parts(row))
            {
                foreach (Part other in parts)
                    if (!MayShare(part, other)) Compare(part, other);
                parts.Add(part);
            }
        }
    }

    private static IEnumerable<Part> Parts(BootRow row)
    {
        foreach ((string what, string? path) in ((string, string?)[])[("base", row.Base), ("COW", row.Cow), ("source", row.Source)])
            if (path != null && Open(path) is { } storage) yield return new Part(row, what, path, storage);
    }

    /// <summary>Two rows may share a source, and a row's source may be its base.</summary>
    private static bool MayShare(Part one, Part other) =>
        one.What == "source" && (other.What == "source" || (one.Row == other.Row && other.What == "base"));

    private static void Compare(Part part, Part other)
    {
        StorageRelation relation = part.Storage.RelationTo(other.Storage, out _);
        if (relation is not (StorageRelation.Equal or StorageRelation.Overlapping)) return;
        string of = other.Row == part.Row ? "of the same row" : $"of {other.Row.Origin}";
        throw BootTable.Wrong(part.Row.Origin, relation == StorageRelation.Equal
            ? $"the {part.What} {part.Path} is the {other.What} {other.Path} {of}, under another name"
            : $"the {part.What} {part.Path} and the {other.What} {other.Path} {of} have bytes in common");
    }

    private static StorageIdentity? Open(string path)
    {
        try
        {
            using BlockDevice device = BlockDevice.Open(path, DeviceAccess.Read);
            return device.Storage;
        }
        catch (SnapuserdException)
        {
            return null;
        }
    }

    private sealed record Part(BootRow Row, string What, string Path, StorageIdentity Storage);
}
