using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Reflection;
using System.Reflection.Metadata;
using System.Runtime.InteropServices;
using System.Text;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.Emit;
using Microsoft.CodeAnalysis.Text;

namespace Snapuserd.Tests.Mutants;

/// <summary>A compiler error, and the file that it is in.</summary>
public readonly record struct BuildError(string Path, string Message);

/// <summary>One assembly of the product, compiled inside this process.</summary>
public sealed class Project
{
    private static readonly CSharpParseOptions s_parse = new(LanguageVersion.Latest);

    private readonly CSharpCompilation _compilation;
    private readonly Dictionary<string, SyntaxTree> _trees = [];

    /// <summary>
    /// Compiles the sources, given by path, with the assemblies that they refer to. <paramref name="extra"/> is compiled with them and
    /// holds no mutants.
    /// </summary>
    public Project(string assembly, IReadOnlyDictionary<string, string> sources, IEnumerable<string> references, string extra)
    {
        Assembly = assembly;
        foreach ((string path, string text) in sources) _trees[path] = CSharpSyntaxTree.ParseText(text, s_parse, path);
        CSharpCompilationOptions options =
            new(OutputKind.DynamicallyLinkedLibrary, allowUnsafe: true, optimizationLevel: OptimizationLevel.Release,
            nullableContextOptions: NullableContextOptions.Enable, concurrentBuild: false, deterministic: true);
        IEnumerable<SyntaxTree> added = new[] { Schema.SwitchSource, extra }.Select(text => CSharpSyntaxTree.ParseText(text, s_parse));
        _compilation =
            CSharpCompilation.Create(assembly, _trees.Values.Concat(added),
                references.Select(path => MetadataReference.CreateFromFile(path)), options);
    }

    /// <summary>The assembly's name, without the extension.</summary>
    public string Assembly { get; }

    /// <summary>Loads the project of a folder below src as it was built into <paramref name="bin"/>.</summary>
    public static Project Load(string root, string name, string bin)
    {
        string assembly = name == "Cli" ? "snapuserd" : $"Snapuserd.{name}";
        Dictionary<string, string> sources =
            Scope.Sources(root, $"src/{name}").ToDictionary(path => path, path => File.ReadAllText(Path.Combine(root, path)));
        IEnumerable<string> references = Framework().Concat(Directory.EnumerateFiles(bin, "Snapuserd.*.dll")
            .Where(path => Path.GetFileNameWithoutExtension(path) != assembly && !path.Contains("Tests", StringComparison.Ordinal)));
        // Version and friend assemblies are defined in project files; read them from the built assembly.
        StringBuilder extra = new();
        using PEFile built = new(Path.Combine(bin, assembly + ".dll"));
        extra.AppendLine($"[assembly: System.Reflection.AssemblyVersion(\"{built.Version}\")]");
        foreach (string friend in built.Friends)
            extra.AppendLine($"[assembly: System.Runtime.CompilerServices.InternalsVisibleTo(\"{friend}\")]");
        if (name == "Cli")
            extra.AppendLine("namespace Snapuserd.Cli { internal static class BuildConstants {"
                + $" internal const string Version = \"{built.Version.ToString(3)}\"; }} }}");
        return new Project(assembly, sources, references, extra.ToString());
    }

    /// <summary>The assemblies of the framework that runs this process.</summary>
    public static IEnumerable<string> Framework() => Directory.EnumerateFiles(RuntimeEnvironment.GetRuntimeDirectory(), "System*.dll");

    /// <summary>Every change that the operators produce in one of the files.</summary>
    public IReadOnlyList<Mutant> Mutants(string path) => Operators.All(_compilation.GetSemanticModel(_trees[path]), path);

    /// <summary>The text of one of the files.</summary>
    public string Text(string path) => _trees[path].ToString();

    /// <summary>The mutant compiles with a switch.</summary>
    public bool CompilesSwitched(Mutant mutant) => mutant.Wraps.Count > 0
        && Compiles(mutant, Schema.Render(Text(mutant.Path), [(0, mutant)]));

    /// <summary>The mutant compiles in place of the original.</summary>
    public bool CompilesAlone(Mutant mutant) => Compiles(mutant, mutant.Apply(Text(mutant.Path)));

    /// <summary>Writes the assembly with some of the files changed; returns the errors, with the files they are in.</summary>
    public IReadOnlyList<BuildError> Emit(IReadOnlyDictionary<string, string> changed, string output)
    {
        CSharpCompilation compilation = _compilation;
        foreach ((string path, string text) in changed)
            compilation = compilation.ReplaceSyntaxTree(_trees[path], CSharpSyntaxTree.ParseText(text, s_parse, path));
        using MemoryStream image = new();
        EmitResult result = compilation.Emit(image);
        if (result.Success) File.WriteAllBytes(output, image.ToArray());
        return
        [
            .. from diagnostic in result.Diagnostics
               where diagnostic.Severity == DiagnosticSeverity.Error
               select new BuildError(diagnostic.Location.SourceTree?.FilePath ?? "", diagnostic.ToString()),
        ];
    }

    /// <summary>Rebinds only the changed member.</summary>
    private bool Compiles(Mutant mutant, string text)
    {
        SyntaxTree old = _trees[mutant.Path], tree = CSharpSyntaxTree.ParseText(text, s_parse, mutant.Path);
        if (tree.GetDiagnostics().Any(diagnostic => diagnostic.Severity == DiagnosticSeverity.Error)) return false;
        TextSpan member = new(mutant.Member.Start, mutant.Member.Length + text.Length - old.Length);
        SemanticModel model = _compilation.ReplaceSyntaxTree(old, tree).GetSemanticModel(tree);
        return !model.GetDiagnostics(member).Any(diagnostic => diagnostic.Severity == DiagnosticSeverity.Error);
    }

    /// <summary>The metadata of an assembly, read without loading it.</summary>
    private sealed class PEFile : IDisposable
    {
        private readonly System.Reflection.PortableExecutable.PEReader _reader;

        public PEFile(string path)
        {
            _reader = new System.Reflection.PortableExecutable.PEReader(File.OpenRead(path));
            MetadataReader metadata = _reader.GetMetadataReader();
            Version = metadata.GetAssemblyDefinition().Version;
            foreach (CustomAttributeHandle handle in metadata.GetAssemblyDefinition().GetCustomAttributes())
            {
                CustomAttribute attribute = metadata.GetCustomAttribute(handle);
                if (attribute.Constructor.Kind != HandleKind.MemberReference) continue;
                EntityHandle parent = metadata.GetMemberReference((MemberReferenceHandle)attribute.Constructor).Parent;
                if (parent.Kind != HandleKind.TypeReference) continue;
                if (metadata.GetString(metadata.GetTypeReference((TypeReferenceHandle)parent).Name) != "InternalsVisibleToAttribute")
                    continue;
                BlobReader value = metadata.GetBlobReader(attribute.Value);
                value.ReadUInt16();
                if (value.ReadSerializedString() is { } friend) Friends.Add(friend);
            }
        }

        public Version Version { get; }

        public List<string> Friends { get; } = [];

        public void Dispose() => _reader.Dispose();
    }
}
