"""Pages at the addresses that other pages had once, which lead a reader on."""

from __future__ import annotations

import posixpath
from pathlib import Path

import jinja2

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import read_yaml, write_text

REDIRECTS = "redirects.yaml"
"""File in the folder of the hand-written pages: old address → new one, without ``.html``."""


def write_redirects(docs: Path, site: Path) -> None:
    """Write a page at each old address that leads to the new one, with the part after the ``#``.

    Args:
        docs: Folder of the hand-written pages.
        site: The finished site.

    Raises:
        UserError: when an old address is a page again, or a new one is none.
    """
    file = docs / REDIRECTS
    template = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__), autoescape=True
    ).get_template("redirect.html.j2")
    for old, new in (read_yaml(file) if file.is_file() else {}).items():
        page, target = site / f"{old}.html", site / f"{new}.html"
        if page.exists() or not target.is_file():
            raise UserError(
                "the old address is a page" if page.exists() else "no page has the new address",
                file=file,
                field=old,
                value=new,
                fix="correct the entry",
            )
        address = posixpath.relpath(f"{new}.html", posixpath.dirname(old))
        write_text(page, template.render(address=address))
