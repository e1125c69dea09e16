using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>
/// Names the kernel header that declares the C counterpart of the marked type, by its path below include/uapi ("linux/io_uring.h"). The
/// tests compile every constant of the type that exists in C, and the type itself if it is a struct, against this header.
/// </summary>
[AttributeUsage(AttributeTargets.Class | AttributeTargets.Struct, AllowMultiple = true)]
public sealed class KernelHeaderAttribute(string header) : Attribute
{
    /// <summary>The header's name as written between angle brackets.</summary>
    public string Header => header;
}

/// <summary>
/// Names the header of the C library or of another library ("fcntl.h", "zlib.h") that declares the C counterpart of the marked type. The
/// tests check the type as they do for <see cref="KernelHeaderAttribute"/>.
/// </summary>
[AttributeUsage(AttributeTargets.Class | AttributeTargets.Struct, AllowMultiple = true)]
public sealed class LibraryHeaderAttribute(string header) : Attribute
{
    /// <summary>The header's name as written between angle brackets.</summary>
    public string Header => header;
}

/// <summary>
/// The C type that a struct mirrors, as C spells it ("struct io_uring_sqe", "ZSTD_inBuffer"). A field's C name is
/// <see cref="FieldPrefix"/> followed by its name here in snake case, unless <see cref="CNameAttribute"/> gives another. The tests do
/// not check a field whose name begins with Reserved; they check only that the whole struct has the right size.
/// </summary>
[AttributeUsage(AttributeTargets.Struct)]
public sealed class CTypeAttribute(string name) : Attribute
{
    /// <summary>The type's name in C.</summary>
    public string Name => name;

    /// <summary>Prefix of every field's name in C, such as "stx_".</summary>
    public string FieldPrefix { get; init; } = "";
}

/// <summary>
/// The C name of a field to which the rule of <see cref="CTypeAttribute"/> would give a wrong name, or of a constant whose name in C# is
/// different.
/// </summary>
[AttributeUsage(AttributeTargets.Field)]
public sealed class CNameAttribute(string name) : Attribute
{
    /// <summary>The name in C.</summary>
    public string Name => name;
}

/// <summary>
/// The marked type applies to one architecture only; a type without this attribute applies to all of them. The tests compile each type
/// against the headers of every architecture to which it applies.
/// </summary>
[AttributeUsage(AttributeTargets.Class | AttributeTargets.Struct)]
public sealed class OnlyOnAttribute(Architecture architecture) : Attribute
{
    /// <summary>The architecture.</summary>
    public Architecture Architecture => architecture;
}

/// <summary>
/// Names the document or the source file that defines the layout and the constants of the marked type. No header on the build machine
/// declares them, so the tests cannot check the type with the compiler.
/// </summary>
[AttributeUsage(AttributeTargets.Class | AttributeTargets.Struct)]
public sealed class OutOfTreeAttribute(string source) : Attribute
{
    /// <summary>The source, such as "android common kernel, include/uapi/linux/dm-user.h".</summary>
    public string Source => source;
}
