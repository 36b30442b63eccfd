"""Backends that build a sandbox on a machine, and the view of the file system that both give.

With either, the same script (`child`) then drops every right, sets the limits of a process and
filters system calls. The backends differ in who makes the namespaces.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import sys
import sysconfig
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slm_benchmark.sandbox.limits import Limits
from slm_benchmark.sandbox.processes import process_table

if TYPE_CHECKING:
    from slm_benchmark.sandbox.child import Job

CHILD = Path(__file__).with_name("child.py")
SCRATCH = "/scratch"
NOBODY = 65534

_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": SCRATCH,
    "TMPDIR": SCRATCH,
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    # Each thread of a BLAS counts as a process and takes address space.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
"""Every variable that a program sees, on every machine."""


@dataclass(frozen=True)
class Launch:
    """How to start one sandbox.

    Attributes:
        command: The command; its standard streams are those of `child`.
        environment: Its whole environment.
    """

    command: list[str]
    environment: dict[str, str]


@dataclass(frozen=True)
class Backend:
    """One way to confine a program.

    Attributes:
        name: ``namespaces`` or ``bubblewrap``.
        missing: Why this machine cannot even try it; None when it can.
        launch: Makes the `Launch` of one program.
    """

    name: str
    missing: Callable[[], str | None]
    launch: Callable[[Limits], Launch]


@dataclass(frozen=True)
class _View:
    """What can be seen of the file system: an interpreter and its packages.

    Attributes:
        visible: Existing files and folders; none lies inside another.
        links: Symbolic links of the root folder, such as /lib to usr/lib.
        packages: Folders of packages, for the path of the interpreter.
        python: The interpreter itself, not the link of a virtual environment.
    """

    visible: list[str]
    links: dict[str, str]
    packages: list[str]
    python: str


def visible_paths() -> list[str]:
    """The files and folders of this machine that a program can read."""
    return _view().visible


def _view() -> _View:
    packages = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    numpy = importlib.util.find_spec("numpy")
    if numpy and numpy.origin:
        packages.append(str(Path(numpy.origin).parents[1]))
    packages = list(dict.fromkeys(packages))
    python = str(getattr(sys, "_base_executable", None) or sys.executable)
    links = {path: os.readlink(path) for path in _SYSTEM if os.path.islink(path)}
    system = ["/usr", "/etc/ld.so.cache", "/etc/alternatives"]
    system += [path for path in _SYSTEM if path not in links]
    wanted = sorted({*system, sys.base_prefix, *packages, str(CHILD)})
    visible: list[str] = []
    for path in filter(os.path.exists, wanted):
        if not any(Path(path).is_relative_to(seen) for seen in visible):
            visible.append(path)
    return _View(visible, links, packages, python)


def _job(backend: str, limits: Limits, view: _View, user: int = NOBODY) -> list[str]:
    """The command of `child`, for a program under ``limits``."""
    # Three more processes than allowed: two are ours, and the third lets the supervisor see that
    # the limit was passed.
    rlimits = {
        "RLIMIT_AS": limits.memory_bytes,
        "RLIMIT_CPU": math.ceil(limits.cpu_s) + 1,
        "RLIMIT_FSIZE": limits.scratch_bytes,
        "RLIMIT_NPROC": limits.processes + 3 + _counted_already(),
        "RLIMIT_NOFILE": 256,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_CORE": 0,
    }
    job: Job = {
        "backend": backend,
        "visible": view.visible,
        "links": view.links,
        "packages": view.packages,
        "scratch": SCRATCH,
        "scratch_bytes": limits.scratch_bytes,
        "user": user,
        "rlimits": rlimits,
    }
    # No site module: it would run code of every package that hooks into start-up.
    return [view.python, "-S", "-s", "-P", str(CHILD), json.dumps(job)]


def _counted_already() -> int:
    """Threads that the limit on processes counts besides those of the sandbox.

    Before Linux 5.14 the limit counts all of a user's threads, not those of a user namespace.
    """
    release = os.uname().release.split("-")[0].split(".")
    if os.geteuid() == 0 or [int(part) for part in release[:2] if part.isdigit()] >= [5, 14]:
        return 0
    user = os.getuid()
    table = process_table()
    return sum(process.threads for process in table.values() if process.user == user)


def _namespaces(limits: Limits) -> Launch:
    # Root changes to a user id per sandbox, so that the limit on processes counts one sandbox; in
    # a container that maps few ids there is only nobody.
    user = NOBODY
    if os.geteuid() == 0 and "4294967295" in Path("/proc/self/uid_map").read_text():
        user = 0x70000000 + uuid.uuid4().int % 0x0FFFFFFF
    return Launch(_job("namespaces", limits, _view(), user), ENVIRONMENT)


def _no_namespaces() -> str | None:
    return None if sys.platform == "linux" else "they exist on Linux alone"


def _bubblewrap(limits: Limits) -> Launch:
    view = _view()
    bwrap = shutil.which("bwrap") or "bwrap"
    command = [bwrap, "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"]
    command += ["--uid", str(NOBODY), "--gid", str(NOBODY), "--hostname", "sandbox"]
    command += ["--cap-drop", "ALL"]
    for path in view.visible:
        command += ["--ro-bind", path, path]
    for path, points_to in view.links.items():
        command += ["--symlink", points_to, path]
    for device in ("null", "zero", "random", "urandom"):
        command += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    command += ["--size", str(limits.scratch_bytes), "--tmpfs", SCRATCH, "--remount-ro", "/"]
    return Launch([*command, *_job("bubblewrap", limits, view)], ENVIRONMENT)


def _no_bubblewrap() -> str | None:
    if os.geteuid() == 0:
        return "it is for ordinary users, as root would stay root behind it"
    return None if shutil.which("bwrap") else "bwrap is not installed"


BACKENDS = (
    Backend("namespaces", _no_namespaces, _namespaces),
    Backend("bubblewrap", _no_bubblewrap, _bubblewrap),
)
"""In the order in which they are tried."""
