"""Whether this machine can confine a program, and the run of one program with its control."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from slm_benchmark.common.errors import NotRun, RunEnvironmentError
from slm_benchmark.common.paths import ROOT
from slm_benchmark.sandbox.backends import BACKENDS, ENVIRONMENT, Backend, visible_paths
from slm_benchmark.sandbox.limits import Limits
from slm_benchmark.sandbox.supervisor import Outcome, supervise


class CannotConfine(NotRun):
    """This machine has no way to confine a program, so no generated code runs on it."""


@dataclass(frozen=True)
class Unavailable:
    """Why this machine cannot confine programs.

    Attributes:
        reason: What was tried and what came of it, as a clause.
        fix: What to do about it.
    """

    reason: str
    fix: str


_PROBE_LIMITS = Limits(
    cpu_s=30, wall_s=60, memory_bytes=1 << 30, processes=8, scratch_bytes=1 << 20, output_bytes=4096
)

# Checks every promise from inside. The names that must be hidden are filled in.
_PROBE = """
import ctypes, os, socket
assert os.getppid() == 1, "it is not in a process namespace of its own"
assert os.getuid() != 0, "it would run as root"
assert not set(os.environ) & set({variables!r}), "it sees the environment of the host"
for path in {hidden!r}:
    assert not os.path.lexists(path), "it sees the files of the host"
for folder in ("/", "/usr", "/dev", *{packages!r}):
    try:
        open(folder + "/probe", "w").close()
    except OSError:
        continue
    raise AssertionError("it can write outside the scratch folder")
with open("probe", "w") as stream:
    stream.write("scratch")
with open("probe") as stream:
    assert stream.read() == "scratch", "it cannot write in the scratch folder"
for family in (socket.AF_INET, socket.AF_UNIX):
    try:
        socket.socket(family).close()
    except OSError:
        continue
    raise AssertionError("it can open a socket")
assert ctypes.CDLL(None).unshare(0x10000000) == -1, "it can make a user namespace"
"""

# A control: whatever the candidate left behind or does when it is called, the tests must refuse a
# wrong solution. Everything that can be called now answers with a useless value, and the tests run
# again. That ends with an error, unless something tampers with the verdict or with what the tests
# use.
_CONTROL = """
_refused = 0
for _answer in (object(), None):
    for _name, _value in list(globals().items()):
        if callable(_value):
            globals()[_name] = (
                lambda value: lambda *args, **kwargs: (value(*args, **kwargs), _answer)[1]
            )(_value)
    try:
        exec({tests!r}, globals())
    except:
        _refused += 1
assert not _refused
"""

# The same, where tests look at nothing that a call does besides answering: a right solution that
# sorts its argument, raises an error or prints passes the first control by that. What a candidate
# does to the interpreter or to the tests' names is still done at each call.
_QUIET_CONTROL = """
def _quietly(value, args, kwargs):
    import contextlib, copy, io
    try:
        args, kwargs = copy.deepcopy((args, kwargs))
    except BaseException:
        pass
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            value(*args, **kwargs)
    except BaseException:
        pass

_tools = [_quietly]
del _quietly
_refused = 0
for _answer in (object(), None):
    for _name, _value in list(globals().items()):
        if callable(_value):
            globals()[_name] = (
                lambda value: lambda *args, **kwargs: (_tools[0](value, args, kwargs), _answer)[1]
            )(_value)
    try:
        exec({tests!r}, globals())
    except:
        _refused += 1
assert not _refused
"""

# The tests without any candidate: each name that they expect of it answers with a useless value. A
# name of a module, which a candidate may have imported for them, has that module's attributes.
_NEUTRAL = """
import builtins, importlib

class _Useless:
    def __init__(self, name):
        self.__name__ = name

    def __call__(self, *args, **kwargs):
        return _answer

    def __getattr__(self, attribute):
        try:
            return getattr(importlib.import_module(self.__name__), attribute)
        except ImportError:
            raise AttributeError(attribute) from None

class _Names(dict):
    def __missing__(self, name):
        if hasattr(builtins, name):
            raise KeyError(name)
        return _Useless(name)

_refused = 0
for _answer in (object(), None):
    try:
        exec({tests!r}, _Names(__name__="program"))
    except:
        _refused += 1
assert not _refused
"""


def find_confinement(backends: Sequence[Backend] = BACKENDS) -> Backend | Unavailable:
    """The first backend that keeps every promise when it is tried on this machine."""
    problems = []
    for backend in backends:
        problem = backend.missing() or _broken_promise(backend)
        if problem is None:
            return backend
        problems.append(f"{backend.name}: {problem}")
    return Unavailable("this machine cannot confine generated code: " + "; ".join(problems), _fix())


@functools.cache
def confinement() -> Backend | Unavailable:
    """What `find_confinement` finds on this machine; tried once in a process."""
    return find_confinement()


def require_confinement() -> Backend:
    """The backend with which this machine confines programs.

    Raises:
        CannotConfine: when none works; the message says what was tried, and how to change it.
    """
    backend = confinement()
    if isinstance(backend, Unavailable):
        raise CannotConfine(backend.reason, fix=backend.fix)
    return backend


def run_program(
    candidate: str, tests: str, limits: Limits, backend: Backend | None = None
) -> Outcome:
    """Execute a candidate and its tests, confined, and try whether a pass can be believed.

    A pass is followed by a second run, the control: the same candidate and tests, and then the same
    tests with wrong answers. When the control passes too, the verdict does not depend on the
    answers. Then the tests run without the candidate, with useless values in the place of its
    functions. If they accept even those, the fault is theirs and the state is ``inconclusive``;
    else it is the candidate's and the state ``forged``, unless the tests do not ask for answers but
    for what a call does to its arguments, raises or prints.

    Args:
        candidate: Source of the solution.
        tests: Source that raises an exception unless the solution is right.
        limits: Bounds of each of the two runs.
        backend: How to confine; None = as `require_confinement` finds.

    Raises:
        CannotConfine: when this machine cannot confine a program; nothing has run then.
        RunEnvironmentError: when the sandbox could not be built this time; nothing has run then.
    """
    backend = backend or require_confinement()
    outcome = supervise(backend, candidate, tests, limits)
    if outcome.state != "passed" or not _passes(candidate, tests, _CONTROL, limits, backend):
        return outcome
    neutral = _NEUTRAL.format(tests=tests)
    if supervise(backend, "", neutral, limits).state == "passed":
        detail = "the tests accept useless values without any candidate"
        return replace(outcome, state="inconclusive", detail=detail)
    if _passes(candidate, tests, _QUIET_CONTROL, limits, backend):
        return replace(outcome, state="forged", detail="wrong answers pass the tests as well")
    return outcome


def _passes(candidate: str, tests: str, control: str, limits: Limits, backend: Backend) -> bool:
    """Whether a candidate passes its tests and then a control, which wants them to accept all."""
    with_control = f"{tests}\n{control.format(tests=tests)}"
    return supervise(backend, candidate, with_control, limits).state == "passed"


def _broken_promise(backend: Backend) -> str | None:
    """What a sandbox of this kind fails to keep on this machine; None when it keeps all."""
    visible = [Path(path) for path in visible_paths()]
    with tempfile.NamedTemporaryFile(prefix="slm-benchmark-probe-") as secret:
        hidden = [Path(secret.name), ROOT / "pyproject.toml"]
        home = Path(os.path.expanduser("~"))
        if os.access(home, os.R_OK | os.X_OK):
            hidden += sorted(home.iterdir())
        names = [
            str(path)
            for path in hidden
            if not any(seen.is_relative_to(path) or path.is_relative_to(seen) for seen in visible)
        ]
        packages = [str(path) for path in visible if path.is_dir()]
        variables = sorted(set(os.environ) - set(ENVIRONMENT))
        probe = _PROBE.format(hidden=names, packages=packages, variables=variables)
        try:
            outcome = supervise(backend, probe, "", _PROBE_LIMITS)
        except RunEnvironmentError as fault:
            return fault.message
        except OSError as error:
            return f"it cannot be started: {error}"
    return None if outcome.state == "passed" else f"{outcome.state}: {outcome.detail}"


def _fix() -> str:
    """How this machine could be made to confine programs, by what forbids it now."""
    for file, forbidding, setting in (
        ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces=10000"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ):
        path = Path(file)
        if path.exists() and path.read_text().strip() == forbidding:
            change = f"allow user namespaces with: sudo sysctl -w {setting}"
            break
    else:
        change = "start this container with the right to make namespaces, or install bubblewrap"
    return f"{change}; or score the answers on another machine"
