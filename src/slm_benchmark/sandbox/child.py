"""What runs inside the sandbox: it shuts itself in, then executes a candidate and its tests.

A script of its own: it imports nothing of the package, since the package cannot be seen from
inside. Standard input brings the programs, standard output takes the verdict, and standard error
takes all that the candidate prints. The argument is a `Job` in JSON.

Messages out are lines: ``ready`` or ``unable REASON`` once the walls stand, then ``candidate`` and
``tests`` after each stage, ``passed TOKEN`` at the end, or ``failed DETAIL`` or ``memory DETAIL``.
Messages in are a length of 8 bytes and that many bytes: candidate, tests, token. Each is sent when
the stage before has ended, so a candidate that runs cannot find the tests or the token.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import sys
import types
from collections.abc import Callable
from typing import Any, TypedDict


class Job(TypedDict):
    """What the sandbox is built from.

    Attributes:
        backend: Name of the backend; namespaces are made here, others are there already.
        visible: Files and folders to show.
        links: Symbolic links of the root folder, and where they point to.
        packages: Folders of packages, for the path of the interpreter.
        scratch: The folder that can be written.
        scratch_bytes: Its size.
        user: User id of the program.
        rlimits: Limits of each process, by their names in `resource`.
    """

    backend: str
    visible: list[str]
    links: dict[str, str]
    packages: list[str]
    scratch: str
    scratch_bytes: int
    user: int
    rlimits: dict[str, int]


_LIBC = ctypes.CDLL(None, use_errno=True)

_NEW_ROOT = "/proc"  # where the new root is put together; a /proc exists on every Linux
_DEVICES = ("null", "zero", "random", "urandom")

_CLONE_NEW_USER = 0x10000000
_CLONE_NEW_ALL = 0x00020000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000
"""Mounts, host name, IPC, process ids, network."""

_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
_MNT_DETACH = 2
_AT_FDCWD, _AT_RECURSIVE, _MOUNT_SETATTR = -100, 0x8000, 442
_READ_ONLY_NOSUID_NODEV = 0x1 | 0x2 | 0x4

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 22, 24, 38
_CAPABILITY_VERSION_3 = 0x20080522

# System calls that a solution never needs: ways to other networks and processes, to memory that no
# limit counts, and to parts of the kernel with a history of faults.
# The first list differs by machine; the second has one number everywhere.
_DENIED = {
    "x86_64": {
        "socket": 41, "clone": 56, "shmget": 29, "semget": 64, "msgget": 68, "mq_open": 240,
        "ptrace": 101, "syslog": 103, "personality": 135, "pivot_root": 155, "chroot": 161,
        "acct": 163, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169,
        "init_module": 175, "delete_module": 176, "quotactl": 179, "kexec_load": 246,
        "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272, "perf_event_open": 298,
        "fanotify_init": 300, "name_to_handle_at": 303, "open_by_handle_at": 304, "setns": 308,
        "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "finit_module": 313,
        "memfd_create": 319, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323,
    },
    "aarch64": {
        "socket": 198, "clone": 220, "shmget": 194, "semget": 190, "msgget": 186, "mq_open": 180,
        "ptrace": 117, "syslog": 116, "personality": 92, "pivot_root": 41, "chroot": 51,
        "acct": 89, "mount": 40, "umount2": 39, "swapon": 224, "swapoff": 225, "reboot": 142,
        "init_module": 105, "delete_module": 106, "quotactl": 60, "kexec_load": 104,
        "add_key": 217, "request_key": 218, "keyctl": 219, "unshare": 97, "perf_event_open": 241,
        "fanotify_init": 262, "name_to_handle_at": 264, "open_by_handle_at": 265, "setns": 268,
        "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "finit_module": 273,
        "memfd_create": 279, "kexec_file_load": 294, "bpf": 280, "userfaultfd": 282,
    },
}  # fmt: skip
_DENIED_EVERYWHERE = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "pidfd_open": 434, "pidfd_getfd": 438, "mount_setattr": 442, "memfd_secret": 447,
}  # fmt: skip
_CLONE3 = 435
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def _call(name: str, *arguments: Any) -> None:
    """Call a function of the C library that returns 0 for success.

    Raises:
        OSError: when it returns anything else; the message names the function.
    """
    if getattr(_LIBC, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    arguments = (source.encode(), target.encode(), kind.encode())
    try:
        _call("mount", *arguments, ctypes.c_ulong(flags), options.encode())
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} ({source} on {target})") from error


def _own_namespaces(job: Job) -> None:
    """Move to namespaces of our own, as process 1, with the new root as the file system.

    Root makes them with its own rights and later changes to a user id that no one else has.
    Everybody else becomes the owner of a user namespace, in which that user is called nobody.
    """
    user, group = os.geteuid(), os.getegid()
    _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _call("unshare", _CLONE_NEW_ALL | (_CLONE_NEW_USER if user else 0))
    if user:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{job['user']} {user} 1"),
            ("gid_map", f"{job['user']} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as stream:
                stream.write(text)
    if first := os.fork():
        # Stays as the parent by which the supervisor finds process 1, and takes its leave with it.
        for descriptor in (0, 1, 2):
            os.close(descriptor)
        os._exit(_exit_status(os.waitpid(first, 0)[1]))
    _call("sethostname", b"sandbox", 7)
    _new_root(job)


def _new_root(job: Job) -> None:
    """Show only an interpreter, read-only, and a scratch folder."""
    os.umask(0o022)  # what is made here, such as the folders on the way to a package, is for all
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", _NEW_ROOT, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
    for path in job["visible"]:
        target = _NEW_ROOT + path
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            _empty_file(target)
        _mount(path, target, "", _MS_BIND | _MS_REC)
    for path, points_to in job["links"].items():
        os.symlink(points_to, _NEW_ROOT + path)
    os.mkdir(_NEW_ROOT + job["scratch"])
    for device in _DEVICES:
        _empty_file(f"{_NEW_ROOT}/dev/{device}")
    attributes = struct.pack("QQQQ", _READ_ONLY_NOSUID_NODEV, 0, 0, 0)
    _call(
        "syscall", _MOUNT_SETATTR, _AT_FDCWD, _NEW_ROOT.encode(), _AT_RECURSIVE,
        ctypes.c_char_p(attributes), ctypes.c_size_t(len(attributes)),
    )  # fmt: skip
    for device in _DEVICES:
        _mount(f"/dev/{device}", f"{_NEW_ROOT}/dev/{device}", "", _MS_BIND)
    owner = f"uid={job['user']},gid={job['user']}"
    options = f"size={job['scratch_bytes']},nr_inodes=4096,mode=700,{owner}"
    _mount("tmpfs", _NEW_ROOT + job["scratch"], "tmpfs", _MS_NOSUID | _MS_NODEV, options)
    os.chdir(_NEW_ROOT)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", _MNT_DETACH)


def _empty_file(path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb"):
        pass


def _drop_rights(job: Job) -> None:
    """Give up every capability, the user id of root, and all ways to gain either again."""
    capability = 0
    while _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(*[job["user"]] * 3)
        os.setresuid(*[job["user"]] * 3)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    _call("capset", ctypes.c_char_p(header), ctypes.c_char_p(bytes(24)))
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # a change of user undoes it
    for name, value in job["rlimits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))


def _filter_system_calls() -> None:
    """Deny the system calls of `_DENIED` for good, to this process and all that it starts."""
    machine = os.uname().machine
    if machine not in _DENIED:
        raise OSError(0, f"no system-call filter is written for the machine {machine}")
    load, jump_equal, jump_least, jump_bits, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill, refuse, unknown = 0x7FFF0000, 0x80000000, 0x00050000 | 1, 0x00050000 | 38
    numbers = {**_DENIED[machine], **_DENIED_EVERYWHERE}
    clone = numbers.pop("clone")
    program = [
        (load, 0, 0, 4),  # the architecture of the call
        (jump_equal, 1, 0, _AUDIT_ARCH[machine]),
        (give, 0, 0, kill),
        (load, 0, 0, 0),  # its number
        (jump_least, 0, 1, 0x40000000),  # calls of the x32 ABI have numbers of their own
        (give, 0, 0, kill),
    ]
    for number in numbers.values():
        program += [(jump_equal, 0, 1, number), (give, 0, 0, refuse)]
    # A filter cannot read the flags of clone3; the C library then uses clone.
    program += [(jump_equal, 0, 1, _CLONE3), (give, 0, 0, unknown)]
    program += [
        (jump_equal, 0, 3, clone),
        (load, 0, 0, 16),  # its flags
        (jump_bits, 0, 1, _CLONE_NEW_ALL | _CLONE_NEW_USER | 0x02000000),
        (give, 0, 0, refuse),
        (give, 0, 0, allow),
    ]
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    code_in_memory = ctypes.create_string_buffer(code)
    whole = struct.pack("HP", len(program), ctypes.addressof(code_in_memory))
    _call("prctl", _PR_SET_SECCOMP, 2, ctypes.c_char_p(whole), 0, 0)


def _as_child_of_first() -> None:
    """Return in a child; process 1 stays behind, takes in orphans, and ends with that child."""
    runner = os.fork()
    if runner == 0:
        return
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    while True:
        pid, status = os.wait()
        if pid == runner:
            os._exit(_exit_status(status))


def _exit_status(status: int) -> int:
    """The exit status that a shell would give: 128 + the signal for a process that was killed."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _execute(
    source: int,
    verdict: int,
    *,
    execute: Callable[..., None] = exec,
    compiled: Callable[..., Any] = compile,
    read: Callable[[int, int], bytes] = os.read,
    write: Callable[[int, bytes], int] = os.write,
    leave: Callable[[int], Any] = os._exit,
    outcome_of: Callable[[BaseException], bytes],
) -> None:
    """Execute a candidate and its tests in one namespace; leaves the process at the end.

    Its parameters are many, as each binds a function before any other code can replace it.
    """
    program = types.ModuleType("program")
    sys.modules["program"] = program
    space = program.__dict__

    def take(size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            block = read(source, size - len(data))
            if not block:
                leave(0)  # the supervisor is gone
            data += block
        return bytes(data)

    def receive() -> str:
        return take(int.from_bytes(take(8), "little")).decode("utf-8", "surrogatepass")

    try:
        execute(compiled(receive(), "<candidate>", "exec", dont_inherit=True), space)
        write(verdict, b"candidate\n")
        execute(compiled(receive(), "<tests>", "exec", dont_inherit=True), space)
        write(verdict, b"tests\n")
        write(verdict, b"passed " + receive().encode() + b"\n")
    except BaseException as error:
        write(verdict, outcome_of(error))
    leave(0)


def _outcome_of(error: BaseException) -> bytes:
    """The line that tells how a program failed: the exception's type and the start of its text."""
    state = b"memory" if isinstance(error, MemoryError) else b"failed"
    try:
        text = f"{type(error).__name__}: {error}"[:200]
    except BaseException:  # the candidate wrote the exception's class
        text = type(error).__name__[:200]
    line = " ".join(text.split()).removesuffix(":")
    return state + b" " + line.encode("utf-8", "replace") + b"\n"


def main() -> None:
    """Shut this process in, then execute what the supervisor sends."""
    job: Job = json.loads(sys.argv[1])
    try:
        if job["backend"] == "namespaces":
            _own_namespaces(job)
        _drop_rights(job)
        os.chdir(job["scratch"])
        _filter_system_calls()
        if os.getpid() == 1:
            _as_child_of_first()
        sys.path += job["packages"]
        source, verdict = os.dup(0), os.dup(1)
        nothing = os.open("/dev/null", os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(2, 1)
        os.close(nothing)
    except OSError as error:
        os.write(1, f"unable {' '.join(str(error.strerror).split())}\n".encode())
        return
    del sys.argv[1:], sys.orig_argv[1:]
    os.write(verdict, b"ready\n")
    _execute(source, verdict, outcome_of=_outcome_of)


if __name__ == "__main__":
    main()
