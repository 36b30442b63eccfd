"""Read the published leaderboard, from a site on the web or from a folder.

    from slm_benchmark.api import Leaderboard

    board = Leaderboard.open("https://example.org/slm-benchmark")
    board.scores(task="hellaswag", protocol="full")

It reads version 1 of the API, which ``docs/reference/api.md`` describes, with the standard library
alone; `Leaderboard.frame` needs pandas. Every file is checked against the digest that the index has
of it.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import http.client
import io
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm_benchmark.common.errors import RunEnvironmentError, UserError
from slm_benchmark.common.process_environment import OWN_ADDRESSES

if TYPE_CHECKING:
    import pandas

VERSION = "1"
"""The version of the API that this client reads."""

FOLDER = f"api/v{VERSION}"
"""Where the API lies in a site."""

INDEX = "index.json"

INDEX_LIMIT_BYTES = 1 << 26
"""Most that is read of an index, whose size nothing tells beforehand."""

Record = dict[str, Any]

KINDS: Mapping[str, Callable[[str], Any]] = {
    "text": str,
    "number": float,
    "integer": int,
    "flag": "true".__eq__,
}
"""Kind of a column → what makes its value of a field of the CSV file; any other stays text."""

DTYPES = {"text": "string", "number": "float64", "integer": "Int64", "flag": "boolean"}
"""Kind of a column → its type in pandas; any other stays text."""


class Leaderboard:
    """One edition of the leaderboard. What was read stays in memory.

    Attributes:
        address: Where the API lies: the address or the folder of index.json.
        index: Content of index.json: version, edition, digest of the records, license, files.
    """

    def __init__(self, address: str, index: Record, fetch: Callable[[str, int], bytes]) -> None:
        self.address, self.index = address, index
        self._fetch = fetch
        self._cached: dict[str, bytes] = {}

    @classmethod
    def open(cls, place: str | Path, *, timeout_s: float = 30) -> Leaderboard:
        """Read the index of a site.

        Args:
            place: Address of a site or of one of its top pages (https, http or file), folder of a
                built site, or either of its ``api/v1``.
            timeout_s: How long a server may stay silent.

        Raises:
            UserError: where there is no such API, or one of another version.
            RunEnvironmentError: when the network or the server fails.
        """
        address, fetch = _source(place, timeout_s)
        file = f"{address}/{INDEX}"
        return cls(address, _checked(_parse(fetch(INDEX, INDEX_LIMIT_BYTES), file), file), fetch)

    def read(self, path: str) -> bytes:
        """The bytes of a file, as the index lists it.

        Args:
            path: Its path in the index, such as ``scores.parquet``.

        Raises:
            UserError: when the index does not list it, or lists other bytes.
            RunEnvironmentError: when the network or the server fails.
        """
        if path not in self._cached:
            listed = self.index["files"].get(path)
            if listed is None:
                raise UserError(
                    "there is no such file",
                    file=f"{self.address}/{INDEX}",
                    field="files",
                    value=path,
                    fix=_suggestion(path, self.index["files"]),
                )
            data = self._fetch(path, listed["size_bytes"])
            self._verify(path, data, listed)
            self._cached[path] = data
        return self._cached[path]

    def _verify(self, path: str, data: bytes, listed: Record) -> None:
        facts = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for field, value in facts.items():
            if value != listed[field]:
                raise UserError(
                    f"the index lists {listed[field]} for this file",
                    file=f"{self.address}/{path}",
                    field=field,
                    value=value,
                    fix="open the leaderboard again, as it may have been replaced meanwhile; "
                    "if that does not help, the copy is damaged: get it again",
                )

    def json(self, path: str) -> Any:
        """The content of a JSON file of the index; raises as `read`."""
        return _parse(self.read(path), f"{self.address}/{path}")

    def models(self) -> list[Record]:
        """The cards of all models."""
        return self._list("models")

    def tasks(self) -> list[Record]:
        """All tasks: metric, chance level, unit, direction."""
        return self._list("tasks")

    def protocols(self) -> list[Record]:
        """All protocols, and which tasks count under each."""
        return self._list("protocols")

    def hardware(self) -> list[Record]:
        """All machines by name."""
        return self._list("hardware")

    def model(self, model: str) -> Record:
        """A model's card (``model``) and its rows (``rows``).

        Raises:
            UserError: when there is no such model.
        """
        self._known(model)
        return self._record(f"models/{model}.json")

    def quantization(self, model: str) -> Record | None:
        """A model's quantization report; None where it has none.

        Raises:
            UserError: when there is no such model.
        """
        self._known(model)
        path = f"quantization/{model}.json"
        return self._record(path) if path in self.index["files"] else None

    def rows(
        self,
        *,
        model: str | None = None,
        variant: str | None = None,
        hardware: str | None = None,
        protocol: str | None = None,
    ) -> list[Record]:
        """Rows of the leaderboard with all that they hold; of one model from its own file.

        Raises:
            UserError: when there is no such model.
        """
        content = self._record("leaderboard.json") if model is None else self.model(model)
        return _matching(content["rows"], variant=variant, hardware=hardware, protocol=protocol)

    def scores(
        self,
        *,
        task: str | None = None,
        model: str | None = None,
        variant: str | None = None,
        hardware: str | None = None,
        protocol: str | None = None,
    ) -> list[Record]:
        """Lines of the table ``scores``: a row in a task, also where it has no value."""
        return _matching(
            self.table("scores"),
            task=task,
            model=model,
            variant=variant,
            hardware=hardware,
            protocol=protocol,
        )

    def performance(
        self,
        *,
        metric: str | None = None,
        model: str | None = None,
        variant: str | None = None,
        hardware: str | None = None,
        protocol: str | None = None,
    ) -> list[Record]:
        """Lines of the table ``performance``: a metric of a row at one point of the plan."""
        return _matching(
            self.table("performance"),
            metric=metric,
            model=model,
            variant=variant,
            hardware=hardware,
            protocol=protocol,
        )

    def table(self, name: str) -> list[Record]:
        """A table as a list of lines, with None for what is missing.

        Args:
            name: ``rows``, ``scores`` or ``performance``; tables.json describes their columns.

        Raises:
            UserError: when there is no such table.
        """
        kinds = self._columns(name)
        lines = csv.DictReader(io.StringIO(self.read(f"{name}.csv").decode(), newline=""))
        return [
            {
                column: KINDS.get(kinds[column], str)(text) if text else None
                for column, text in line.items()
            }
            for line in lines
        ]

    def frame(self, name: str) -> pandas.DataFrame:
        """A table for pandas. Missing numbers are NaN there, all else that is missing NA.

        Args:
            name: ``rows``, ``scores`` or ``performance``.

        Raises:
            UserError: when there is no such table, or no pandas.
        """
        try:
            import pandas
        except ImportError:
            raise UserError("this needs pandas", fix="pip install pandas") from None
        types = {column: DTYPES.get(kind, "string") for column, kind in self._columns(name).items()}
        return pandas.DataFrame(self.table(name), columns=[*types], dtype=object).astype(types)

    def _columns(self, name: str) -> dict[str, str]:
        """Column → kind of a table."""
        tables = {table["name"]: table for table in self._list("tables")}
        if name not in tables:
            raise UserError(
                "there is no such table",
                file=f"{self.address}/tables.json",
                field="tables",
                value=name,
                fix=_suggestion(name, tables),
            )
        return {column["name"]: column["kind"] for column in tables[name]["columns"]}

    def _list(self, name: str) -> list[Record]:
        entries: list[Record] = self.json(f"{name}.json")[name]
        return entries

    def _record(self, path: str) -> Record:
        content: Record = self.json(path)
        return content

    def _known(self, model: str) -> None:
        known = [card["id"] for card in self.models()]
        if model not in known:
            raise UserError(
                "there is no such model",
                file=f"{self.address}/models.json",
                field="id",
                value=model,
                fix=_suggestion(model, known),
            )


def _source(source: str | Path, timeout_s: float) -> tuple[str, Callable[[str, int], bytes]]:
    """Where the API lies, and what reads a file there, of which it takes a path and a limit.

    One byte more than the limit is read, so that a file that is too long shows.
    """
    text = str(source)
    if "://" not in text:
        return _folder(Path(source))
    parts = urllib.parse.urlsplit(text)
    if parts.scheme == "file":
        return _folder(Path(urllib.request.url2pathname(parts.path)))
    if parts.scheme not in ("https", "http"):
        raise UserError(
            "not an address of the web",
            field="place",
            value=text,
            fix="give one that begins with https://, or a folder",
        )
    pages, _, last = parts.path.rpartition("/")
    path = pages if last.endswith((".html", ".json")) else parts.path.rstrip("/")
    if not path.endswith(f"/{FOLDER}"):
        path += f"/{FOLDER}"
    address = urllib.parse.urlunsplit((parts.scheme, parts.netloc, path, "", ""))

    def fetch(name: str, limit: int) -> bytes:
        return _download(f"{address}/{urllib.parse.quote(name)}", limit, timeout_s)

    return address, fetch


def _folder(path: Path) -> tuple[str, Callable[[str, int], bytes]]:
    """`_source` of a folder, or of a file in it, such as a page or the index."""
    folder = path.parent if path.is_file() else path
    if not (folder / INDEX).is_file():
        folder /= FOLDER

    def fetch(name: str, limit: int) -> bytes:
        try:
            with (folder / name).open("rb") as stream:
                return stream.read(limit + 1)
        except OSError as error:
            raise UserError(
                f"cannot be read: {error.strerror}",
                file=folder / name,
                fix="name the folder of a built site, or of its api/v1",
            ) from error

    return str(folder), fetch


def _opener(address: str) -> urllib.request.OpenerDirector:
    """What fetches an address: a server on this machine without the proxy of the environment."""
    is_own = urllib.parse.urlsplit(address).hostname in OWN_ADDRESSES
    return urllib.request.build_opener(*[urllib.request.ProxyHandler({})] * is_own)


def _download(address: str, limit: int, timeout_s: float) -> bytes:
    """The content at an address, no more than ``limit`` bytes and one."""
    request = urllib.request.Request(address, headers={"User-Agent": "slm-benchmark"})
    try:
        with _opener(address).open(request, timeout=timeout_s) as response:
            data: bytes = response.read(limit + 1)
            return data
    except urllib.error.HTTPError as error:
        fault = RunEnvironmentError if error.code >= 500 else UserError
        raise fault(
            f"the server answered {error.code} {error.reason}",
            file=address,
            fix=f"name the address of a site that has {FOLDER}, or try again later",
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise RunEnvironmentError(
            f"cannot be fetched: {reason}",
            file=address,
            fix="check the address and the network, and try again",
        ) from error


def _parse(data: bytes, file: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise UserError(
            f"not JSON: {error}", file=file, fix=f"name the address of a site that has {FOLDER}"
        ) from error


def _checked(index: Any, file: str) -> Record:
    """An index of the version that this client reads."""
    content: Record = index if isinstance(index, dict) else {}
    version = content.get("api_version")
    if not isinstance(version, str) or not isinstance(content.get("files"), dict):
        raise UserError(
            "not the index of this API",
            file=file,
            field="api_version",
            value=version,
            fix=f"name the address of a site that has {FOLDER}",
        )
    if version.split(".")[0] != VERSION:
        raise UserError(
            f"this client reads version {VERSION}",
            file=file,
            field="api_version",
            value=version,
            fix=f"use a newer slm-benchmark, or the site's {FOLDER}",
        )
    return content


def _matching(rows: Iterable[Record], **where: str | None) -> list[Record]:
    """The rows that have every wanted value; None matches all."""
    wanted = {name: value for name, value in where.items() if value is not None}
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def _suggestion(word: str, known: Iterable[str]) -> str:
    """The nearest known word, or some of them."""
    names = sorted(known)
    if near := difflib.get_close_matches(word, names, n=1):
        return f"did you mean {near[0]!r}?"
    return f"use one of: {', '.join(names[:20])}{', …' if len(names) > 20 else ''}"
