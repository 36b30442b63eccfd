"""Write envs/*.yaml from requirements.lock and tools/envs.toml, so that no version is typed twice.

    python tools/make_envs.py            write envs/*.yaml
    python tools/make_envs.py --check    fail when they differ from what would be written
    python tools/make_envs.py --lock     write requirements.lock from the environment that runs this

The lock is everything that tools/envs.toml names with all that those packages need in turn, at the
versions installed in the running environment. An environment's yaml is the same closure of fewer
packages. Needs an environment that holds the lock's packages (`. ./activate`).
"""

from __future__ import annotations

import argparse
import platform
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
ENVS = ROOT / "envs"
CATALOGUE = ROOT / "tools" / "envs.toml"
PYTHON = "3.11"

COMPILING = {"llama-cpp-python", "gptqmodel"}
"""Packages that need a C++ compiler: one when it is installed, one when it first runs."""

sys.path.insert(0, str(Path(__file__).parent))
from install import LLAMA, llama_cmake  # type: ignore[import-not-found]  # noqa: E402

LOCK_HEADER = f"""\
# The one ambient environment (.venv: demo, CI, Colab), every package at an exact version.
# Made with Python {PYTHON} on Linux. To make it again after a change of version:
#   1. in a fresh virtual environment, pip install the new versions of the packages that
#      tools/envs.toml names;
#   2. run its python on tools/make_envs.py --lock, then without --lock (writes envs/*.yaml);
#   3. run the tests in it, and commit both.
# {LLAMA} is compiled by tools/install.py with fixed flags, never by pip alone.
# There are no hashes: torch {{torch}} is a different file for CPU and for CUDA, both of which
# satisfy the pin, and the wheel of {LLAMA} is made on the machine itself; pip checks
# the hashes of all packages or of none.
# On PyPI's CUDA build of torch, pip adds the CUDA libraries which that build itself pins.
"""


def closure(names: list[str]) -> dict[str, str]:
    """All packages that ``names`` need in the running environment, themselves included.

    Returns:
        Version by package name as the package spells it, sorted; local parts such as ``+cpu``
        are cut off.

    Raises:
        SystemExit: when a needed package is not installed.
    """
    distributions: dict[tuple[str, str], metadata.Distribution] = {}
    queue = [Requirement(name) for name in names]
    while queue:
        wanted = queue.pop()
        for extra in ("", *sorted(wanted.extras)):
            key = (canonicalize_name(wanted.name), extra)
            if key in distributions:
                continue
            try:
                distributions[key] = metadata.distribution(wanted.name)
            except metadata.PackageNotFoundError:
                sys.exit(f"{wanted.name} is not installed. Fix: . ./activate, then run this again")
            for text in distributions[key].requires or []:
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    queue.append(needed)
    versions = {
        canonicalize_name(name): distribution.version.split("+")[0]
        for (name, _), distribution in distributions.items()
    }
    return dict(sorted(versions.items()))


def read_lock() -> dict[str, str]:
    """Version by canonical package name, as requirements.lock has them."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", LOCK.read_text(), re.MULTILINE))


def ambient_packages(catalogue: dict[str, Any]) -> list[str]:
    """Every package that some part of the project asks for by name."""
    names = {*catalogue["ambient"]["packages"], *catalogue["every"]["packages"]}
    for entry in catalogue["envs"].values():
        names.update(entry["packages"])
    return sorted(names)


def lock_text(catalogue: dict[str, Any]) -> str:
    """The text of requirements.lock for the running environment."""
    versions = closure(ambient_packages(catalogue))
    pins = "".join(f"{name}=={version}\n" for name, version in versions.items())
    return LOCK_HEADER.format(torch=versions["torch"]) + "\n" + pins


def env_text(name: str, purpose: str, pins: list[str], note: str, *, compiler: bool) -> str:
    """The text of one conda environment; ``compiler`` when it compiles something at some time."""
    lines = "".join(f"      - {pin}\n" for pin in pins)
    return (
        f"# To {purpose}.\n"
        f"# Made by tools/make_envs.py from {note}; change that and run it.\n"
        f"name: slm-benchmark-{name}\n"
        "channels:\n"
        "  - conda-forge\n"
        "dependencies:\n"
        f"  - python={PYTHON}\n"
        "  - pip\n" + ("  - cxx-compiler\n" if compiler else "") + "  - pip:\n"
        f"{lines}"
    )


def pin(name: str, version: str) -> str:
    """One line for pip; llama-cpp-python carries the flags of its portable build."""
    if name != LLAMA:
        return f"{name}=={version}"
    flags = [f"--config-settings=cmake.define.{item}" for item in llama_cmake("x86_64")]
    return " ".join([f"{name}=={version}", *flags])


def env_files(catalogue: dict[str, Any]) -> dict[Path, str]:
    """The text of every envs/*.yaml."""
    lock = read_lock()
    files = {}
    for name, entry in catalogue["envs"].items():
        needed = closure([*catalogue["every"]["packages"], *entry["packages"]])
        pins = [pin(package, lock[package]) for package in needed]
        note = "requirements.lock and tools/envs.toml"
        files[ENVS / f"{name}.yaml"] = env_text(
            name, entry["purpose"], pins, note, compiler=bool(COMPILING & set(needed))
        )
    for name, entry in catalogue["exempt"].items():
        pins = [
            f"{package}=={lock[canonicalize_name(package)] if version == 'LOCK' else version}"
            for package, version in (text.split("==") for text in entry["pins"])
        ]
        files[ENVS / f"{name}.yaml"] = env_text(
            name, entry["purpose"], pins, "tools/envs.toml", compiler=True
        )
    return files


def main() -> int:
    """Write or check the files; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    parser.add_argument("--lock", action="store_true", help="write requirements.lock")
    arguments = parser.parse_args()
    if not platform.python_version().startswith(f"{PYTHON}."):
        sys.exit(f"the lock is made with Python {PYTHON}, not {platform.python_version()}")
    catalogue = tomllib.loads(CATALOGUE.read_text())
    if arguments.lock:
        LOCK.write_text(lock_text(catalogue))
        return 0
    files = env_files(catalogue)
    stale = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    orphans = [path for path in ENVS.glob("*.yaml") if path not in files]
    if arguments.check:
        for path in [*stale, *orphans]:
            print(f"{path.relative_to(ROOT)}: out of date. Fix: python tools/make_envs.py")
        return 1 if stale or orphans else 0
    ENVS.mkdir(exist_ok=True)
    for path in stale:
        path.write_text(files[path])
    for path in orphans:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
