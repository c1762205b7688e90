"""What the sandbox asks of the Linux kernel beyond Python's own library, by ctypes."""
import ctypes
import errno
import os
import platform
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWCGROUP = 0x10000000, 0x20000000, 0x40000000, 0x02000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE, MS_NOATIME, MS_NODIRATIME, MS_RELATIME = 4096, 16384, 1 << 18, 1024, 2048, 1 << 21
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 22, 36, 38

# Numbers of the syscalls that are refused, by machine.
SYSCALLS = {
    "x86_64": {
        "audit": 0xC000003E, "clone": 56, "clone3": 435, "fork": 57, "vfork": 58, "kill": 62, "tkill": 200, "tgkill": 234,
        "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "pidfd_send_signal": 424, "pidfd_open": 434, "pidfd_getfd": 438,
        "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "process_madvise": 440,
        "prlimit64": 302, "setpriority": 141, "sched_setaffinity": 203, "sched_setscheduler": 144, "sched_setattr": 314,
        "ioprio_set": 251, "unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161,
        "mount_setattr": 442, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
        "fspick": 433, "socket": 41, "connect": 42, "bind": 49, "listen": 50, "shmget": 29, "msgget": 68, "semget": 64,
        "mq_open": 240, "memfd_create": 319, "memfd_secret": 447, "io_uring_setup": 425, "io_uring_enter": 426,
        "io_uring_register": 427, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "keyctl": 250, "add_key": 248,
        "request_key": 249, "init_module": 175, "finit_module": 313, "delete_module": 176, "kexec_load": 246,
        "kexec_file_load": 320, "reboot": 169, "swapon": 167, "swapoff": 168, "quotactl": 179, "acct": 163, "syslog": 103,
        "open_by_handle_at": 304, "name_to_handle_at": 303, "fanotify_init": 300, "settimeofday": 164,
        "clock_settime": 227, "clock_adjtime": 305, "adjtimex": 159, "sethostname": 170, "setdomainname": 171,
        "capset": 126, "mknod": 133, "mknodat": 259, "iopl": 172, "ioperm": 173, "vhangup": 153, "lookup_dcookie": 212,
        "move_pages": 279, "migrate_pages": 256, "mbind": 237, "set_mempolicy": 238, "personality": 135,
    },
    "aarch64": {
        "audit": 0xC00000B7, "clone": 220, "clone3": 435, "kill": 129, "tkill": 130, "tgkill": 131,
        "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240, "pidfd_send_signal": 424, "pidfd_open": 434, "pidfd_getfd": 438,
        "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "process_madvise": 440,
        "prlimit64": 261, "setpriority": 140, "sched_setaffinity": 122, "sched_setscheduler": 119, "sched_setattr": 274,
        "ioprio_set": 30, "unshare": 97, "setns": 268, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51,
        "mount_setattr": 442, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
        "fspick": 433, "socket": 198, "connect": 203, "bind": 200, "listen": 201, "shmget": 194, "msgget": 186,
        "semget": 190, "mq_open": 180, "memfd_create": 279, "memfd_secret": 447, "io_uring_setup": 425,
        "io_uring_enter": 426, "io_uring_register": 427, "bpf": 280, "perf_event_open": 241, "userfaultfd": 282,
        "keyctl": 219, "add_key": 217, "request_key": 218, "init_module": 105, "finit_module": 273, "delete_module": 106,
        "kexec_load": 104, "kexec_file_load": 294, "reboot": 142, "swapon": 224, "swapoff": 225, "quotactl": 60,
        "acct": 89, "syslog": 116, "open_by_handle_at": 265, "name_to_handle_at": 264, "fanotify_init": 262,
        "settimeofday": 170, "clock_settime": 112, "clock_adjtime": 266, "adjtimex": 171, "sethostname": 161,
        "setdomainname": 162, "capset": 91, "mknodat": 33, "vhangup": 58, "lookup_dcookie": 18, "move_pages": 239,
        "migrate_pages": 238, "mbind": 235, "set_mempolicy": 237, "personality": 92,
    },
}
# Refused only where no process namespace keeps them apart.
NEIGHBOURS = ["fork", "vfork", "kill", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "setpriority", "ioprio_set",
              "sched_setaffinity", "sched_setscheduler", "sched_setattr"]
NAMESPACE_FLAGS = 0x7E020000
CLONE_THREAD = 0x00010000


def check(result, what):
    """Raises the C library's error if a call failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def prctl(option, value=0):
    zero = ctypes.c_ulong(0)
    check(LIBC.prctl(option, ctypes.c_ulong(value), zero, zero, zero), f"prctl {option}")


def unshare(flags):
    check(LIBC.unshare(flags), "unshare")


def mount(source, target, kind, flags, data=None):
    text = [None if value is None else os.fsencode(value) for value in (source, target, kind, data)]
    check(LIBC.mount(text[0], text[1], text[2], ctypes.c_ulong(flags), text[3]), f"mount {target}")


def umount(target):
    check(LIBC.umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")


def pivot_root(root, put_away):
    number = SYSCALLS[platform.machine()]["pivot_root"]
    check(LIBC.syscall(ctypes.c_long(number), os.fsencode(root), os.fsencode(put_away)), "pivot_root")


def drop_capabilities():
    """Leaves a root user what its files allow and no more; with no new privileges, for good."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0), 8)
    nothing = ctypes.create_string_buffer(24)
    check(LIBC.syscall(ctypes.c_long(SYSCALLS[platform.machine()]["capset"]), header, nothing), "capset")


def seccomp_filter(alone):
    """The refused syscalls as a BPF program. `alone`: no child processes and no signals to others either."""
    numbers = dict(SYSCALLS[platform.machine()])
    audit, clone, clone3, tgkill, prlimit = (
        numbers.pop(name) for name in ("audit", "clone", "clone3", "tgkill", "prlimit64")
    )
    load, jump_equal, jump_set, jump_more, give = 0x20, 0x15, 0x45, 0x35, 0x06
    refuse, absent, allow, kill = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS, 0x7FFF0000, 0x80000000
    refused = [number for name, number in sorted(numbers.items()) if alone or name not in NEIGHBOURS]
    program = [(load, 0, 0, 4), (jump_equal, 1, 0, audit), (give, 0, 0, kill), (load, 0, 0, 0)]
    # The second calling convention of x86-64 has the numbers once more.
    program += [(jump_more, 0, 1, 0x40000000), (give, 0, 0, kill)] if platform.machine() == "x86_64" else []
    for number in refused:
        program += [(jump_equal, 0, 1, number), (give, 0, 0, refuse)]
    # Its flags lie behind a pointer: the C library falls back to clone.
    program += [(jump_equal, 0, 1, clone3), (give, 0, 0, absent)]
    if alone:
        program += [(jump_equal, 0, 3, tgkill), (load, 0, 0, 16), (jump_equal, 1, 0, os.getpid()), (give, 0, 0, refuse)]
        # Its own limits may be asked for, those of others not set.
        program += [(load, 0, 0, 0), (jump_equal, 0, 3, prlimit), (load, 0, 0, 16), (jump_equal, 1, 0, 0)]
        program += [(give, 0, 0, refuse)]
        program += [(load, 0, 0, 0), (jump_equal, 0, 3, clone), (load, 0, 0, 16), (jump_set, 1, 0, CLONE_THREAD)]
        program += [(give, 0, 0, refuse), (load, 0, 0, 0)]
    program += [(jump_equal, 0, 3, clone), (load, 0, 0, 16), (jump_set, 0, 1, NAMESPACE_FLAGS), (give, 0, 0, refuse)]
    program += [(give, 0, 0, allow)]
    return b"".join(struct.pack("=HBBI", *step) for step in program)


def install_seccomp(program):
    class Program(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    kept = ctypes.create_string_buffer(program, len(program))
    described = Program(len(program) // 8, ctypes.addressof(kept))
    check(LIBC.prctl(PR_SET_SECCOMP, ctypes.c_ulong(2), ctypes.byref(described)), "seccomp")


def landlock(readable):
    """No file can be opened any more but those beneath `readable`, and these only for reading and running. The
    numbers are the same on all machines."""
    version = LIBC.syscall(ctypes.c_long(444), None, ctypes.c_size_t(0), ctypes.c_uint(1))
    check(version, "landlock")
    handled = (1 << (13 if version < 2 else 14 if version < 3 else 15)) - 1
    attributes = ctypes.create_string_buffer(struct.pack("=Q", handled), 8)
    rules = LIBC.syscall(ctypes.c_long(444), attributes, ctypes.c_size_t(8), ctypes.c_uint(0))
    check(rules, "landlock")
    for path in readable:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        # Run, read file, read directory; a file can only be run and read.
        allowed = (1 << 0 | 1 << 2 | 1 << 3) if os.path.isdir(path) else (1 << 0 | 1 << 2)
        beneath = ctypes.create_string_buffer(struct.pack("=Qi", allowed, place), 12)
        check(LIBC.syscall(ctypes.c_long(445), rules, ctypes.c_int(1), beneath, ctypes.c_uint(0)), f"landlock {path}")
        os.close(place)
    check(LIBC.syscall(ctypes.c_long(446), rules, ctypes.c_uint(0)), "landlock")
    os.close(rules)
