using System;
using System.Threading;

namespace Snapuserd.Control;

/// <summary>
/// Selects the failed reads that are reported: the first ones, then the hundredth, the thousandth and so on. A broken disk must not fill
/// the log of the machine that runs on it.
/// </summary>
/// <param name="report">Receives the message of a failed read and the number of failed reads so far; called on any thread.</param>
public sealed class ReadFailures(Action<string, int> report)
{
    /// <summary>The number of failed reads at the beginning that are all reported.</summary>
    public const int InFull = 20;

    private int _count;

    /// <summary>Counts one failed read, and reports it if it is selected; from any thread.</summary>
    public void Tell(string sentence)
    {
        int count = Interlocked.Increment(ref _count);
        if (count <= InFull || IsPowerOfTen(count)) report(sentence, count);
    }

    private static bool IsPowerOfTen(int number)
    {
        while (number % 10 == 0) number /= 10;
        return number == 1;
    }
}
