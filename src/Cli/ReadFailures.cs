using System.Threading;
using Snapuserd.Block;
using Snapuserd.Text;

namespace Snapuserd.Cli;

/// <summary>
/// Reports failed reads: the first ones, then the hundredth, the thousandth and so on. A broken disk must not fill the log of the machine
/// that runs on it.
/// </summary>
internal sealed class ReadFailures(Invocation invocation)
{
    private const int InFull = 20;

    private int _count;

    /// <summary>Reports one failed read; from any thread.</summary>
    internal void Tell(string sentence)
    {
        int count = Interlocked.Increment(ref _count);
        if (count > InFull && !IsPowerOfTen(count)) return;
        if (invocation.Arguments.Has("--json"))
            invocation.Output.Result(JsonLine.Event("read_failed").Add("message", sentence).Add("count", count).ToString());
        invocation.Output.Write(Priority.Warning, "read_failed",
            count <= InFull ? sentence : $"{sentence}; {count} reads have failed so far", new LogValue("count", count));
    }

    private static bool IsPowerOfTen(int number)
    {
        while (number % 10 == 0) number /= 10;
        return number == 1;
    }
}
