using System;
using System.Collections;
using System.Runtime.InteropServices;
using System.Text;

namespace Snapuserd.Interop;

/// <summary>
/// The arguments and the environment as the kernel passed them: bytes, not necessarily UTF-8. A test host does not have this program's
/// entry point (interop/Entry/entry.c); there, the arguments are the runtime's, encoded again.
/// </summary>
public static unsafe class RawArguments
{
    /// <summary>
    /// For Program.Main only, as its first call: the runtime has started. From here on a fatal signal causes exit code 70; before, it
    /// causes 71.
    /// <para>
    /// Also makes the runtime reserve the memory for its types now, while the entry's check of the address space still holds. Otherwise
    /// the runtime would reserve it at the first exception. If that fails, it throws another exception about the failure, and so on until
    /// the stack is full.
    /// </para>
    /// </summary>
    public static void RuntimeHasStarted()
    {
        _ = snapuserd_argc();
        try
        {
            throw new InvalidOperationException();
        }
        catch (InvalidOperationException)
        {
        }
    }

    /// <summary>A copy of argv without the terminating zeros, starting with the program's own name.</summary>
    public static byte[][] Arguments()
    {
        try
        {
            byte** argv = snapuserd_argv();
            byte[][] arguments = new byte[snapuserd_argc()][];
            for (int i = 0; i < arguments.Length; i++) arguments[i] = MemoryMarshal.CreateReadOnlySpanFromNullTerminated(argv[i]).ToArray();
            return arguments;
        }
        catch (Exception e) when (e is DllNotFoundException or EntryPointNotFoundException)
        {
            return Array.ConvertAll(Environment.GetCommandLineArgs(), Encoding.UTF8.GetBytes);
        }
    }

    /// <summary>
    /// A copy of the environment, each variable as NAME=value. The entry has removed variables that configure the .NET runtime.
    /// </summary>
    public static byte[][] Variables()
    {
        try
        {
            byte** environment = snapuserd_environment();
            int count = 0;
            while (environment != null && environment[count] != null) count++;
            byte[][] variables = new byte[count][];
            for (int i = 0; i < count; i++) variables[i] = MemoryMarshal.CreateReadOnlySpanFromNullTerminated(environment[i]).ToArray();
            return variables;
        }
        catch (Exception e) when (e is DllNotFoundException or EntryPointNotFoundException)
        {
            IDictionary decoded = Environment.GetEnvironmentVariables();
            byte[][] variables = new byte[decoded.Count][];
            int count = 0;
            foreach (DictionaryEntry variable in decoded) variables[count++] = Encoding.UTF8.GetBytes($"{variable.Key}={variable.Value}");
            return variables;
        }
    }

    [DllImport("entry")]
    private static extern int snapuserd_argc();

    [DllImport("entry")]
    private static extern byte** snapuserd_argv();

    [DllImport("entry")]
    private static extern byte** snapuserd_environment();
}
