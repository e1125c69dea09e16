using System;
using System.Collections.Generic;
using System.Globalization;
using System.Linq;
using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.RegularExpressions;
using Snapuserd.Interop;

namespace Snapuserd.Tests.Interop;

/// <summary>
/// The C program that checks the declarations of some C# types against C: one static assertion per size, offset and constant.
/// </summary>
internal static partial class AbiProgram
{
    private const BindingFlags Everything = BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.Static | BindingFlags.Instance
        | BindingFlags.DeclaredOnly;

    /// <summary>Headers of <paramref name="types"/>, taken from their attributes.</summary>
    public static string[] Headers<T>(IEnumerable<Type> types) where T : Attribute =>
        types.SelectMany(t => t.GetCustomAttributes<T>())
            .Select(a => a switch
            {
                KernelHeaderAttribute k => k.Header,
                LibraryHeaderAttribute l => l.Header,
                _ => throw new ArgumentException("not a header attribute"),
            })
            .Distinct().Order(StringComparer.Ordinal).ToArray();

    /// <summary>The text of the program. <paramref name="assertions"/> is its number of assertions.</summary>
    public static string Write(IEnumerable<string> headers, IEnumerable<Type> types, out int assertions)
    {
        StringBuilder program = new();
        foreach (string header in headers) program.Append(CultureInfo.InvariantCulture, $"#include <{header}>\n");
        int before = program.Length;
        foreach (Type type in types)
        {
            if (type.GetCustomAttribute<CTypeAttribute>() is { } c) WriteStruct(program, type, c);
            foreach (FieldInfo constant in Constants(type))
            {
                string name = constant.GetCustomAttribute<CNameAttribute>()?.Name ?? constant.Name;
                string value = unchecked(constant.GetRawConstantValue() is ulong large ? (long)large
                    : Convert.ToInt64(constant.GetRawConstantValue(), CultureInfo.InvariantCulture)).ToString(CultureInfo.InvariantCulture);
                Assert(program, $"(long long)({name}) == {value}LL", $"{type.Name}.{constant.Name} is {value}");
            }
        }
        assertions = program.ToString(before, program.Length - before).Count(c => c == '\n');
        return program.ToString();
    }

    /// <summary>The constants of a type that exist in C: those with names in capitals, or with another C name by attribute.</summary>
    public static IEnumerable<FieldInfo> Constants(Type type) => type.GetFields(Everything)
        .Where(f => f.IsLiteral && f.FieldType != typeof(string) && !type.IsEnum
            && (CapitalName().IsMatch(f.Name) || f.IsDefined(typeof(CNameAttribute))));

    /// <summary>Whether the type mirrors a C struct. Record structs and ref structs exist only in C#.</summary>
    public static bool IsForeignStruct(Type type) =>
        type is { IsValueType: true, IsEnum: false, IsByRefLike: false, IsGenericType: false }
        && !type.IsDefined(typeof(CompilerGeneratedAttribute)) && !type.IsDefined(typeof(UnsafeValueTypeAttribute))
        && type.GetMethod("PrintMembers", BindingFlags.NonPublic | BindingFlags.Instance) == null
        && !type.FullName!.StartsWith('<') && type.Namespace != null;

    private static void WriteStruct(StringBuilder program, Type type, CTypeAttribute c)
    {
        Assert(program, $"sizeof({c.Name}) == {Marshal.SizeOf(type)}", $"{type.Name} has {Marshal.SizeOf(type)} bytes");
        foreach (FieldInfo field in type.GetFields(Everything)
            .Where(f => !f.IsStatic && !f.Name.StartsWith("Reserved", StringComparison.Ordinal)))
        {
            string name = field.GetCustomAttribute<CNameAttribute>()?.Name ?? c.FieldPrefix + Snake(field.Name);
            nint offset = Marshal.OffsetOf(type, field.Name);
            Assert(program, $"__builtin_offsetof({c.Name}, {name}) == {offset}", $"{type.Name}.{field.Name} lies at {offset}");
            Assert(program, $"sizeof((({c.Name} *)0)->{name}) == {Size(field.FieldType)}",
                $"{type.Name}.{field.Name} has {Size(field.FieldType)} bytes");
        }
    }

    private static int Size(Type type) => type.IsPointer ? IntPtr.Size : Marshal.SizeOf(type.IsEnum ? type.GetEnumUnderlyingType() : type);

    private static void Assert(StringBuilder program, string condition, string text) =>
        program.Append(CultureInfo.InvariantCulture, $"_Static_assert({condition}, \"{text}\");\n");

    private static string Snake(string name) => WordStart().Replace(name, "_").ToLowerInvariant();

    [GeneratedRegex("^[A-Z][A-Z0-9_]+$")]
    private static partial Regex CapitalName();

    [GeneratedRegex("(?<=[a-z0-9])(?=[A-Z])")]
    private static partial Regex WordStart();
}
