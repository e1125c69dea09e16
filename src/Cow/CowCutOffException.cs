using Snapuserd.Block;

namespace Snapuserd.Cow;

/// <summary>
/// A COW file is shorter than its own header or ops require, because it was not finished or its copy was interrupted. Exit code 65. Neither
/// this program nor Android starts to merge such a file.
/// </summary>
public sealed class CowCutOffException(string sentence) : SnapuserdException(ExitCode.CowCorrupt, sentence);
