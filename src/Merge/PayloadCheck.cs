using Snapuserd.Cow;

namespace Snapuserd.Merge;

/// <summary>Decodes every payload of a COW, without a base.</summary>
public static class PayloadCheck
{
    /// <summary>
    /// Reads the COW, checks its merge order and decodes every payload. Does not touch the devices of <paramref name="setup"/> other than
    /// the COW. Returns the COW, which the caller disposes. Exit code 65 if anything in it is bad.
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
