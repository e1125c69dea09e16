namespace Snapuserd.Serve;

/// <summary>
/// The udev rules for our devices, with the same text as the files in src/packaging/udev for ramdisks. The program places them at run time,
/// because a device outlives the ramdisk in which it was made, and the booted system may not have them installed. A file of the same name
/// in /etc/udev/rules.d replaces one of these.
/// </summary>
internal static class UdevRules
{
    /// <summary>File names and contents.</summary>
    internal static readonly (string Name, string Text)[] Files =
    [
        ("09-snapuserd.rules",
            """
            # Mapped devices of snapuserd, before the rules of the device mapper (55-dm.rules or 10-dm.rules). The program places this
            # file into /run/udev/rules.d when it makes a device.
            SUBSYSTEM!="block", GOTO="snapuserd_end"
            KERNEL!="dm-[0-9]*", GOTO="snapuserd_end"
            ACTION=="remove", GOTO="snapuserd_end"
            ATTR{dm/uuid}!="SNAPUSERD-?*", GOTO="snapuserd_end"

            # Keep the database entry after switch_root, even if the ramdisk cleans the database.
            OPTIONS+="db_persist"

            # The kernel sends an event with DISK_RO when a new table makes the device read-only or writable. The rules of the device
            # mapper would remove all links for DISK_RO=1.
            ENV{DISK_RO}=="?*", ENV{DISK_RO}=""

            # A replayed "add" event of a device that has a table. Without this flag, the rules of the device mapper ignore the event if
            # this udev has not seen the device activated: the ramdisk may have had no udev, or a udev without those rules.
            ACTION=="add", ATTR{size}!="0", ENV{DM_UDEV_PRIMARY_SOURCE_FLAG}="1"

            LABEL="snapuserd_end"

            """),
        ("61-snapuserd.rules",
            """
            # Mapped devices of snapuserd, after the rules of the device mapper (60-persistent-storage-dm.rules or 13-dm-disk.rules). The
            # program places this file into /run/udev/rules.d when it makes a device.
            SUBSYSTEM!="block", GOTO="snapuserd_end"
            KERNEL!="dm-[0-9]*", GOTO="snapuserd_end"
            ACTION=="remove", GOTO="snapuserd_end"
            ATTR{dm/uuid}!="SNAPUSERD-?*", GOTO="snapuserd_end"

            # The base and the served device show the same file system as this device. This priority makes the links in /dev/disk lead
            # to this device.
            OPTIONS+="link_priority=60"

            # If this system has the rules of the device mapper, they have done the rest.
            ENV{DM_UDEV_RULES_VSN}=="?*", GOTO="snapuserd_end"

            # The device has no table yet.
            ATTR{size}=="0", ENV{SYSTEMD_READY}="0", GOTO="snapuserd_end"

            ENV{DM_NAME}="$attr{dm/name}", ENV{DM_UUID}="$attr{dm/uuid}"
            SYMLINK+="mapper/$env{DM_NAME} disk/by-id/dm-name-$env{DM_NAME} disk/by-id/dm-uuid-$env{DM_UUID}"

            # A read of a suspended device would wait: take the values from udev's database.
            ATTR{dm/suspended}=="1", GOTO="snapuserd_suspended"
            IMPORT{builtin}="blkid"
            GOTO="snapuserd_probed"

            LABEL="snapuserd_suspended"
            IMPORT{db}="ID_FS_TYPE"
            IMPORT{db}="ID_FS_USAGE"
            IMPORT{db}="ID_FS_UUID"
            IMPORT{db}="ID_FS_UUID_ENC"
            IMPORT{db}="ID_FS_LABEL"
            IMPORT{db}="ID_FS_LABEL_ENC"

            LABEL="snapuserd_probed"
            ENV{ID_FS_USAGE}=="filesystem|other|crypto", ENV{ID_FS_UUID_ENC}=="?*", SYMLINK+="disk/by-uuid/$env{ID_FS_UUID_ENC}"
            ENV{ID_FS_USAGE}=="filesystem|other|crypto", ENV{ID_FS_LABEL_ENC}=="?*", SYMLINK+="disk/by-label/$env{ID_FS_LABEL_ENC}"
            OPTIONS+="watch"

            LABEL="snapuserd_end"

            """),
    ];
}
