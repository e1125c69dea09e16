using System;
using System.IO;
using Microsoft.Win32.SafeHandles;
using Snapuserd.Block;
using Snapuserd.Cli;
using Snapuserd.Host;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cli;

/// <summary>How the command line handles an exception from a verb.</summary>
public sealed class CommandLineTests
{
    [Fact]
    public void Out_of_memory_is_71_in_whatever_exception_it_is_wrapped()
    {
        foreach (Exception e in new Exception[]
        {
            new OutOfMemoryException(),
            new TypeInitializationException("some.type", new OutOfMemoryException()),
            new InvalidOperationException("a", new TypeInitializationException("b", new InsufficientMemoryException())),
        })
            Assert.Equal((ExitCode.OutOfResources, "snapuserd: out of memory; try a smaller --memory\n"), Run(e));
    }

    [Fact]
    public void A_defect_is_70_and_says_so()
    {
        (ExitCode code, string said) = Run(new InvalidOperationException("a", new ArgumentException("b")));
        Assert.Equal(ExitCode.Internal, code);
        Assert.StartsWith("snapuserd: a defect of this program (InvalidOperationException): a\n", said);
    }

    private static (ExitCode Code, string Said) Run(Exception thrown)
    {
        using TempFolder folder = new();
        using (SafeFileHandle diagnostics = File.OpenHandle(folder["diagnostics"], FileMode.CreateNew, FileAccess.Write,
            FileShare.ReadWrite))
        {
            // Standard output counts as closed.
            var output = new Output(1 << 1, -1, (int)diagnostics.DangerousGetHandle());
            ExitCode code = CommandLine.Run([new Verb("do", "Does.", [], [], "", _ => throw thrown)], ["do"], output);
            return (code, File.ReadAllText(folder["diagnostics"]));
        }
    }
}
