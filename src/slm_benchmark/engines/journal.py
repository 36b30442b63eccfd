"""Finished requests on disk, so that an evaluation that was killed goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from slm_benchmark.common.files import digest


class Journal:
    """Answers of finished requests, by a key that names the request.

    The first line holds a digest of everything that decides an answer; a journal with another one
    is begun anew. Every further line is one answer. A line that a kill or a crash left incomplete
    is passed over.

    Args:
        path: The file; its folder is made.
        identity: What decides the answers: weights, tokenizer, engine, and so on, as JSON values.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self._header = {"identity": digest(identity)}
        self._answers: dict[str, Any] = {}
        self._stream: IO[str] | None = None
        lines = _lines(path)
        self._continues = lines[:1] == [self._header]
        if self._continues:
            for line in lines[1:]:
                self._answers |= line

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> Any:
        """The answer, or None."""
        return self._answers.get(key)

    def put(self, key: str, answer: Any) -> None:
        """Keep an answer; it is on disk when this returns, as far as a kill goes."""
        self._answers[key] = answer
        if self._stream is None:
            self._stream = self._open()
        self._write(self._stream, {key: answer})

    def _open(self) -> IO[str]:
        """The file at its end; it appears with the first answer."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        mode = "a" if self._continues else "w"
        stream = open(self.path, mode, encoding="utf-8")  # noqa: SIM115
        if self._continues:
            stream.write("\n")  # the last line may have no end
        else:
            self._write(stream, self._header)
        return stream

    def _write(self, stream: IO[str], line: Mapping[str, Any]) -> None:
        stream.write(json.dumps(line) + "\n")
        stream.flush()


def _lines(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    values = []
    for line in text.splitlines():
        try:
            values.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in values if isinstance(line, dict)]
