namespace Snapuserd.Host;

/// <summary>The destination of log records, selected by `--log`.</summary>
public enum LogForm
{
    /// <summary>Warnings, errors and progress as lines on standard error.</summary>
    StandardError,
    /// <summary>Everything as records of the kernel's log.</summary>
    Kernel,
    /// <summary>Everything as JSON objects on standard error.</summary>
    Json,
}
