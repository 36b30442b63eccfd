"""Which commit a record names, and whether the clock can date it."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path

import pytest

from slm_benchmark.records import provenance
from tests.support.members import member

CARD = "models/a.yaml"


def git(folder: Path, *arguments: str) -> str:
    """What git prints in a folder."""
    author = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(
        ["git", "-C", str(folder), *author, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository's files without git, in a folder that another repository ignores."""
    outer, root = tmp_path / "outer", tmp_path / "outer" / "slm"
    for folder in (*provenance.MEASURED_PATHS, "models"):
        (root / folder).mkdir(parents=True)
    (root / CARD).write_text("id: a\n")
    (outer / ".gitignore").write_text("slm/\n")
    git(outer, "init", "-q")
    git(outer, "add", ".")
    git(outer, "commit", "-qm", "theirs")
    monkeypatch.setattr(provenance, "ROOT", root)
    monkeypatch.setattr("slm_benchmark.common.paths.ROOT", root)
    return root


@member(
    "places",
    "an archive that was unpacked inside another repository",
    "the record names no commit, and `publish` refuses it as measured outside a repository",
)
def test_the_commit_of_a_repository_around_it_is_not_taken(unpacked: Path) -> None:
    identity = provenance.workflow_identity(CARD)
    assert (identity["commit"], identity["dirty"]) == (None, None)


@pytest.mark.parametrize("name", ["GIT_DIR", "GIT_WORK_TREE"])
@member(
    "places",
    "`GIT_DIR` or `GIT_WORK_TREE` of another repository, as inside a hook",
    "they are ignored: a record names the commit of its own clone, or none",
)
def test_variables_of_git_lead_nowhere(
    name: str, unpacked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outer = unpacked.parent
    monkeypatch.setenv(name, str(outer / ".git" if name == "GIT_DIR" else outer))
    assert provenance.workflow_identity(CARD)["commit"] is None
    monkeypatch.delenv(name)
    git(unpacked, "init", "-q")
    git(unpacked, "add", ".")
    git(unpacked, "commit", "-qm", "ours")
    commit = git(unpacked, "rev-parse", "HEAD")
    monkeypatch.setenv(name, str(outer / ".git" if name == "GIT_DIR" else outer))
    identity = provenance.workflow_identity(CARD)
    assert (identity["commit"], identity["dirty"]) == (commit, False)


def test_a_repository_that_is_reached_by_a_link_has_its_commit(
    unpacked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(unpacked, "init", "-q")
    git(unpacked, "add", ".")
    git(unpacked, "commit", "-qm", "ours")
    link = unpacked.parent.parent / "link"
    link.symlink_to(unpacked)
    assert provenance.has_repository(link)


@member(
    "places",
    "a clock that is behind the software, as on a board without a battery",
    "`snakemake` warns before its first job that nothing measured now can be published",
)
def test_a_clock_behind_the_software_is_said() -> None:
    zone = datetime.UTC
    (warning,) = provenance.clock_warnings(datetime.datetime(1970, 1, 1, tzinfo=zone))
    assert "says 1970-01-01 00:00, before this software was made" in warning
    assert "Fix: stop, set the clock" in warning
    assert provenance.clock_warnings(datetime.datetime(2031, 1, 1, tzinfo=zone)) == []
