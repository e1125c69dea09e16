using System;

namespace Snapuserd.Text;

/// <summary>Messages about unknown words, with the known word that the user probably meant.</summary>
public static class Suggestion
{
    /// <summary>"unknown option '--bsae'; did you mean --base?"</summary>
    public static string Unknown(string what, string given, ReadOnlySpan<string> known)
    {
        string? nearest = null;
        // One wrong letter in three still counts as a typo; a word with more is a different word. Leading dashes are not counted as
        // letters.
        int best = Math.Max(1, given.AsSpan().TrimStart('-').Length / 3) + 1;
        foreach (string candidate in known)
        {
            int distance = Distance(given, candidate);
            if (given.Length > 3 && candidate.StartsWith(given, StringComparison.Ordinal)) distance = 1;
            if (distance < best) (best, nearest) = (distance, candidate);
        }
        return nearest == null ? $"unknown {what} '{given}'" : $"unknown {what} '{given}'; did you mean {nearest}?";
    }

    /// <summary>Levenshtein distance, in which two exchanged neighbours count as one typo.</summary>
    private static int Distance(string a, string b)
    {
        var rows = new int[a.Length + 1, b.Length + 1];
        for (int i = 0; i <= a.Length; i++) rows[i, 0] = i;
        for (int j = 0; j <= b.Length; j++) rows[0, j] = j;
        for (int i = 1; i <= a.Length; i++)
        {
            for (int j = 1; j <= b.Length; j++)
            {
                int change = rows[i - 1, j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
                rows[i, j] = Math.Min(change, Math.Min(rows[i - 1, j], rows[i, j - 1]) + 1);
                if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                    rows[i, j] = Math.Min(rows[i, j], rows[i - 2, j - 2] + 1);
            }
        }
        return rows[a.Length, b.Length];
    }
}
