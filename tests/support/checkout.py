"""A checkout of this repository in a folder of its own, and the commands that a user runs in it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from yaml import safe_dump, safe_load

from slm_benchmark.common.paths import ROOT

CLOSED_PORT = "http://127.0.0.1:9"
"""An address that nobody answers: whoever asks the network gets an error."""

_HOLD = '''\
"""Stops a process right before a chosen file or folder takes its final name."""

import os
import pathlib
import time

_replace = os.replace


def _held(source, target, **options):
    if str(target).endswith(os.environ["HOLD_BEFORE"]):
        pathlib.Path(os.environ["HOLD_SIGN"]).touch()
        time.sleep(600)
    return _replace(source, target, **options)


os.replace = _held
'''


@dataclass(frozen=True)
class Done:
    """A command that ended.

    Args:
        code: Its exit code.
        output: What it printed, both streams in the order of printing.
    """

    code: int
    output: str

    def jobs(self) -> list[str]:
        """Messages of the jobs that a run of Snakemake planned or started, sorted."""
        assert "Job stats:" in self.output or "Nothing to be done" in self.output, self.output
        return sorted(re.findall(r"^Job \d+: (.+)$", self.output, re.MULTILINE))

    def measurements(self) -> list[str]:
        """Those of `jobs` that make inputs or measure."""
        others = ("Aggregate ", "Build ", "Compare ")
        return [job for job in self.jobs() if not job.startswith(others)]

    def errors(self) -> list[str]:
        """Lines that name an error of this project."""
        own = re.compile(r"(?:error: )?\S.*\. Fix: .+|error: .+")
        return [line for line in self.output.splitlines() if own.fullmatch(line.strip())]


@dataclass(frozen=True)
class Held:
    """A run of Snakemake whose job stands still right before it finishes a file."""

    process: subprocess.Popen[str]

    def jobs(self) -> list[psutil.Process]:
        """The processes below Snakemake's."""
        children: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        return children

    def kill(self, group: bool) -> None:
        """SIGKILL to Snakemake, and with ``group`` to everything that it started."""
        if group:
            os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()
        self.process.wait(timeout=10)


@dataclass(frozen=True)
class Checkout:
    """A working copy of this repository.

    Args:
        root: Its folder.
        environment: Environment variables of every command.
    """

    root: Path
    environment: Mapping[str, str] = field(repr=False)

    def copy(self, root: Path) -> Checkout:
        """The same checkout elsewhere, times of files included."""
        subprocess.run(["cp", "-a", str(self.root), str(root)], check=True)
        return Checkout(root, self.environment)

    def clone(self, root: Path) -> Checkout:
        """A fresh clone of the last commit."""
        self._git("clone", "--quiet", ".", str(root))
        return Checkout(root, self.environment)

    def snakemake(self, *arguments: str, timeout_s: float = 600, **environment: str) -> Done:
        """Run ``snakemake --profile profiles/demo`` with more arguments."""
        command = ("snakemake", "--profile", "profiles/demo", *arguments)
        return self.run(*command, timeout_s=timeout_s, **environment)

    def plan(self, *arguments: str) -> Done:
        """What `snakemake` would do."""
        done = self.snakemake(*arguments, "--dry-run")
        assert done.code == 0, done.output
        return done

    def benchmark(self, *arguments: str) -> Done:
        """Run ``slm-benchmark`` of this checkout."""
        return self.run(sys.executable, "-m", "slm_benchmark.cli", *arguments, PYTHONPATH="src")

    def run(self, *command: str, timeout_s: float = 300, **environment: str) -> Done:
        """Run any command in the checkout."""
        done = subprocess.run(
            command,
            cwd=self.root,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
        )
        return Done(done.returncode, done.stdout)

    def hold(self, before: str, *arguments: str) -> Held:
        """Start a run, and return when its job is about to rename a file to ``before``.

        Args:
            before: How the final path of the file or folder ends.
            arguments: Of `snakemake`.
        """
        inserted = self.root.with_name(f"{self.root.name}.hold")
        shutil.rmtree(inserted, ignore_errors=True)
        inserted.mkdir()
        (inserted / "sitecustomize.py").write_text(_HOLD)
        sign, log = inserted / "sign", inserted / "log"
        with open(log, "w") as stream:
            process = subprocess.Popen(
                ["snakemake", "--profile", "profiles/demo", *arguments],
                cwd=self.root,
                env={
                    **self.environment,
                    "PYTHONPATH": str(inserted),
                    "HOLD_BEFORE": before,
                    "HOLD_SIGN": str(sign),
                },
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        give_up = time.monotonic() + 400
        while not sign.exists():
            if process.poll() is not None or time.monotonic() > give_up:
                Held(process).kill(group=True) if process.poll() is None else None
                raise AssertionError(f"the run never came to {before}:\n{log.read_text()}")
            time.sleep(0.02)
        return Held(process)

    def path(self, name: str) -> Path:
        """A file of the checkout."""
        return self.root / name

    def write(self, name: str, text: str) -> None:
        """Write a file of the checkout, with its folder."""
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_text(text, encoding="utf-8")

    def replace(self, name: str, old: str, new: str) -> None:
        """Replace text that occurs once in a file of the checkout."""
        text = self.path(name).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {name}"
        self.write(name, text.replace(old, new))

    def edit(self, name: str, change: Callable[[Any], None]) -> None:
        """Change the content of a YAML file of the checkout."""
        data = self.yaml(name)
        change(data)
        self.write(name, safe_dump(data, sort_keys=False))

    def record(self, name: str) -> dict[str, Any]:
        """A JSON file of the checkout."""
        read: dict[str, Any] = json.loads(self.path(name).read_text(encoding="utf-8"))
        return read

    def yaml(self, name: str) -> Any:
        """A YAML file of the checkout."""
        return safe_load(self.path(name).read_text(encoding="utf-8"))

    def commit(self, message: str) -> str:
        """Commit everything; returns the commit."""
        self._git("add", "--all")
        self._git("commit", "--quiet", "--message", message)
        return self._git("rev-parse", "HEAD").strip()

    def _git(self, *arguments: str) -> str:
        done = self.run("git", *arguments)
        assert done.code == 0, done.output
        return done.output


def make_checkout(folder: Path) -> Checkout:
    """This repository's files under ``folder``, committed to a repository of its own.

    No command in it reaches a network, a configuration of the user, or the folder that the tests
    run from; pip finds what lies in ``folder/index``.
    """
    (folder / "index").mkdir(parents=True)
    (folder / "home").mkdir()
    root = folder / "checkout"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, listed):
        published = name.startswith("results/") and name != "results/LICENSE"
        if (ROOT / name).is_file() and not published:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name, follow_symlinks=False)
    foreign = re.compile(r"(?i)(pip|hf|slm|git|snakemake|python|xdg)_?.*|.*_proxy")
    kept = {name: value for name, value in os.environ.items() if not foreign.fullmatch(name)}
    author = {f"GIT_{who}_NAME": "test" for who in ("AUTHOR", "COMMITTER")}
    author |= {f"GIT_{who}_EMAIL": "test@example.org" for who in ("AUTHOR", "COMMITTER")}
    checkout = Checkout(
        root,
        {
            **kept,
            **author,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(folder / "home"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "HF_ENDPOINT": CLOSED_PORT,
            "HTTP_PROXY": CLOSED_PORT,
            "HTTPS_PROXY": CLOSED_PORT,
            "NO_PROXY": "127.0.0.1",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(folder / "index"),
            "PIP_CONFIG_FILE": os.devnull,
        },
    )
    checkout._git("init", "--quiet", "--initial-branch", "main")
    return checkout


def make_wheel(folder: Path, name: str, files: Mapping[str, bytes]) -> str:
    """Write the wheel ``name`` 1.0 into ``folder``; returns its SHA-256."""
    info = f"{name}-1.0.dist-info"
    members = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as JSON, one per line."""
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def half_written(checkout: Checkout) -> list[str]:
    """Files and folders that a write left unfinished, where rules write."""
    found = []
    for folder in ("runs", "build", "resources/models", "resources/datasets", "results"):
        for path in checkout.path(folder).rglob("*"):
            name = path.relative_to(checkout.root).as_posix()
            if name.endswith(".part"):
                found.append(name)
            elif name.endswith(".json"):
                try:
                    json.loads(path.read_text(encoding="utf-8"))
                except ValueError:
                    found.append(name)
    return found
