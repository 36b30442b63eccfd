"""What the project says of itself: the exports' title, authors, address and license."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import read_yaml
from slm_benchmark.common.paths import ROOT, relative

RESULTS_LICENSE = "https://creativecommons.org/licenses/by/4.0/"
"""License of results/, as its LICENSE says."""


@dataclass(frozen=True)
class Project:
    """What CITATION.cff says.

    Attributes:
        title: Name of the project.
        abstract: What it is, in a sentence or two.
        version: Its version.
        authors: Names.
        keywords: Words to find it by.
        url: Address of the project or of its results; None where it has none.
    """

    title: str
    abstract: str
    version: str
    authors: tuple[str, ...]
    keywords: tuple[str, ...]
    url: str | None


def read_project(url: str | None = None, file: Path = ROOT / "CITATION.cff") -> Project:
    """Read the citation file.

    Args:
        url: Address to use instead of the file's ``url``.

    Raises:
        UserError: for a file without a needed key, and for an address that is none.
    """
    citation = read_yaml(file)
    lacking = [k for k in ("title", "abstract", "version", "authors") if not citation.get(k)]
    if lacking:
        raise UserError(
            "needed key is missing", file=relative(file), field=lacking[0], fix="add it"
        )
    address = url or citation.get("url") or citation.get("repository-code")
    if address is not None and not address.startswith(("https://", "http://")):
        where = ("--url", None) if url else (relative(file), "url")
        raise UserError(
            "not a web address",
            file=where[0],
            field=where[1],
            value=address,
            fix="write one that begins with https://",
        )
    return Project(
        title=citation["title"],
        abstract=" ".join(citation["abstract"].split()),
        version=str(citation["version"]),
        authors=tuple(_name(author) for author in citation["authors"]),
        keywords=tuple(citation.get("keywords", ())),
        url=address,
    )


def _name(author: dict[str, str]) -> str:
    """The name of a person or of an entity, as CITATION.cff writes them."""
    parts = (author.get("given-names"), author.get("name-particle"), author.get("family-names"))
    return author.get("name") or " ".join(part for part in parts if part)
