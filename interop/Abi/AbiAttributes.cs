using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>
/// The kernel header (below include/uapi, such as "linux/io_uring.h") that declares the C counterpart of the marked type. The tests
/// compile every constant with a C name and every struct of that type against it.
/// </summary>
[AttributeUsage(AttributeTargets.Class | AttributeTargets.Struct, AllowMultiple = true)]
public sealed class KernelHeaderAttribute(string header) : Attribute
{
    /// <summary>The header's name as written between angle brackets.</summary>
    public string Header => header;
}

/// <summary>The same for a header of the C library or of another library ("fcntl.h", "zlib.h"), found on the compiler's own path.</summary>
[AttributeUsage(AttributeTargets.Class | AttributeTargets.Struct, AllowMultiple = true)]
public sealed class LibraryHeaderAttribute(string header) : Attribute
{
    /// <summary>The header's name as written between angle brackets.</summary>
    public string Header => header;
}

/// <summary>
/// The C type that a struct mirrors, as C spells it ("struct io_uring_sqe", "ZSTD_inBuffer"). A field's C name is
/// <see cref="FieldPrefix"/> followed by its name here in snake case, unless <see cref="CNameAttribute"/> gives another. Fields whose
/// name begins with Reserved are not looked up by name; the size of the whole struct covers them.
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
/// The name in C of a field that does not follow the rule of <see cref="CTypeAttribute"/>, or of a constant that has another name here.
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

/// <summary>Source of a layout or a constant that no header of the machine declares, so that the compiler cannot check it.</summary>
[AttributeUsage(AttributeTargets.Class | AttributeTargets.Struct)]
public sealed class OutOfTreeAttribute(string source) : Attribute
{
    /// <summary>The source, such as "android common kernel, include/uapi/linux/dm-user.h".</summary>
    public string Source => source;
}
