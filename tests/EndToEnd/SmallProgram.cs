using System;
using System.IO;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>The small C programs beside these tests, which do to a process what it cannot do to itself.</summary>
internal static class SmallProgram
{
    /// <summary>Compiles NAME.c with the machine's C compiler and returns the path of the program.</summary>
    public static string Compile(string name)
    {
        string program = Path.Combine(AppContext.BaseDirectory, name);
        BinaryResult result = Binary.RunProgram("/bin/sh",
            ["-c", "exec $(command -v cc clang gcc | head -n 1) -O1 -Wall -Wextra -Werror -o \"$0\" \"$1\"", program, Path.Combine(Binary.Root, "tests", "EndToEnd", name + ".c")]);
        return result.ExitCode == 0 ? program : throw new InvalidOperationException($"{name}.c does not compile: {result}");
    }
}
