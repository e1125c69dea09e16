using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Create;

/// <summary>
/// A block queue over images that are only read. Reads after the end of an image return arbitrary bytes, as from a base that was extended
/// for the new image. With zeros there, an update that fails to write a part of it could pass a check.
/// </summary>
public sealed class ImageQueue(IImageReader[] images, Arena arena, int depth) : IBlockQueue
{
    private readonly BlockCompletion[] _ended = new BlockCompletion[depth];
    private int _count;

    private const byte Anything = 0xa5;

    public int Depth => depth;

    public bool TryQueue(in BlockRequest request)
    {
        if (_count == depth) return false;
        _ended[_count++] = new BlockCompletion(request.Tag, Perform(request));
        return true;
    }

    public int Wait(Span<BlockCompletion> completions)
    {
        int count = Math.Min(_count, completions.Length);
        _ended.AsSpan(0, count).CopyTo(completions);
        _ended.AsSpan(count, _count - count).CopyTo(_ended);
        _count -= count;
        return count;
    }

    public int Perform(in BlockRequest request)
    {
        if (request.Verb != BlockVerb.Read) return -Errno.EROFS;
        IImageReader image = images[request.Device];
        Span<byte> buffer = arena[request.Buffer];
        int inside = (int)Math.Clamp(image.Length - request.Offset, 0, buffer.Length);
        image.Read(request.Offset, buffer[..inside]);
        buffer[inside..].Fill(Anything);
        return buffer.Length;
    }

    public void Dispose() => _count = 0;
}
