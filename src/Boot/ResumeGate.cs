using Snapuserd.Block;

namespace Snapuserd.Boot;

/// <summary>
/// Prevents all writes of a boot while a hibernation image may be resumed. The system in the image has caches of its disks and writes them
/// back when it resumes, over the merged data; and even the start of a server changes a COW.
/// <para>
/// A device that is missing or cannot be read does not prove that there is an image, and the system may start without it. Only a warning
/// names it.
/// </para>
/// </summary>
public sealed class ResumeGate(IBootSystem system, ILog log, BootOptions options)
{
    private const int PauseMilliseconds = 250;

    private bool _toldUnknown, _toldLost;

    /// <summary>
    /// Waits for the device of resume= until the clock shows <paramref name="deadline"/>, then searches as <see cref="Check"/> does.
    /// </summary>
    public void Await(long deadline)
    {
        // Search before the wait: an image may exist on another device.
        Check(tellUnknown: false);
        if (options.NoResume != null || options.AfterResume || system.MissingResumeDevice() == null) return;
        while (system.MissingResumeDevice() != null && system.Milliseconds < deadline) system.Pause(PauseMilliseconds);
        Check(tellUnknown: false);
    }

    /// <summary>Throws with exit code 78 if there is an image, unless the kernel's command line discards it.</summary>
    public void Check(bool tellUnknown = true)
    {
        HibernationLook look = system.LookForImage();
        if (look.Image != null && options.NoResume == null)
        {
            throw new SnapuserdException(ExitCode.Hibernated,
                $"a hibernation image is there ({look.Image}): the system in it would overwrite what is merged now, so nothing is done; "
                + "let it resume, or give it up with noresume on the kernel's command line");
        }
        if (look.Image != null && !_toldLost)
        {
            _toldLost = true;
            log.Write(Priority.Warning, "image_given_up",
                $"a hibernation image is there ({look.Image}), and {options.NoResume} on the kernel's command line gives it up: it must "
                + "never be resumed, because the disks change now (swapon or mkswap removes it)");
        }
        if (!tellUnknown || _toldUnknown) return;
        _toldUnknown = true;
        foreach (string sentence in look.Unknown)
            log.Write(Priority.Warning, "image_unknown", $"whether there is a hibernation image is not known: {sentence}");
    }
}
