using System;
using System.Diagnostics;
using System.Globalization;
using System.IO;

namespace Snapuserd.Tests.Benchmarks;

/// <summary>Repeated measurements of one thing, in seconds.</summary>
internal readonly record struct Times(double Median, double Least, double Most)
{
    /// <summary>"0.530 [0.510-0.602]", in seconds.</summary>
    internal string Text => string.Create(CultureInfo.InvariantCulture, $"{Median:0.000} [{Least:0.000}-{Most:0.000}]");

    internal static Times Of(double[] seconds)
    {
        Array.Sort(seconds);
        return new Times(seconds[seconds.Length / 2], seconds[0], seconds[^1]);
    }
}

/// <summary>Two things measured in turns.</summary>
internal static class Turns
{
    /// <summary>
    /// Runs <paramref name="ceiling"/> and <paramref name="ours"/> alternately, <paramref name="count"/> times each after one warm-up, and
    /// returns the times of one run.
    /// </summary>
    internal static (Times Ceiling, Times Ours) Measure(Action ceiling, Action ours, int count)
    {
        double[] first = new double[count], second = new double[count];
        ceiling();
        ours();
        for (int i = 0; i < count; i++)
        {
            first[i] = Time(ceiling);
            second[i] = Time(ours);
        }
        return (Times.Of(first), Times.Of(second));
    }

    /// <summary>
    /// "  name: ceiling 30.1 GB/s [28.0-31.0] (memcpy), ours 29.0 GB/s [...], ratio 0.96"; a rate is <paramref name="amount"/> / time.
    /// </summary>
    internal static void Print(TextWriter output, string name, string ceilingName, (Times Ceiling, Times Ours) times, double amount,
        string unit)
    {
        output.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"  {name,-34} ceiling {Rate(times.Ceiling, amount)} {unit} ({ceilingName}), ours {Rate(times.Ours, amount)} {unit}, ratio "
            + $"{times.Ceiling.Median / times.Ours.Median:0.00}"));
    }

    private static string Rate(Times times, double amount) =>
        string.Create(CultureInfo.InvariantCulture, $"{amount / times.Median:0.0} [{amount / times.Most:0.0}-{amount / times.Least:0.0}]");

    private static double Time(Action action)
    {
        long start = Stopwatch.GetTimestamp();
        action();
        return Stopwatch.GetElapsedTime(start).TotalSeconds;
    }
}
