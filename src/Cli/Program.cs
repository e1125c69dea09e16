namespace Snapuserd.Cli;

internal static class Program
{
    private static int Main(string[] args) => args.Length == 0 ? 64 : 0;
}
