using Snapuserd.Block;

namespace Snapuserd.Cow;

/// <summary>
/// A COW ends before the end that its own header or ops require: it was not finished, or its copy was interrupted. Exit code 65. No
/// engine begins to merge such a file.
/// </summary>
public sealed class CowCutOffException(string sentence) : SnapuserdException(ExitCode.CowCorrupt, sentence);
