using System;
using System.IO;

namespace Snapuserd.Tests.Support;

/// <summary>Compiles small C programs for actions that a process cannot perform on itself.</summary>
public static class CProgram
{
    /// <summary>Compiles NAME.c of a folder below tests with the machine's C compiler and returns the path of the program.</summary>
    /// <param name="options">Compiler options for a library, separated by blanks as in a shell.</param>
    public static string Compile(string folder, string name, string options = "")
    {
        string program = Path.Combine(AppContext.BaseDirectory, name);
        // Compile under a unique name first: another test may be running the program.
        string compiled = $"{program}.{Guid.NewGuid():N}";
        BinaryResult result = Binary.RunProgram("/bin/sh",
            ["-c", "exec $(command -v cc clang gcc | head -n 1) -O1 -Wall -Wextra -Werror -o \"$0\" \"$1\" " + options, compiled,
                Path.Combine(Binary.Root, "tests", folder, name + ".c")]);
        if (result.ExitCode != 0) throw new InvalidOperationException($"{name}.c does not compile: {result}");
        File.Move(compiled, program, overwrite: true);
        return program;
    }
}
