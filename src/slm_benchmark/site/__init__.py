"""The static site: leaderboard.json → pages → HTML that needs no server and no network."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from importlib.resources import as_file, files
from pathlib import Path

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import atomic_directory, write_text
from slm_benchmark.common.paths import ROOT
from slm_benchmark.common.project import read_address
from slm_benchmark.common.schemas import read_record
from slm_benchmark.records.types import Leaderboard, QuantizationReport
from slm_benchmark.site.api_files import write_api
from slm_benchmark.site.charts import vega_bundle
from slm_benchmark.site.model import insert_measurements
from slm_benchmark.site.pages import render_pages
from slm_benchmark.site.redirects import REDIRECTS, write_redirects

MEASURED = ".models"
"""Folder of what was measured of each model, in the folder of pages; MkDocs leaves it alone."""

REPORT = "quantization.json"
"""Name of a model's quantization report in its folder."""


def build_site(leaderboard: Path, target: Path, docs: Path, reports: Path | None = None) -> None:
    """Build the whole site from one leaderboard file.

    The generated Markdown stays in ``pages`` beside ``target``, to be read when a page looks
    wrong. Both folders appear whole or not at all.

    Args:
        leaderboard: A leaderboard.json with leaderboard.csv beside it.
        target: Folder of the finished site; ``index.html`` in it opens from the file system.
        docs: Folder of the hand-written pages; they become ``docs/`` of the site.
        reports: Folder with a quantization report for each model, as the rule ``compare`` makes
            it; None where there is none.

    Raises:
        UserError: when the leaderboard breaks its schema or refers to something that it does
            not list, when the CSV is missing, or when a page has a broken link.
    """
    table: Leaderboard = read_record(leaderboard, "leaderboard")
    csv = leaderboard.with_suffix(".csv")
    if not csv.is_file():
        raise UserError("there is no such file", file=csv, fix="aggregate the records again")
    compared = read_reports(reports, table["models"])
    with atomic_directory(target.parent / "pages") as pages:
        for name, text in render_pages(table, compared, leaderboard, pages / MEASURED).items():
            write_text(pages / name, text)
        shutil.copytree(docs, pages / "docs", ignore=shutil.ignore_patterns(REDIRECTS))
        with as_file(files(__package__) / "assets") as assets:
            shutil.copytree(assets, pages / "assets", dirs_exist_ok=True)
        write_text(pages / "assets" / "vega.js", vega_bundle())
        write_api(pages / "api" / "v1", table, leaderboard, compared)
    with atomic_directory(target) as site:
        _mkdocs(ROOT / "mkdocs.yml", pages=target.parent / "pages", site=site)
        insert_measurements(target.parent / "pages" / MEASURED, site / "models")
        write_redirects(docs, site)


def read_reports(folder: Path | None, models: Iterable[str]) -> dict[str, QuantizationReport]:
    """The quantization reports of those models that have one, by model id.

    Raises:
        UserError: when a report breaks its schema.
    """
    paths = {} if folder is None else {model: folder / model / REPORT for model in models}
    return {m: read_record(path, "quantization") for m, path in paths.items() if path.is_file()}


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

    address = read_address()
    warnings = _Collector()
    logger = logging.getLogger("mkdocs")
    logger.addHandler(warnings)
    try:
        build(
            load_config(
                str(config),
                docs_dir=str(pages.resolve()),
                site_dir=str(site.resolve()),
                site_url=address.pages,
                repo_url=address.repository,
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
