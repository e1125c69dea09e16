using System;
using System.Globalization;
using Snapuserd.Control;

namespace Snapuserd.AndroidDaemon;

/// <summary>
/// Executes the requests of Android's libsnapshot (daemon §3): words separated by commas, without escapes; a comma at the end adds no
/// word. A missing word is an error, and so is a surplus word unless Android's daemon ignores it.
/// </summary>
public sealed class AndroidRequests(SnapshotSet set) : IControlRequests
{
    private const string Success = "success";
    private const string Fail = "fail";
    private const int SectorBytes = 512;

    /// <inheritdoc/>
    public void Request(string text, ControlReply reply)
    {
        switch (Words(text))
        {
            case ["query", ..]: reply.End(set.IsTerminating ? "passive" : "active"); break;
            case ["init", var name, var cow, var source, var baseDevice]:
                set.Add(new SnapshotRequest(name, cow, source, baseDevice), bytes => reply.End(Added(bytes)));
                break;
            case ["start", var name]: set.Start(name, started => reply.End(Word(started))); break;
            case ["initiate_merge", var name]: reply.End(Word(set.InitiateMerge(name))); break;
            case ["merge_percent", ..]: reply.End(set.MergePercent.ToString("F6", CultureInfo.InvariantCulture)); break;
            case ["getstatus", var name]: reply.End(set.StatusOf(name)); break;
            case ["getstatus", ..]: reply.End(set.StatusOf("")); break;
            case ["update-verify", ..]: set.VerifyUpdate(verified => reply.End(Word(verified))); break;
            case ["delete", var name]: set.Delete(name, () => reply.End(Success)); break;
            case ["detach", ..]:
                set.Detach();
                reply.End();
                break;
            case ["stop", ..]:
                set.StopAll();
                reply.End();
                break;
            case ["supports", var feature]: reply.End(Word(feature == "second_stage_socket_handoff")); break;
            case ["pause_merge", ..]: Hold(paused: true, reply); break;
            case ["resume_merge", ..]: Hold(paused: false, reply); break;
            // Too few or too many words.
            case ["init" or "start" or "initiate_merge" or "delete" or "supports", ..]: reply.End(Fail); break;
            default: reply.End(Fail, close: true); break;
        }
    }

    private void Hold(bool paused, ControlReply reply)
    {
        set.Hold(paused);
        reply.End(Success);
    }

    /// <summary>The reply to "init": the length of the device in sectors, or a failure.</summary>
    private static string Added(long bytes) =>
        bytes < SectorBytes ? Fail : string.Create(CultureInfo.InvariantCulture, $"{Success},{bytes / SectorBytes}");

    private static string Word(bool good) => good ? Success : Fail;

    private static string[] Words(string text) => (text.EndsWith(',') ? text[..^1] : text).Split(',');
}
