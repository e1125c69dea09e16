using Snapuserd.Cow;

namespace Snapuserd.Merge;

/// <summary>Decodes every payload of a COW, without a base.</summary>
public static class PayloadCheck
{
    /// <summary>
    /// Reads the COW, checks its merge order and decodes everything in it. The devices of <paramref name="setup"/> other than the COW are
    /// not touched. Returns the COW, which is the caller's to dispose; exit code 65 when anything in it is bad.
    /// </summary>
    public static CowFile Run(MergeSetup setup)
    {
        CowFile cow = setup.ReadCow();
        try
        {
            cow.Order.Check(setup.SharedBlocks && setup.Overlap is null, default);
            Pipeline.InRestOf(setup, cow).VerifyPayloads(setup.Observer);
            return cow;
        }
        catch
        {
            cow.Dispose();
            throw;
        }
    }
}
