using Snapuserd.Block;
using Snapuserd.Cow;

namespace Snapuserd.Merge;

/// <summary>
/// Makes one unit of a payload: <paramref name="Stored"/> as it lies in the COW, decompressed into <paramref name="Unit"/>, and for an
/// Xor (<paramref name="Target"/> not empty) XORed into the source block that waits in <paramref name="Target"/>. With
/// <see cref="CowCompression.None"/> the unit is what was stored, and both slices are the same.
/// </summary>
public readonly record struct DecodeJob(CowCompression Algorithm, Slice Stored, Slice Unit, Slice Target);

/// <summary>A worker that does <see cref="DecodeJob"/>s in an arena, with codec contexts of its own.</summary>
public sealed class DecodeWorker(Arena arena) : IWorker<DecodeJob>
{
    private readonly UnitDecoder _decoder = new();

    /// <summary>0, or the decoder's negative error.</summary>
    public int Do(in DecodeJob job)
    {
        if (job.Algorithm != CowCompression.None)
        {
            int result = _decoder.Decode(job.Algorithm, arena[job.Stored], arena[job.Unit]);
            if (result < 0) return result;
        }
        if (job.Target.Length > 0) XorKernel.XorInto(arena[job.Target], arena[job.Unit]);
        return 0;
    }

    /// <inheritdoc/>
    public void Dispose() => _decoder.Dispose();
}
