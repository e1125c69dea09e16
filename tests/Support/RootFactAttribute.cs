using Snapuserd.Interop;
using Xunit;

namespace Snapuserd.Tests.Support;

/// <summary>A test that needs root, because it makes loop devices or mounts; skipped for other users.</summary>
public class RootFactAttribute : FactAttribute
{
    public RootFactAttribute()
    {
        if (Libc.GetEUid() != 0) Skip = "needs root";
    }
}

/// <summary>A test with data that needs root, because it makes loop devices or mounts; skipped for other users.</summary>
public sealed class RootTheoryAttribute : TheoryAttribute
{
    public RootTheoryAttribute()
    {
        if (Libc.GetEUid() != 0) Skip = "needs root";
    }
}
