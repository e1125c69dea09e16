using System;

namespace Snapuserd.Block;

/// <summary>
/// Bytes per second, averaged over the last seconds so that a flush does not make the remaining time jump. Time is in seconds of any
/// clock that never decreases.
/// </summary>
public sealed class RateMeter
{
    /// <summary>Shortest time between two measurements, and time span of the average, in seconds.</summary>
    private const double Interval = 0.1, Memory = 5;

    private double _measuredAt = double.NaN;
    private long _measuredBytes;

    /// <summary>The average; 0 until there are two measurements.</summary>
    public double BytesPerSecond { get; private set; }

    /// <summary>
    /// Records that <paramref name="bytes"/> are done at <paramref name="now"/>. True the first time, when there is no earlier
    /// measurement.
    /// </summary>
    public bool Measure(long bytes, double now)
    {
        if (double.IsNaN(_measuredAt))
        {
            (_measuredAt, _measuredBytes) = (now, bytes);
            return true;
        }
        double passed = now - _measuredAt;
        if (passed < Interval) return false;
        double rate = (bytes - _measuredBytes) / passed;
        double weight = BytesPerSecond == 0 ? 1 : 1 - Math.Exp(-passed / Memory);
        BytesPerSecond += (rate - BytesPerSecond) * weight;
        (_measuredAt, _measuredBytes) = (now, bytes);
        return false;
    }
}
