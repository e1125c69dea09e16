using System;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;

namespace Snapuserd.Cli.Boot;

/// <summary>What has become of a COW.</summary>
internal enum CowKind
{
    /// <summary>There is no such file, and there was to be a folder that it could be in.</summary>
    Absent,
    /// <summary>A block device that no COW was ever completed on.</summary>
    Blank,
    /// <summary>A COW that nobody has begun to merge: the base is the old image.</summary>
    Untouched,
    /// <summary>A COW whose merge has begun: the base may be neither the old image nor the new one, and to go on is the only way.</summary>
    Begun,
    /// <summary>A COW of which nothing shows whether its merge has begun: the base may be the old image, or neither.</summary>
    Doubtful,
    /// <summary>All is merged: the base is the new image.</summary>
    Merged,
    /// <summary>Something that cannot be served: <see cref="CowState.BaseIsUntouched"/> says what the base is.</summary>
    Corrupt,
}

/// <summary>
/// What a COW says about itself and its base, without anything being written. <paramref name="BaseIsUntouched"/>: the base is the old image for certain. <paramref name="Code"/> and <paramref name="Sentence"/> say what is wrong
/// with it, or how it is.
/// <para>
/// Certain is only this: before the first write to a base the engine makes the scratch state byte 1 durable, and never 0 again (design §5), and Android's writes its first window into scratch
/// and makes the byte 2. So a COW with scratch, a count of 0 and a state byte of 0 has an untouched base. A count of 0 alone proves nothing, because ops are written before they are counted; and without
/// scratch (format 1, and files that were made so) nothing else is there to look at.
/// </para>
/// </summary>
internal sealed record CowState(CowKind Kind, bool BaseIsUntouched, ExitCode Code, string Sentence)
{
    internal static readonly CowState Absent = new(CowKind.Absent, true, ExitCode.Done, "there is no update");

    /// <summary>Looks at the COW at <paramref name="path"/>, which is there, for a base and a source of so many bytes.</summary>
    internal static CowState Read(string path, long baseBytes, long sourceBytes, bool sourceIsBase)
    {
        try
        {
            using CowInput input = new(path);
            return Of(input.Source, input.IsBlockDevice, baseBytes, sourceBytes, sourceIsBase);
        }
        catch (SnapuserdException e)
        {
            return new CowState(CowKind.Corrupt, false, e.Code, e.Message);
        }
    }

    /// <summary>The same for bytes from anywhere.</summary>
    internal static CowState Of(IByteSource source, bool isBlockDevice, long baseBytes, long sourceBytes, bool sourceIsBase)
    {
        bool untouched = false;
        try
        {
            if (isBlockDevice && IsBlank(source)) return new CowState(CowKind.Blank, true, ExitCode.Done, $"there is no update on {source.Name}");
            CowHeader header = CowHeader.Parse(source);
            ScratchLayout scratch = new(header.HeaderBytes, header.ScratchBytes);
            int state = -1;
            if (scratch.Window > 0)
            {
                Span<byte> one = stackalloc byte[1];
                source.Read(scratch.StateOffset, one);
                state = one[0];
            }
            untouched = header.Major >= 2 && header.NumMergeOps == 0 && state == ScratchLayout.NeverUsed;

            using CowFile cow = CowFile.Read(source);
            if (header.Major < 2) throw new SnapuserdException(ExitCode.CowCorrupt, $"{source.Name}: version {header.Major} can be neither served nor merged");
            int total = cow.Order.Count;
            if (header.NumMergeOps == (ulong)total) return new CowState(CowKind.Merged, false, ExitCode.Done, $"all {total} ops of {source.Name} are merged");
            cow.CheckDevices(baseBytes, sourceBytes);
            cow.Order.Check(sharedDevices: true, default, sourceIsBase);
            if (untouched) return new CowState(CowKind.Untouched, true, ExitCode.Done, $"nothing of {source.Name} is merged");
            if (header.NumMergeOps == 0 && state < 0) return new CowState(CowKind.Doubtful, false, ExitCode.Done, $"nothing shows whether the merge of {source.Name} has begun, because it has no scratch");
            return new CowState(CowKind.Begun, false, ExitCode.Done, header.NumMergeOps > 0 ? $"{header.NumMergeOps} of {total} ops of {source.Name} are merged" : $"the merge of {source.Name} has begun");
        }
        catch (SnapuserdException e)
        {
            return new CowState(CowKind.Corrupt, untouched, e.Code, e.Message);
        }
    }

    /// <summary>`create` writes the magic to a device when all else is durable, and no merge takes a COW without it; a device that was wiped begins with zeros as well.</summary>
    private static bool IsBlank(IByteSource source)
    {
        Span<byte> magic = stackalloc byte[sizeof(ulong)];
        if (source.Length < magic.Length) return false;
        source.Read(0, magic);
        return !magic.ContainsAnyExcept((byte)0);
    }
}
