"""Make .venv exactly what requirements.lock says; the standard library only.

`. ./activate` runs this. It is safe to kill at any moment: the same command resumes, because the
stamp that says "done" is written last and everything before it can be repeated.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
STAMP = VENV / "installed-from"
WORK = ROOT / ".wheels"
"""Logs of the set-up and the lock that keeps two set-ups of one clone apart (ignored by git)."""

ENGINE_NAMES = (
    'exec("try:\\n import slm_benchmark.engines.lm_eval_plugin as names\\n'
    "except ImportError: pass\\nelse:\\n names.watch()\\n"
    " [sys.modules.pop(n) for n in list(sys.modules) if n.startswith('slm_benchmark')]\")"
)
"""Run at every start of .venv's Python: lm_eval knows our engines. Without the package, nothing.

The package is forgotten again, so that a program that puts another copy of it on the path, as a
workflow does with the one of its own checkout, imports that copy.
"""

LLAMA = "llama-cpp-python"
MINIMUM = (3, 11)
ROOM_BYTES = 5_000_000_000
"""What .venv and its parts take while it is made."""

TEMPORARY_BYTES = 1_500_000_000
"""What pip unpacks at a time."""

HEARTBEAT_S = 15.0
RETRY_WAIT_S = 5.0

_FOREIGN_TARGETS = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PYTHONPATH", "PYTHONHOME")
"""Variables that would put packages somewhere other than .venv, or read them from elsewhere."""
_COMPILER_SETTINGS = ("CMAKE_ARGS", "SKBUILD_CMAKE_ARGS", "CFLAGS", "CXXFLAGS", "CPPFLAGS")
"""Variables that would turn the portable build into another one."""


_UNUSABLE = ":{}"
"""Characters that the path of a clone cannot have: PYTHONPATH is cut at one, Snakemake fills in
the others."""


class SetupError(Exception):
    """One clear line for the person at the terminal: what is wrong, and how to fix it."""


def llama_cmake(machine: str) -> list[str]:
    """CMake definitions of the portable build of llama.cpp for a machine type such as x86_64.

    The build never asks the processor what it can do: a fixed target is what makes two machines
    comparable, and llama.cpp's AMX kernels crash on processors that offer them.
    """
    settings = ["GGML_NATIVE=OFF", "LLAVA_BUILD=OFF"]
    if machine.lower() in ("x86_64", "amd64"):
        settings[1:1] = [f"GGML_{name}=ON" for name in ("AVX2", "FMA", "F16C", "BMI2")]
    elif machine.lower() in ("aarch64", "arm64"):
        settings[1:1] = ["GGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16"]
    return settings


def locked_version(package: str) -> str:
    """The version of ``package`` in requirements.lock."""
    lock = LOCK.read_text(encoding="utf-8")
    match = re.search(rf"^{re.escape(package)}==(\S+)$", lock, re.MULTILINE)
    if not match:
        raise SetupError(f"{LOCK.name} has no line '{package}==…'. Fix: restore {LOCK.name}")
    return match[1]


def _cache() -> Path:
    """The user's cache folder; a relative path for a user without a home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "slm-benchmark")


def _is_plain(path: Path) -> bool:
    """Whether a path is the same word to every shell and compiler, as most are."""
    return shlex.quote(str(path)) == str(path)


def environment_folder() -> Path:
    """Where the environment lies: .venv, which is a link where the clone's path has a space.

    The programs of an environment and the compilers that it is used with do not quote its path, so
    that of a clone in such a place lies in the cache.
    """
    if _is_plain(VENV):
        return VENV
    return _cache() / "environments" / hashlib.sha256(os.fsencode(ROOT)).hexdigest()[:16]


def environment_python() -> Path:
    """The environment's interpreter, by the path that its programs are to start it with."""
    return environment_folder() / "bin" / "python"


def cache_folder() -> Path:
    """Where compiled wheels are kept between clones: ~/.cache/slm-benchmark, else this clone."""
    folder = _cache() / "wheels"
    if not folder.is_absolute():
        return WORK
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return WORK
    return folder if os.access(folder, os.W_OK) else WORK


def llama_folder() -> Path:
    """The cache folder of this exact build: version, flags, Python and machine."""
    machine = platform.machine()
    python = f"{sys.implementation.name}-{sys.version_info[0]}.{sys.version_info[1]}"
    libc = "-".join(platform.libc_ver())
    parts = [LLAMA, locked_version(LLAMA), *llama_cmake(machine), python, sys.platform]
    key = hashlib.sha256("\n".join([*parts, machine, libc]).encode()).hexdigest()[:16]
    return cache_folder() / key


def llama_wheel() -> Path | None:
    """The compiled wheel of this build, if the cache has it whole."""
    for wheel in sorted(llama_folder().glob("*.whl")):
        with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(wheel) as archive:
            if archive.testzip() is None:
                return wheel
    return None


def clean_environment(*, compiling: bool = False) -> dict[str, str]:
    """The caller's environment (with its index settings) without what would redirect pip."""
    unwanted = _FOREIGN_TARGETS + (_COMPILER_SETTINGS if compiling else ())
    return {key: value for key, value in os.environ.items() if key not in unwanted}


@contextlib.contextmanager
def exclusive(path: Path, waiting: str) -> Iterator[int]:
    """Hold a file lock, saying ``waiting`` now and then while another process has it.

    Yields the descriptor: a child that inherits it keeps the lock when this process is killed, so
    that a second set-up never meets a pip that still writes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as stream:
        last_said = -HEARTBEAT_S
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - last_said > HEARTBEAT_S:
                    say(waiting)
                    last_said = time.monotonic()
                time.sleep(0.5)
        yield stream.fileno()


def say(text: str) -> None:
    """One line to the terminal, at once."""
    print(f"set-up: {text}", file=sys.stderr, flush=True)


@dataclass
class Job:
    """A child process whose log is read while it runs, to show its progress as plain lines."""

    name: str
    command: list[str]
    log: Path
    progress: Callable[[str], str | None]
    environment: dict[str, str]
    inherit: tuple[int, ...] = ()
    retries: int = 0
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._last_news = self.started
        self._start()

    def _start(self) -> None:
        with open(self.log, "w") as stream:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=self.environment,
                cwd=ROOT,
                pass_fds=self.inherit,
            )
        self._reader = open(self.log, errors="replace")  # noqa: SIM115 — read until the job ends

    def poll(self) -> bool:
        """Print what is new; True while the job runs.

        Raises:
            SetupError: when the job has ended with an error.
        """
        code = self.process.poll()
        for line in self._reader:
            if news := self.progress(line.rstrip()):
                say(f"{self.name}: {news}")
                self._last_news = time.monotonic()
        if code is None:
            if time.monotonic() - self._last_news > HEARTBEAT_S:
                say(f"{self.name}: still working, {time.monotonic() - self.started:.0f} s so far")
                self._last_news = time.monotonic()
            return True
        self._reader.close()
        if code != 0 and self.retries > 0:
            say(f"{self.name}: failed with exit code {code}; trying once more in a few seconds")
            self.retries -= 1
            time.sleep(RETRY_WAIT_S)
            self._start()
            return True
        if code != 0:
            tail = [text for text in self.log.read_text(errors="replace").splitlines() if text]
            raise SetupError(
                f"{self.name} failed (exit code {code}); the end of {self.log.relative_to(ROOT)}:\n"
                + "\n".join(f"    {text}" for text in tail[-15:])
                + "\n  Fix: correct the cause above (network, disk, compiler), then run the same "
                "command again; it resumes"
            )
        return False


def wait_for(jobs: list[Job]) -> None:
    """Wait for all jobs, showing their progress; the first failure ends the others."""
    running = jobs
    try:
        while running := [job for job in running if job.poll()]:
            time.sleep(0.5)
    except BaseException:
        for job in jobs:
            job.process.terminate()
        raise


def pip_progress(total: int) -> Callable[[str], str | None]:
    """Turns pip's lines into "k of n packages"; at most one line in two seconds, and the last."""
    seen: set[str] = set()
    last = [0.0]

    def progress(line: str) -> str | None:
        if building := re.match(r"\s*Building wheel for (\S+) .*: started", line):
            return f"building {building[1]}"
        if line.startswith("Installing collected packages"):
            return f"unpacking {line.count(',') + 1} packages, this takes a minute or two"
        match = re.match(r"(?:Collecting|Requirement already satisfied:) ([\w.-]+)", line)
        if not match:
            return None
        seen.add(match[1].lower())
        if time.monotonic() - last[0] < 2 and len(seen) < total:
            return None
        last[0] = time.monotonic()
        return f"package {min(len(seen), total)} of {total} ({match[1]})"

    return progress


def compile_progress(line: str) -> str | None:
    """Turns ninja's "[12/345]" into a line at every tenth file."""
    match = re.match(r"\s*\[(\d+)/(\d+)\]", line)
    if not match or int(match[1]) % 10:
        return None
    return f"file {match[1]} of {match[2]}"


def check_place() -> None:
    """Refuse a folder in which the workflow could not run.

    Raises:
        SetupError: naming what is in its path, and where to put it.
    """
    path = str(ROOT)
    wrong = [sign for sign in path if sign in _UNUSABLE or not sign.isprintable()]
    if wrong:
        raise SetupError(
            f"the path of this clone has {wrong[0]!r} in it, with which Python or Snakemake cannot "
            f"work: {path!r}. Fix: move the clone to a folder without it, then the same command"
        )
    if not (environment_folder().is_absolute() and _is_plain(environment_folder())):
        raise SetupError(
            f"neither this clone nor the cache has a plain path, as compilers need: {path!r}, "
            f"{str(environment_folder())!r}. Fix: XDG_CACHE_HOME=FOLDER, with a folder whose path "
            "has letters, digits, dots and dashes only, before the same command"
        )


def check_room() -> None:
    """Refuse early what would fill a disk, or could not run what it compiles.

    Raises:
        SetupError: naming the folder.
    """
    temporary = Path(tempfile.gettempdir())
    for folder, needed, what in (
        (ROOT, 0 if VENV.exists() else ROOM_BYTES, "the environment"),
        (temporary, TEMPORARY_BYTES, "temporary files (TMPDIR)"),
    ):
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise SetupError(
                f"{folder} has {free / 1e9:.1f} GB left; {what} needs {needed / 1e9:.0f} GB. "
                "Fix: free some space, or use another folder"
            )
    if not llama_wheel() and not _runs_programs(temporary):
        raise SetupError(
            f"programs cannot be run in {temporary} (mounted noexec?), where llama.cpp is "
            "compiled. Fix: TMPDIR=FOLDER, with a folder that allows it, before the same command"
        )


def _runs_programs(folder: Path) -> bool:
    """Whether a program that lies in a folder can be started."""
    handle, name = tempfile.mkstemp(dir=folder)
    try:
        with os.fdopen(handle, "w") as stream:
            stream.write("#!/bin/sh\nexit 0\n")
        os.chmod(name, 0o700)
        return subprocess.run([name], capture_output=True, check=False).returncode == 0
    except PermissionError:
        return False
    finally:
        os.unlink(name)


def check_machine() -> None:
    """Refuse early, before minutes of downloads, what cannot work.

    Raises:
        SetupError: naming the missing part and the command that brings it.
    """
    if sys.version_info < MINIMUM:
        raise SetupError(
            f"Python {platform.python_version()} is too old. Fix: install Python 3.11 or newer"
        )
    if importlib.util.find_spec("ensurepip") is None:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise SetupError(
            f"Python {version} cannot make virtual environments: its ensurepip module is missing. "
            f"Fix: apt-get install python{version}-venv (Debian, Ubuntu), then the same command"
        )
    compilers = [os.environ.get("CXX") or "c++", "g++", "clang++"]
    if not any(shutil.which(compiler) for compiler in compilers):
        raise SetupError(
            "no C++ compiler was found; llama.cpp and the 4-bit kernels are compiled here. "
            "Fix: apt-get install g++ (Debian, Ubuntu) or xcode-select --install (macOS)"
        )


def wanted_stamp() -> str:
    """Digest of everything that decides what .venv holds."""
    digest = hashlib.sha256()
    for path in (LOCK, ROOT / "pyproject.toml"):
        digest.update(path.read_bytes())
    digest.update(f"{sys.version_info[:2]}\n{ROOT}\n{llama_cmake(platform.machine())}".encode())
    return digest.hexdigest() + "\n"


def installed() -> bool:
    """True when a finished set-up of exactly this lock is in place."""
    try:
        return environment_python().exists() and STAMP.read_text() == wanted_stamp()
    except OSError:
        return False


def make_venv() -> None:
    """Create .venv, or make it anew when it is broken, of another Python or of another place.

    Its programs hold its path, so that a moved one finds none of them, and a copied one runs those
    of the first clone.
    """
    folder, python = environment_folder(), environment_python()
    if VENV.is_symlink() and VENV.resolve() != folder:  # another clone's, not ours to change
        VENV.unlink()
    probe = f"import pip, sys; print(sys.version_info[:2] == {tuple(sys.version_info[:2])})"
    if python.exists() and VENV.exists() and _made_here():
        result = subprocess.run(
            [python, "-c", probe], capture_output=True, text=True, env=clean_environment()
        )
        if result.stdout.strip() == "True":
            return
    base = getattr(sys, "_base_executable", None) or sys.executable
    command = [base, "-m", "venv", "--clear", "--prompt", "slm-benchmark", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, env=clean_environment())
    if result.returncode != 0:
        why = (result.stdout + result.stderr).strip().splitlines()[-1:] or ["no message"]
        raise SetupError(
            f"cannot create {folder}: {why[0]}. Fix: free some space, or make the folder writable"
        )
    if folder != VENV:
        shutil.rmtree(VENV, ignore_errors=True)
        VENV.unlink(missing_ok=True)
        VENV.symlink_to(folder)


def _made_here() -> bool:
    """Whether .venv was made at this path; its configuration ends with the command that did."""
    try:
        text = (VENV / "pyvenv.cfg").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    made_by = [line for line in text.splitlines() if line.startswith("command = ")]
    return not made_by or made_by[-1].endswith(f" {environment_folder()}")


def drop_unfinished() -> None:
    """Forget packages whose installation was killed: pip writes RECORD last but looks for METADATA.

    Without this, pip would take a package for installed that lacks its programs.
    """
    for folder in VENV.glob("lib/python*/site-packages/*.dist-info"):
        if not (folder / "RECORD").exists():
            shutil.rmtree(folder)


def name_engines() -> None:
    """Make `lm_eval --model slm-llamacpp` work in .venv: a .pth file that runs `ENGINE_NAMES`.

    Python runs a line of such a file only when it begins with an import.
    """
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(VENV)}))
    path, text = packages / "slm_benchmark.pth", f"import sys; {ENGINE_NAMES}\n"
    if not path.exists() or path.read_text() != text:
        packages.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(text)
        os.replace(part, path)


def build_llama() -> None:
    """Compile the wheel into the cache; another clone's compilation is waited for, not repeated.

    This runs as a process of its own, so that a killed set-up does not lose minutes of compiling.
    """
    folder = llama_folder()
    with exclusive(
        folder / "lock", "another clone compiles llama-cpp-python; waiting for it"
    ) as fd:
        if llama_wheel():
            return
        part = folder / "part"
        shutil.rmtree(part, ignore_errors=True)
        flags = [
            f"--config-settings=cmake.define.{setting}"
            for setting in llama_cmake(platform.machine())
        ]
        # No cache: pip's own may hold a wheel of this version that was built for one processor.
        command = [
            str(environment_python()),
            "-m",
            "pip",
            "wheel",
            "-v",
            "--no-deps",
            "--no-cache-dir",
        ]
        command += ["--no-binary", LLAMA, "--wheel-dir", str(part), *flags]
        command += [f"{LLAMA}=={locked_version(LLAMA)}"]
        environment = clean_environment(compiling=True)
        result = subprocess.run(command, env=environment, pass_fds=(fd,))
        if result.returncode != 0:
            raise SetupError(f"pip wheel ended with exit code {result.returncode}")
        for wheel in part.glob("*.whl"):
            os.replace(wheel, folder / wheel.name)
        shutil.rmtree(part, ignore_errors=True)


def requirements() -> list[str]:
    """The lines of requirements.lock that pip installs as they are; llama-cpp-python is apart."""
    text = LOCK.read_text(encoding="utf-8")
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(f"{LLAMA}==")]


def install() -> None:
    """The steps, each repeatable."""
    check_machine()
    check_room()
    python = str(environment_python())
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    with exclusive(WORK / "lock", "another set-up of this clone still runs; waiting for it") as fd:
        if installed():
            return
        STAMP.unlink(missing_ok=True)
        say("step 1 of 4: the virtual environment .venv")
        make_venv()
        drop_unfinished()

        jobs = []
        environment = clean_environment()
        if not llama_wheel():
            say("step 2 of 4: compile llama.cpp in the background (about 5 minutes, once)")
            jobs.append(
                Job(
                    "llama.cpp",
                    [python, __file__, "--build-llama"],
                    WORK / "llama-cpp-python.log",
                    compile_progress,
                    environment,
                )
            )
        else:
            say("step 2 of 4: llama.cpp is compiled already")

        pins = requirements()
        say(f"step 3 of 4: download and install {len(pins)} locked packages")
        pinned = WORK / "requirements.txt"
        pinned.write_text("\n".join(pins) + "\n")
        command = [*pip, "install", "--progress-bar", "off", "-r", str(pinned)]
        log = WORK / "pip.log"
        # A package index can fail for a moment, or show a stale page of one package.
        news = pip_progress(len(pins))
        jobs.append(Job("pip", command, log, news, environment, (fd,), retries=2))
        wait_for(jobs)

        say("step 4 of 4: llama-cpp-python and this project")
        wheel = llama_wheel()
        if wheel is None:
            raise SetupError(
                f"no wheel of {LLAMA} in {llama_folder()}. Fix: see {WORK.name}/*.log, run it again"
            )
        quick = [*pip, "install", "--no-deps", "--no-index"]
        for name, arguments in (
            ("llama-cpp-python", ["--force-reinstall", str(wheel)]),
            ("slm-benchmark", ["--no-build-isolation", "--editable", str(ROOT)]),
        ):
            log = WORK / f"{name}-install.log"
            wait_for([Job(name, [*quick, *arguments], log, lambda _: None, environment, (fd,))])
        check = [*pip, "check"]
        wait_for([Job("pip check", check, WORK / "check.log", lambda _: None, environment, (fd,))])
        STAMP.write_text(wanted_stamp())
        say(f"done; {VENV.name} holds the locked environment")


def main() -> int:
    """Set up, then link the profiles; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--build-llama", action="store_true", help="only compile llama-cpp-python")
    arguments = parser.parse_args()
    os.umask(0o022)  # what is installed here is read by the sandbox's user too
    try:
        check_place()
        if arguments.build_llama:
            build_llama()
            return 0
        if not installed():
            install()
        name_engines()
    except SetupError as error:
        say(f"error: {error}")
        return 1
    except OSError as error:
        say(f"error: {error}. Fix: free some space, or make the folder writable")
        return 1
    except KeyboardInterrupt:
        say("stopped; the same command resumes")
        return 130
    sys.path.insert(0, str(ROOT / "src"))
    from slm_benchmark.workflow.profile_links import config_folder, link_profiles

    for warning in link_profiles(config_folder(), ROOT):
        say(f"warning: {warning}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
