"""One file holds the project's address; copies of it are generated, and there are no others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.paths import ROOT
from slm_benchmark.common.project import Address, read_address
from tools.make_address import citation, insert

SOURCES = {"pyproject.toml", "CITATION.cff"}
"""The one file, and the one with generated copies."""


def test_the_address_is_read_from_pyproject() -> None:
    address = read_address()
    owner, name = address.repository.split("/")[-2:]
    assert address.account.endswith(f"/{address.maintainer}")
    assert address.account == address.repository.removesuffix(f"/{name}")
    assert owner == address.maintainer
    assert address.pages.startswith(f"https://{owner}.")
    assert address.pages.endswith(f"/{name}/")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[build-system]\n", "project.urls.Repository"),
        ('[project.urls]\nRepository = "https://host/o/r"\n', "project.urls.Homepage"),
        (
            '[project.urls]\nRepository = "https://host/o/r"\nHomepage = "http://host/"\n',
            "project.urls.Homepage",
        ),
        (
            '[project.urls]\nRepository = "https://host/o/r"\nHomepage = "https://host/"\n',
            "project.maintainers",
        ),
    ],
)
def test_a_missing_part_is_named(tmp_path: Path, text: str, field: str) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        read_address(file)
    assert error.value.field == field
    assert "Fix: " in str(error.value)


def test_slashes_at_the_ends_do_not_matter(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text(
        '[project]\nmaintainers = [{ name = "o" }]\n'
        '[project.urls]\nRepository = "https://host/o/r/"\nHomepage = "https://o.host/r"\n'
    )
    assert read_address(file) == Address("https://host/o/r", "https://o.host/r/", "o")


def test_the_generated_copies_are_current() -> None:
    command = [sys.executable, str(ROOT / "tools" / "make_address.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    address = read_address()
    assert (cited["repository-code"], cited["url"]) == (address.repository, address.pages)


def test_only_the_marked_lines_are_replaced() -> None:
    block = citation(Address("https://host/o/r", "https://o.host/r/", "o"))
    file = ROOT / "CITATION.cff"
    marked = "title: T\n# address:start\nold\n# address:end\nversion: 1\n"
    written = insert(marked, block, file)
    assert written == f"title: T\n# address:start\n{block}# address:end\nversion: 1\n"
    assert insert(written, block, file) == written
    assert yaml.safe_load(written)["contact"] == [{"name": "o", "website": "https://host/o"}]
    with pytest.raises(UserError, match=r"CITATION\.cff: generated lines are marked 0 times"):
        insert("title: T\n", block, file)


def test_there_is_no_second_copy() -> None:
    """results/ holds what others measured, and a lock names no project's address."""
    address = read_address()
    words = {address.maintainer, "/".join(address.repository.split("/")[-2:]), address.pages}
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", ":!results", ":!*.lock"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    copies = {}
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            text = (ROOT / name).read_bytes().decode("utf-8", errors="replace").lower()
            copies[name] = [word for word in words if word.lower() in text]
    assert {name for name, words in copies.items() if words} == SOURCES
