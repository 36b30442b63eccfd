"""Links that let Snakemake find this clone's profiles by name; the standard library only.

``snakemake --profile demo`` looks in the working directory and in the user's configuration folder,
never in ``profiles/``. So each profile is linked from there. The set-up runs this module before
anything is installed, hence no imports beyond the standard library and this package's errors.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping
from pathlib import Path

PROFILES = ("demo", "local", "colab", "slurm")


def config_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder in which Snakemake looks for the user's profiles.

    The same rule as in platformdirs, which Snakemake asks: ``XDG_CONFIG_HOME`` or ``~/.config``,
    and ``~/Library/Application Support`` on macOS.
    """
    if chosen := environment.get("XDG_CONFIG_HOME", "").strip():
        return Path(chosen) / "snakemake"
    home = Path(environment.get("HOME") or os.path.expanduser("~"))
    folder = "Library/Application Support" if sys.platform == "darwin" else ".config"
    return home / folder / "snakemake"


def link_profiles(folder: Path, repo: Path, *, replace: bool = False) -> list[str]:
    """Link every profile of ``repo`` into ``folder``; an entry of somebody else is never touched.

    Args:
        folder: Snakemake's configuration folder, made when it is missing.
        repo: The clone whose ``profiles/`` are wanted.
        replace: Also take over links that point to another clone of this project. A real file or
            folder, and a link to anything else, are kept even then; a link to a place that no
            longer exists is always taken over.

    Returns:
        One line for each profile that is not linked to ``repo``: what is in the way and what to do.
        Empty when all of them are.
    """
    try:
        if not folder.is_absolute():
            raise OSError(errno.ENOENT, "there is no home folder")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return [
            f"{folder}: cannot be made ({error.strerror}), so 'snakemake --profile NAME' does not "
            "find the profiles. Fix: make your home folder writable, or use "
            "'snakemake --profile profiles/NAME'"
        ]
    warnings = []
    for name in PROFILES:
        link, target = folder / name, repo / "profiles" / name
        try:
            if warning := _link(link, target, replace=replace):
                warnings.append(warning)
        except OSError as error:
            warnings.append(
                f"{link}: cannot be linked ({error.strerror}). Fix: make {folder} writable, or use "
                f"'--profile {target}'"
            )
    return warnings


def _link(link: Path, target: Path, *, replace: bool) -> str | None:
    """Make one link; returns what is in the way, or None."""
    if not os.path.lexists(link):
        link.symlink_to(target)
        return None
    use = f"use 'snakemake --profile profiles/{link.name}'"
    if not link.is_symlink():
        return f"{link}: is your own file or folder and is kept. Fix: rename it, or {use}"
    current = Path(os.path.join(link.parent, os.readlink(link)))
    if current.exists() and current.samefile(target):
        return None
    if current.exists() and not _is_clone(current.parent.parent):
        return (
            f"{link}: links to {current}, not to this project, and is kept. "
            f"Fix: rename it, or {use}"
        )
    if replace or not current.exists():
        temporary = link.with_name(f".{link.name}.{os.getpid()}.new")
        temporary.symlink_to(target)
        os.replace(temporary, link)
        return None
    return (
        f"{link}: links to another clone, {current}, and is kept. "
        f"Fix: slm-benchmark link-profiles --replace, or {use}"
    )


def _is_clone(folder: Path) -> bool:
    """Whether a folder is a checkout of this project."""
    return (folder / "src" / "slm_benchmark" / "__init__.py").is_file()
