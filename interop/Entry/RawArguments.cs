using System;
using System.Collections;
using System.Runtime.InteropServices;
using System.Text;

namespace Snapuserd.Interop;

/// <summary>
/// The arguments and the environment as the kernel passed them: bytes, which need not be UTF-8. In a test host, which has no entry of ours
/// (interop/Entry/entry.c), the arguments are those of the runtime, encoded again.
/// </summary>
public static unsafe class RawArguments
{
    /// <summary>
    /// Only for Program.Main, first of all: the runtime has started. A fatal signal is exit code 70 from now on, and was 71 before.
    /// <para>
    /// Also lets the runtime reserve the memory for its types now, while the entry's check of the address space still holds. It would do so for the first
    /// exception, and where it fails then, it throws another exception about that, and so on until the stack is full.
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

    /// <summary>A copy of argv, the program's own name first. Without the terminating zeros.</summary>
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

    /// <summary>A copy of the environment, each variable as NAME=value. Variables that configure the .NET runtime were removed by the entry.</summary>
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
