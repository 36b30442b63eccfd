"""What the engines are compared with on the harness's side: its own backends, in this process."""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from lm_eval.models.gguf import GGUFLM
from lm_eval.models.huggingface import HFLM

from slm_benchmark.common.errors import RunEnvironmentError
from slm_benchmark.engines.schedule import TREE
from slm_benchmark.engines.settings import Settings

BATCH_SIZES = (1, 2, 4, 8, 16, 32)
"""Sizes among which `lm_eval --model hf` gets its best."""

SHARE_OF_FREE_MEMORY = 0.6
"""Of what is free, the most that one batch may need."""

START_S = 120.0
"""How long a server may take to answer."""


class HuggingFace(HFLM):  # type: ignore[misc]
    """``lm_eval --model hf`` in float32 on the CPU, as a contender; counts what it forwards.

    Args:
        base: Folder of the model.
        settings: Threads and window.
        requests: What to answer.
    """

    def __init__(self, base: Path, settings: Settings, requests: Sequence[Any]) -> None:
        torch.set_num_threads(settings.threads)
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        super().__init__(
            pretrained=str(base),
            dtype="float32",
            device="cpu",
            batch_size=1,
            max_length=settings.max_length,
        )
        self.requests = list(requests)
        self.kind = self.requests[0].request_type
        self.forwarded = self.generated = 0

    def prepare(self) -> None:
        self.forwarded = self.generated = 0

    def run(self) -> list[Any]:
        return list(getattr(self, self.kind)(self.requests, disable_tqdm=True))

    def tokens(self) -> dict[str, int]:
        """Padding is counted with what is forwarded: it costs the same."""
        return {"forwarded_tokens": self.forwarded, "generated_tokens": self.generated}

    def close(self) -> None:
        self._model = None

    def use_best_batch_size(self, report: Callable[[str], None]) -> str:
        """Time every size of `BATCH_SIZES` once and keep the fastest.

        Returns:
            What was tried and found, in words.
        """
        longest = max(len(self.tok_encode("".join(request.args))) for request in self.requests)
        # The logits of all positions, and their log-softmax beside them.
        row_bytes = 2 * 4 * longest * self.vocab_size
        free_bytes = psutil.virtual_memory().available * SHARE_OF_FREE_MEMORY
        seconds: dict[int, float] = {}
        missing = ""
        for size in BATCH_SIZES:
            if len(self.requests) in seconds:
                break
            if size * row_bytes > free_bytes:
                missing = f"; no memory for {size}"
                break
            self.batch_size_per_gpu = size = min(size, len(self.requests))
            began = time.perf_counter()
            self.run()
            seconds[size] = time.perf_counter() - began
            report(f"batch size {size}: {seconds[size]:.1f} s")
        best = min(seconds, key=lambda size: seconds[size])
        self.batch_size_per_gpu = best
        timings = ", ".join(f"{size}: {value:.1f} s" for size, value in seconds.items())
        return f"best batch size {best} ({timings}){missing}"

    def _model_call(self, inps: Any, *arguments: Any, **more: Any) -> Any:
        self.forwarded += inps.numel()
        return super()._model_call(inps, *arguments, **more)

    def _model_generate(self, context: Any, *arguments: Any, **more: Any) -> Any:
        answer = super()._model_generate(context, *arguments, **more)
        new = answer.numel() - context.numel()
        self.generated += new
        # The last token of an answer is not forwarded.
        self.forwarded += answer.numel() - len(answer)
        return answer


class GgufServer:
    """``lm_eval --model gguf`` over a server of llama-cpp-python, as a contender.

    Its answers are wrong for models whose tokenizer adds no token in front of a text: see
    `as_the_server_reads`.

    Args:
        python: An interpreter that has llama-cpp-python with its server.
        file: The GGUF file.
        settings: Threads and window.
        requests: What to answer.
    """

    def __init__(
        self, python: Path, file: Path, settings: Settings, requests: Sequence[Any]
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        threads, batch = str(settings.threads), str(TREE)
        url = f"http://127.0.0.1:{port}"
        self._server = subprocess.Popen(
            [
                *(str(python), "-m", "llama_cpp.server", "--model", str(file)),
                *("--host", "127.0.0.1", "--port", str(port), "--verbose", "false"),
                *("--n_ctx", str(settings.max_length), "--logits_all", "true"),
                *("--n_threads", threads, "--n_threads_batch", threads),
                *("--n_batch", batch, "--n_ubatch", batch, "--flash_attn", "true"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._wait(url, python)
        except BaseException:
            self.close()
            raise
        self._lm = GGUFLM(base_url=url, max_length=settings.max_length)
        self._requests = list(requests)

    def prepare(self) -> None:
        """Nothing: what the server keeps of its last prompt helps as it does in any use."""

    def run(self) -> list[Any]:
        return list(self._lm.loglikelihood(self._requests, disable_tqdm=True))

    def tokens(self) -> dict[str, int]:
        """None: the server does not tell."""
        return {}

    def close(self) -> None:
        self._server.terminate()
        self._server.wait()

    def _wait(self, url: str, python: Path) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._server.poll() is None:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"{url}/v1/models", timeout=5).close()
                return
            time.sleep(0.2)
        raise RunEnvironmentError(
            "the server of llama-cpp-python does not come up",
            file=python,
            fix="see benchmarks/README.md for its installation",
        )


def as_the_server_reads(lm: Any, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Any]:
    """What `GgufServer` answers, worked out with our engine.

    The server pairs each token of a text with the logits that follow it, instead of those that
    predict it, unless the text begins with a BOS token (``_create_completion`` of
    llama-cpp-python 0.3.36). The harness then leaves out the last token, which it takes for a
    generated one (``get_result`` of lm_eval 0.4.13). Equal answers still prove equal forwards.

    Args:
        lm: Our engine's language model.
        pairs: Token ids of context and continuation of each request.
    """
    answers = []
    for context, continuation in pairs:
        text = [*context, *continuation]
        read = [(None, text[: i + 1], [text[i]]) for i in range(len(context), len(text) - 1)]
        scored = lm._loglikelihood_tokens(read)
        answers.append((sum(value for value, _ in scored), False))
    return answers
