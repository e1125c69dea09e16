using System;
using System.IO;
using System.IO.Compression;

// Replaces brotli(1), which the demo needs and a fresh machine may not have: `tools unpack FILE.br …` writes each FILE into the working
// folder.
if (args.Length < 2 || args[0] != "unpack")
{
    Console.Error.WriteLine("usage: tools unpack FILE.br ...");
    return 64;
}
foreach (string packed in args[1..])
{
    using var stream = new BrotliStream(File.OpenRead(packed), CompressionMode.Decompress);
    using FileStream file = File.Create(Path.GetFileNameWithoutExtension(packed));
    stream.CopyTo(file);
}
return 0;
