"""The static site: leaderboard.json → pages → HTML that needs no server and no network."""

from __future__ import annotations

import logging
import shutil
from importlib.resources import as_file, files
from pathlib import Path

from slm_benchmark.errors import UserError
from slm_benchmark.files import atomic_directory, atomic_write_text
from slm_benchmark.paths import ROOT
from slm_benchmark.schemas import read_record
from slm_benchmark.site.charts import vega_bundle
from slm_benchmark.site.pages import render_pages


def build_site(leaderboard: Path, target: Path, docs: Path) -> None:
    """Build the whole site from one leaderboard file.

    The generated Markdown stays in ``pages`` beside ``target``, to be read when a page looks
    wrong. Both folders appear whole or not at all.

    Args:
        leaderboard: A leaderboard.json with leaderboard.csv beside it.
        target: Folder of the finished site; ``index.html`` in it opens from the file system.
        docs: Folder of the hand-written pages; they become ``docs/`` of the site.

    Raises:
        UserError: when the leaderboard breaks its schema or refers to something that it does
            not list, when the CSV is missing, or when a page has a broken link.
    """
    table = read_record(leaderboard, "leaderboard")
    csv = leaderboard.with_suffix(".csv")
    if not csv.is_file():
        raise UserError("there is no such file", file=csv, fix="aggregate the records again")
    with atomic_directory(target.parent / "pages") as pages:
        for name, text in render_pages(table, leaderboard).items():
            atomic_write_text(pages / name, text)
        shutil.copytree(docs, pages / "docs")
        with as_file(files(__package__) / "assets") as assets:
            shutil.copytree(assets, pages / "assets")
        atomic_write_text(pages / "assets" / "vega.js", vega_bundle())
        (pages / "data").mkdir()
        shutil.copy(leaderboard, pages / "data" / "leaderboard.json")
        shutil.copy(csv, pages / "data" / "leaderboard.csv")
    with atomic_directory(target) as site:
        _mkdocs(ROOT / "mkdocs.yml", pages=target.parent / "pages", site=site)


class _Collector(logging.Handler):
    """Keeps the warnings of a build, each of which fails it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def _mkdocs(config: Path, *, pages: Path, site: Path) -> None:
    """Run MkDocs strictly: any warning, such as a broken link, is an error."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config
    from mkdocs.exceptions import MkDocsException

    warnings = _Collector()
    logger = logging.getLogger("mkdocs")
    logger.addHandler(warnings)
    try:
        build(
            load_config(
                str(config),
                docs_dir=str(pages.resolve()),
                site_dir=str(site.resolve()),
                strict=True,
            )
        )
    except (MkDocsException, SystemExit) as error:
        raise UserError(
            f"MkDocs refused the pages: {'; '.join(warnings.messages) or error}",
            file=pages,
            fix="correct the page that the message names",
        ) from error
    finally:
        logger.removeHandler(warnings)
