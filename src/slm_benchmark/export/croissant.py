"""A Croissant description of exported tables: files with their digests, columns with their types.

Croissant is MLCommons' vocabulary for datasets, on top of schema.org:
https://docs.mlcommons.org/croissant/docs/croissant-spec.html
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from slm_benchmark.common.files import sha256_file
from slm_benchmark.export.project import RESULTS_LICENSE, Project
from slm_benchmark.export.tables import TABLES, Table
from slm_benchmark.leaderboard.board import Kind

FILE = "croissant.json"

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"

ENCODINGS = {"csv": "text/csv", "parquet": "application/x-parquet"}

DATA_TYPES: Mapping[Kind, str] = {
    "text": "sc:Text",
    "number": "sc:Float",
    "integer": "sc:Integer",
    "flag": "sc:Boolean",
    "time": "sc:DateTime",
}

CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The recommended JSON-LD context of Croissant 1.0."""


def describe(
    folder: Path, files: Iterable[Path], project: Project, newest: str
) -> dict[str, object]:
    """The description of the tables below a folder.

    Args:
        folder: Where the description will lie; the files' addresses are relative to it.
        files: ``csv/*.csv`` and ``parquet/*.parquet``. Where a table is there twice, its records
            are read from Parquet.
        project: Title, authors and address.
        newest: When the newest record was measured, in ISO 8601: the date of publication, so that
            the same records give the same description.
    """
    paths = sorted(files)
    best = {path.stem: path for path in paths}
    described: dict[str, object] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": f"{project.title} results",
        "description": f"{project.abstract} These tables hold its published records.",
        "version": project.version,
        "license": RESULTS_LICENSE,
        "creator": [{"@type": "sc:Organization", "name": name} for name in project.authors],
        "datePublished": newest[:10],
        "keywords": list(project.keywords),
        "citeAs": citation(project, newest),
    }
    if project.url:
        described["url"] = project.url
    return described | {
        "distribution": [_file_object(folder, path) for path in paths],
        "recordSet": [_record_set(folder, path, TABLES[name]) for name, path in best.items()],
    }


def citation(project: Project, newest: str) -> str:
    """The BibTeX entry of the results."""
    fields = {
        "title": f"{{{project.title}}}",
        "author": " and ".join(f"{{{name}}}" for name in project.authors),
        "year": newest[:4],
        "version": project.version,
        **({"url": project.url} if project.url else {}),
    }
    inside = ", ".join(f"{name} = {{{value}}}" for name, value in fields.items())
    return f"@misc{{slm_benchmark, {inside}}}"


def _file_object(folder: Path, path: Path) -> dict[str, object]:
    address = path.relative_to(folder).as_posix()
    return {
        "@type": "cr:FileObject",
        "@id": address,
        "name": path.name,
        "description": TABLES[path.stem].about,
        "contentUrl": address,
        "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": ENCODINGS[path.suffix[1:]],
        "sha256": sha256_file(path),
    }


def _record_set(folder: Path, path: Path, table: Table) -> dict[str, object]:
    return {
        "@type": "cr:RecordSet",
        "@id": path.stem,
        "name": path.stem,
        "description": table.about,
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{path.stem}/{column.name}",
                "name": column.name,
                "description": column.about,
                "dataType": DATA_TYPES[column.kind],
                "source": {
                    "fileObject": {"@id": path.relative_to(folder).as_posix()},
                    "extract": {"column": column.name},
                },
            }
            for column in table.columns
        ],
    }
