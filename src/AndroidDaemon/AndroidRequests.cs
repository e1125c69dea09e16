using System;
using System.Globalization;
using Snapuserd.Control;

namespace Snapuserd.AndroidDaemon;

/// <summary>
/// The requests of Android's libsnapshot (daemon §3): words separated by commas, nothing escaped; a comma at the end adds no word. Surplus
/// words are errors like missing ones, except where Android's daemon ignores them too.
/// </summary>
public sealed class AndroidRequests(SnapshotSet set) : IControlRequests
{
    private const string Success = "success";
    private const string Fail = "fail";

    /// <inheritdoc/>
    public void Request(string text, ControlReply reply)
    {
        string[] words = Words(text);
        switch (words[0])
        {
            case "query":
                reply.End(set.IsTerminating ? "passive" : "active");
                break;
            case "init" when words.Length == 5:
                set.Add(new SnapshotRequest(words[1], words[2], words[3], words[4]), bytes => reply.End(bytes < 512 ? Fail : string.Create(CultureInfo.InvariantCulture, $"{Success},{bytes / 512}")));
                break;
            case "start" when words.Length == 2:
                set.Start(words[1], started => reply.End(Word(started)));
                break;
            case "initiate_merge" when words.Length == 2:
                reply.End(Word(set.InitiateMerge(words[1])));
                break;
            case "merge_percent":
                reply.End(set.MergePercent.ToString("F6", CultureInfo.InvariantCulture));
                break;
            case "getstatus":
                reply.End(set.StatusOf(words.Length == 2 ? words[1] : ""));
                break;
            case "update-verify":
                set.VerifyUpdate(verified => reply.End(Word(verified)));
                break;
            case "delete" when words.Length == 2:
                set.Delete(words[1], () => reply.End(Success));
                break;
            case "detach":
                set.Detach();
                reply.End();
                break;
            case "stop":
                set.StopAll();
                reply.End();
                break;
            case "supports" when words.Length == 2:
                reply.End(Word(words[1] == "second_stage_socket_handoff"));
                break;
            case "pause_merge":
                set.Hold(paused: true);
                reply.End(Success);
                break;
            case "resume_merge":
                set.Hold(paused: false);
                reply.End(Success);
                break;
            case "init" or "start" or "initiate_merge" or "delete" or "supports":
                reply.End(Fail);
                break;
            default:
                reply.End(Fail, close: true);
                break;
        }
    }

    private static string Word(bool good) => good ? Success : Fail;

    private static string[] Words(string text) => (text.EndsWith(',') ? text[..^1] : text).Split(',');
}
