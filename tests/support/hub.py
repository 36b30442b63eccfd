"""A stand-in for the Hugging Face hub: serves a folder of repositories, misbehaves on request."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_LARGE_BYTES = 4096
"""From this size on a file is reported as Git LFS, with its SHA-256."""

_API = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)"
    r"(?:/(?P<verb>revision|tree|paths-info)/(?P<revision>[^/]+)(?:/(?P<folder>.+))?)?"
)
_ACCESS = re.compile(r"/api/(?:models|datasets)/(?P<repo>[^/]+/[^/]+)/auth-check")
_FILE = re.compile(
    r"/(?P<kind>datasets/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)"
)


@dataclass
class Hub:
    """A running stand-in. Repositories are the folders ``{root}/{owner}/{name}``.

    Args:
        root: Folder of repositories; models and datasets share it.
        url: Address to give as HF_ENDPOINT.
        gated: Repositories whose files are refused, with their description still readable.
        cut: File name → how many bytes a response for it carries before the line goes dead;
            every response for it is cut until the entry is taken away.
        wrong: Names of files that arrive with their first byte changed.
        hold: File name → how many bytes a response carries before it says no more, line open.
        status: Answer everything with this status, such as 503.
        requests: ``METHOD path`` of every request, in order of arrival.
        ranges: The Range header of every file request that had one.
    """

    root: Path
    url: str
    gated: set[str] = field(default_factory=set)
    cut: dict[str, int] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)
    hold: dict[str, int] = field(default_factory=dict)
    status: int = 200
    requests: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)

    def commit(self, repo: str) -> str:
        """The commit of ``main``; it follows from the content: a changed file is a new commit."""
        content = hashlib.sha1(repo.encode())
        for path in self.files(repo):
            content.update(path.name.encode() + path.read_bytes())
        return content.hexdigest()

    def files(self, repo: str) -> list[Path]:
        """All files of a repository, in order."""
        return sorted(path for path in (self.root / repo).rglob("*") if path.is_file())


def git_hash(data: bytes) -> str:
    """The hash that git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextlib.contextmanager
def serve(root: Path) -> Iterator[Hub]:
    """Serve the repositories under ``root`` on a free port until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: the requests are counted instead."""

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            if "json" in (self.headers.get("Content-Type") or ""):
                paths = json.loads(body).get("paths", [])
            else:
                paths = parse_qs(body).get("paths", [])
            self.answer(paths)

        def do_GET(self) -> None:
            self.answer([])

        def answer(self, paths: list[str]) -> None:
            split = urlsplit(self.path)
            path = unquote(split.path)
            hub.requests.append(f"{self.command} {path}")
            if hub.status != 200:
                self.refuse(hub.status, "Unavailable")
            elif found := _API.fullmatch(path):
                self.describe(**found.groupdict(), paths=paths, query=parse_qs(split.query))
            elif found := _ACCESS.fullmatch(path):
                self.access(found["repo"])
            elif found := _FILE.fullmatch(path):
                self.file(found["repo"], found["revision"], found["name"])
            else:
                self.refuse(404, "EntryNotFound")

        def known(self, repo: str, revision: str) -> bool:
            if not (hub.root / repo).is_dir():
                # The real hub does not tell strangers a missing repository from a private one.
                self.refuse(401, "RepoNotFound")
            elif revision not in ("main", hub.commit(repo)):
                self.refuse(404, "RevisionNotFound")
            else:
                return True
            return False

        def access(self, repo: str) -> None:
            if repo in hub.gated:
                self.refuse(403, "GatedRepo")
            elif self.known(repo, "main"):
                self.send_json({})

        def describe(
            self,
            kind: str,
            repo: str,
            verb: str | None,
            revision: str | None,
            folder: str | None,
            paths: list[str],
            query: dict[str, list[str]],
        ) -> None:
            if not self.known(repo, revision or "main"):
                return
            base = hub.root / repo
            if verb == "tree":
                start = base / (folder or "")
                if not start.exists():
                    self.refuse(404, "EntryNotFound")
                    return
                deep = query.get("recursive", ["false"])[0].lower() in ("true", "1")
                found = sorted(start.rglob("*") if deep else start.iterdir())
                self.send_json([self.entry(base, item) for item in found])
            elif verb == "paths-info":
                found = [base / name for name in paths if (base / name).exists()]
                self.send_json([self.entry(base, item) for item in found])
            else:
                self.send_json(
                    {
                        "_id": "1",
                        "id": repo,
                        "sha": hub.commit(repo),
                        "private": False,
                        "gated": "manual" if repo in hub.gated else False,
                        "disabled": False,
                        "tags": [],
                        "downloads": 0,
                        "likes": 0,
                        "siblings": [self.sibling(base, item) for item in hub.files(repo)],
                    }
                )

        def entry(self, base: Path, path: Path) -> dict[str, Any]:
            name = path.relative_to(base).as_posix()
            if path.is_dir():
                return {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
            data = path.read_bytes()
            return {"type": "file", "path": name, "oid": git_hash(data), "size": len(data)}

        def sibling(self, base: Path, path: Path) -> dict[str, Any]:
            data = path.read_bytes()
            described: dict[str, Any] = {
                "rfilename": path.relative_to(base).as_posix(),
                "size": len(data),
                "blobId": git_hash(data),
            }
            if len(data) >= _LARGE_BYTES:
                sha256 = hashlib.sha256(data).hexdigest()
                described["lfs"] = {"size": len(data), "sha256": sha256, "pointerSize": 134}
            return described

        def file(self, repo: str, revision: str, name: str) -> None:
            if not self.known(repo, revision):
                return
            path = hub.root / repo / name
            if repo in hub.gated:
                self.refuse(403, "GatedRepo")
                return
            if not path.is_file():
                self.refuse(404, "EntryNotFound")
                return
            data = path.read_bytes()
            etag = git_hash(data)
            if name in hub.wrong:
                data = bytes([data[0] ^ 255]) + data[1:]
            status, headers = 200, {}
            if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
                hub.ranges.append(found[0])
                start, end = int(found[1]), int(found[2] or len(data) - 1)
                headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
                status, data = 206, data[start : end + 1]
            self.send_response(status)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", f'"{etag}"')
            self.send_header("X-Repo-Commit", hub.commit(repo))
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            sent = min(hub.cut.get(name, len(data)), hub.hold.get(name, len(data)))
            self.wfile.write(data[:sent])
            if name in hub.hold:
                self.wfile.flush()
                stop.wait()
            if sent < len(data):
                self.close_connection = True

        def refuse(self, status: int, code: str) -> None:
            self.send_json({"error": code}, status, {"X-Error-Code": code, "X-Error-Message": code})

        def send_json(
            self, value: Any, status: int = 200, headers: dict[str, str] | None = None
        ) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            for key, text in (headers or {}).items():
                self.send_header(key, text)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that hangs up, or is killed, is part of the tests."""

    stop = threading.Event()
    server = Server(("127.0.0.1", 0), Handler)
    hub = Hub(root, f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        stop.set()
        server.shutdown()
        server.server_close()
        thread.join()
