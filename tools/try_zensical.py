"""Build the generated pages with Zensical, which succeeds MkDocs Material: a trial that says how.

    snakemake --profile local site && python tools/try_zensical.py

The pages of an edition are built again in build/zensical/, with mkdocs.yml as it is, strictly. What
goes into the built pages of models goes into these too. Each page must then hold the same text as
the one that MkDocs built, and load nothing from elsewhere.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from slm_benchmark.common.project import read_address
from slm_benchmark.site import MEASURED
from slm_benchmark.site.model import insert_measurements
from slm_benchmark.site.redirects import write_redirects

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ROOT / "build" / "checkers" / "zensical"
"""Where `.ci/run` puts Zensical: what it requires is not what the lock has."""

WORK = ROOT / "build" / "zensical"
# Zensical wants pages and site inside the folder of its configuration.
CONFIG = """\
INHERIT: ../../mkdocs.yml
docs_dir: pages
site_dir: site
site_url: {pages}
repo_url: {repository}
theme:
  custom_dir: ../../src/slm_benchmark/site/overrides
"""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Page(HTMLParser):
    """The words of a page's article, and what the page loads."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.words: list[str] = []
        self.loads: list[str] = []
        self._articles = 0
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._articles += tag == "article"
        if tag != "a" and ("rel", "canonical") not in attrs:
            self.loads += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_endtag(self, tag: str) -> None:
        self._articles -= tag == "article"

    def handle_data(self, data: str) -> None:
        if self._articles:
            self.words += data.split()


def build(edition: Path) -> tuple[bool, str]:
    """Build ``edition/pages`` in `WORK`; returns whether it went well, and what Zensical said."""
    shutil.rmtree(WORK, ignore_errors=True)
    shutil.copytree(edition / "pages", WORK / "pages")
    config = CONFIG.format(**dataclasses.asdict(read_address()))
    (WORK / "mkdocs.yml").write_text(config, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "-f", str(WORK / "mkdocs.yml")],
        env={**os.environ, "PYTHONPATH": str(PACKAGES)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode == 0:
        insert_measurements(WORK / "pages" / MEASURED, WORK / "site" / "models")
        write_redirects(ROOT / "docs", WORK / "site")
    return done.returncode == 0, _COLOUR.sub("", done.stdout)


def differences(theirs: Path, ours: Path) -> Iterator[str]:
    """What is not the same in the site that Zensical built, a line for each page."""
    built_before, built = (
        {file.relative_to(site).as_posix() for file in site.rglob("*.html")}
        for site in (ours, theirs)
    )
    for name in sorted(built_before ^ built):
        yield f"{name}: built by {'MkDocs' if name in built_before else 'Zensical'} alone"
    for name in sorted(built_before & built):
        before, after = Page(ours / name), Page(theirs / name)
        if before.words != after.words:
            pairs = zip(before.words, after.words, strict=False)
            first = next((pair for pair in pairs if pair[0] != pair[1]), None)
            yield f"{name}: another text, first at {first or 'the end'}"
        for url in after.loads:
            if re.match(r"(https?:)?//", url):
                yield f"{name}: loads {url}"


def main() -> int:
    """Build and compare; returns 0 where the two sites say the same."""
    edition = ROOT / "build" / (sys.argv[1] if len(sys.argv) > 1 else "published")
    if not (PACKAGES / "zensical").is_dir() or not (edition / "site").is_dir():
        missing = PACKAGES if (edition / "site").is_dir() else edition / "site"
        print(f"{missing.relative_to(ROOT)} is not there. Fix: see CONTRIBUTING.md")
        return 1
    well, said = build(edition)
    if not well:
        print(said.partition("Traceback")[0], end="")
        return 1
    differing = list(differences(WORK / "site", edition / "site"))
    pages = len(list((WORK / "site").rglob("*.html")))
    print("\n".join(differing) or f"Zensical builds the same {pages} pages")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
