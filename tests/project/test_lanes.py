"""The lanes of CI hold every test, and a change gets the lanes that its tests are in."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from slm_benchmark.common.paths import ROOT
from tools.ci_lanes import BY_NAME, CHANGES, FIXTURES, MARKERS, TESTS, changed_since, lanes, marker

QUICK = f"not ({' or '.join(name for name in MARKERS if name not in BY_NAME)})"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def tracked(*patterns: str) -> list[str]:
    """Paths of the repository's files, those that are new included."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"]
    done = subprocess.run(
        [*command, *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def git(folder: Path, *arguments: str) -> None:
    author = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    subprocess.run(["git", *author, *arguments], cwd=folder, capture_output=True, check=True)


def test_the_lanes_hold_every_test_once(request: pytest.FixtureRequest) -> None:
    """Each test that was collected has at most one marker of a lane, and a slow one has one."""
    for item in request.session.items:
        carried = [name for name in MARKERS if item.get_closest_marker(name)]
        assert len(carried) <= 1, item.nodeid
        assert carried or not item.get_closest_marker("slow"), item.nodeid


def test_each_lane_runs_the_tests_of_its_marker() -> None:
    script = (ROOT / ".ci" / "lane").read_text(encoding="utf-8")
    assert set(CHANGES) == {"static", "quick", "docs", *MARKERS}
    assert f'pytest -m "{QUICK}"' in script
    assert 'pytest -m "$lane"' in script
    for lane in CHANGES:
        assert re.search(rf"^    .*\b{lane}\b.*\) browser=", script, re.MULTILINE)
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    commands = [line for line in contributing.splitlines() if "pytest" in line]
    assert f'pytest -m "{QUICK}"' in commands[0]


def test_what_the_tables_name_is_there() -> None:
    assert all((ROOT / "tests" / path).exists() for path in TESTS)
    assert {*TESTS.values(), *FIXTURES.values()} <= set(MARKERS)
    files = tracked()
    for lane, patterns in CHANGES.items():
        for pattern in patterns:
            assert any(lane in lanes([name]) for name in files if _fits(name, pattern)), pattern


def _fits(name: str, pattern: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), name) is not None


def test_a_change_of_a_test_runs_it() -> None:
    for name in tracked("tests/*/test_*.py"):
        lane = marker(name.removeprefix("tests/")) or "quick"
        text = (ROOT / name).read_text(encoding="utf-8")
        marked = {word for word in MARKERS if f"pytest.mark.{word}" in text}
        used = {word for fixture, word in FIXTURES.items() if re.search(rf"\b{fixture}:", text)}
        own = {lane} if lane in MARKERS else {lane} | marked | used
        assert own <= set(lanes([name])), name


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["docs/start/faq.md"], {"quick", "docs"}),
        (["README.md"], {"quick", "docs"}),
        (["src/slm_benchmark/site/pages.py"], {"quick", "workflow", "browser", "docs"}),
        (["src/slm_benchmark/engines/lm.py"], {"quick", "model", "workflow"}),
        (["src/slm_benchmark/sandbox/run.py"], {"quick", "model", "workflow", "sandbox"}),
        (["tests/sandbox/test_sandbox.py"], {"quick", "sandbox"}),
        (["requirements.lock"], set(CHANGES)),
        (["docs/start/faq.md", "tests/conftest.py"], set(CHANGES)),
        (["a-new-file"], {"quick"}),
        ([], set()),
    ],
)
def test_a_change_gets_the_lanes_that_check_it(paths: list[str], expected: set[str]) -> None:
    assert set(lanes(paths)) == ({"static"} if paths else set()) | expected


def test_lanes_follow_from_the_commits_of_a_branch(tmp_path: Path) -> None:
    """Only the branch's own changes count, a move as both names, whatever the names hold."""
    git(tmp_path, "init", "-b", "main")
    (tmp_path / "old name").write_text("text\n" * 20)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    git(tmp_path, "checkout", "-b", "branch")
    git(tmp_path, "mv", "old name", "néw\nname")
    git(tmp_path, "commit", "-m", "move")
    git(tmp_path, "checkout", "main")
    (tmp_path / "theirs").touch()
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "theirs")
    git(tmp_path, "checkout", "branch")
    assert sorted(changed_since("main", tmp_path)) == ["néw\nname", "old name"]


def test_without_a_base_all_lanes_are_printed() -> None:
    command = [sys.executable, str(ROOT / "tools" / "ci_lanes.py")]
    done = subprocess.run(command, env={}, capture_output=True, text=True, check=True)
    name, _, value = done.stdout.strip().partition("=")
    assert name == "lanes"
    assert json.loads(value) == list(CHANGES)


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_actions_are_pinned_by_commit(file: Path) -> None:
    """CONTRIBUTING.md lists those that keep a tag, as their commit could not be looked up."""
    unpinned = re.findall(
        r"uses: (?!\S+@[0-9a-f]{40} # v\d+\.\d+\.\d+$)(\S+)", file.read_text(), re.MULTILINE
    )
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert all(action in contributing for action in unpinned)


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_workflows_hand_on_as_little_as_they_can(file: Path) -> None:
    """Read-only but for one job, no stored credentials, and nothing pasted into scripts."""
    workflow = yaml.safe_load(file.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    checkouts = [s for s in steps if s.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)
    assert not any("${{" in step.get("run", "") for step in steps)


def test_hooks_have_the_versions_of_the_checks() -> None:
    """The same versions everywhere, else a commit passes here and fails there."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    lock = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.M))
    parts = (ROOT / ".ci" / "parts.sh").read_text(encoding="utf-8")
    pinned = lock | dict(re.findall(r"\b(codespell)==([\d.]+)", parts))
    names = {"astral-sh/ruff-pre-commit": "ruff"}
    seen = set()
    for repo in config["repos"]:
        project = "/".join(repo["repo"].split("/")[-2:])
        tool = names.get(project, project.split("/")[-1])
        assert repo["rev"] == f"v{pinned[tool]}"
        seen.add(tool)
    assert seen == {"ruff", "snakefmt", "codespell"}
    # A folder is taken as it is where it holds that version.
    for tool in ("codespell", "zizmor", "zensical"):
        (version,) = re.findall(rf"\b{tool}==([\d.]+)", parts)
        assert f"build/checkers/{tool}/{tool}-{version}.dist-info" in parts
