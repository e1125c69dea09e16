using System.Collections.Generic;

namespace Snapuserd.AndroidDevice;

/// <summary>
/// The order of the merges of one device, and the proof by their physical sectors that no merge overwrites what another one has still to
/// read. Two checks of <see cref="PlanComposer"/> already imply it: a new partition begins with the sectors of the old one, and neither
/// table has overlapping partitions. The check here does not depend on them.
/// </summary>
internal static class MergeOrder
{
    /// <summary>Sorts the merges: first phase, second phase; within one, system and product, as Android does; then by name.</summary>
    internal static void Sort(List<PlannedMerge> merges) =>
        merges.Sort((a, b) => a.Phase != b.Phase ? a.Phase - b.Phase
            : Rank(a) != Rank(b) ? Rank(a) - Rank(b) : string.CompareOrdinal(a.Name, b.Name));

    /// <summary>
    /// Checks sorted merges. No COW shares a sector with a base, a source or another COW, and no base with another base. No merge
    /// overwrites sectors that one of the same or of a later phase reads.
    /// </summary>
    internal static void Check(List<PlannedMerge> merges)
    {
        foreach (PlannedMerge merge in merges)
        {
            foreach (PlannedMerge other in merges)
            {
                Refuse("the COW", merge, "the base", other, DevicePiece.Overlap(merge.Cow, other.Base));
                Refuse("the COW", merge, "the source", other, DevicePiece.Overlap(merge.Cow, other.Source));
                if (ReferenceEquals(merge, other)) continue;
                Refuse("the COW", merge, "the COW", other, DevicePiece.Overlap(merge.Cow, other.Cow));
                Refuse("the base", merge, "the base", other, DevicePiece.Overlap(merge.Base, other.Base));
                if (merge.Phase <= other.Phase)
                    Refuse("the base", merge, "the source", other, DevicePiece.Overlap(merge.Base, other.Source));
            }
        }
    }

    private static void Refuse(string role, PlannedMerge merge, string otherRole, PlannedMerge other, DevicePiece? shared)
    {
        if (shared is { } piece)
            throw RefusedException.Damaged($"{role} of {merge.Name} and {otherRole} of {other.Name} share the sectors {piece}");
    }

    /// <summary>Android merges system and product first.</summary>
    private static int Rank(PlannedMerge merge) => merge.Name[..^2] switch { "system" => 0, "product" => 1, _ => 2 };
}
