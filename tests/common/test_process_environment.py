"""What a process sets right about its terminal and its proxy."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from slm_benchmark.common.process_environment import bypass_proxy
from tests.support.checkout import CLOSED_PORT
from tests.support.members import member


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param(
            {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
            marks=member(
                "places",
                "ASCII terminal (`LC_ALL=C`, `PYTHONIOENCODING=ascii`)",
                "what it cannot show is written as an escape",
            ),
        ),
        pytest.param(
            {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
            marks=member(
                "places", "Latin-1 terminal", "what it cannot show is written as an escape"
            ),
        ),
    ],
)
def test_any_terminal_shows_any_text(environment: dict[str, str]) -> None:
    source = "from slm_benchmark.common.process_environment import settle; settle(); print('5 … 6')"
    done = subprocess.run(
        [sys.executable, "-c", source],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": "src", **environment},
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"5 \\u2026 6\n"


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"here")

    do_POST = do_GET

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    """Address of a server on this machine that answers everything."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


@member(
    "places",
    "a proxy in the environment",
    "this machine's own servers (a judge, a stand-in for the hub) are asked without it",
)
def test_a_server_on_this_machine_is_asked_without_the_proxy(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import requests

    from slm_benchmark.api import _download

    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, CLOSED_PORT)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    assert _download(server, 10, 5.0) == b"here"
    with pytest.raises(requests.exceptions.ProxyError):
        requests.get(server, timeout=5)
    bypass_proxy()
    assert requests.get(server, timeout=5).text == "here"


def test_what_the_user_excepts_from_the_proxy_stays() -> None:
    environment = {"NO_PROXY": "example.org, 127.0.0.1"}
    bypass_proxy(environment)
    wanted = "example.org,127.0.0.1,localhost,::1"
    assert environment == {"no_proxy": wanted, "NO_PROXY": wanted}
    everything = {"no_proxy": "*"}
    bypass_proxy(everything)
    assert everything == {"no_proxy": "*"}
