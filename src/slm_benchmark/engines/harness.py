"""An engine as a language model of lm-evaluation-harness, with the base model's tokenizer."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from slm_benchmark.engines.backend import Backend, Scored
from slm_benchmark.errors import UserError

Progress = Callable[[int, int], None]
"""Told (documents done, documents in all) after each document."""

DEFAULT_MAX_GEN_TOKS = 256
"""The harness's own default for tasks that name none."""


class BenchmarkLM(TemplateLM):  # type: ignore[misc]
    """A backend behind the harness's interface: the same requests and tokens for every format.

    Args:
        backend: The loaded model.
        tokenizer: Folder of the base model, whose tokenizer encodes for every weight format.
        progress: Called after each document.
    """

    def __init__(self, backend: Backend, tokenizer: Path, progress: Progress) -> None:
        from transformers import AutoTokenizer

        super().__init__()
        self.model = backend
        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        self.progress = progress
        self._end_tokens = _end_tokens(tokenizer) | {self.tokenizer.eos_token_id}

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def max_length(self) -> int:
        """Longest context and continuation together, in tokens."""
        return self.model.max_length

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids of ``string``; a text that begins with the BOS token gets no second one."""
        if add_special_tokens is None:
            if string.startswith(self.tokenizer.decode(self.prefix_token_id)):
                add_special_tokens = False
            else:
                return list(self.tokenizer.encode(string))
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The history as one prompt, through the base tokenizer's template."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Score requests document by document, so that the choices of one share its context."""
        documents = [
            list(group)
            for _, group in itertools.groupby(requests, key=lambda r: (r.task_name, r.doc_id))
        ]
        encoded = [[self.encode(*request.args) for request in document] for document in documents]
        # Documents in the order of their tokens share the longest prefixes.
        order = sorted(range(len(documents)), key=lambda i: encoded[i][0][0])
        scored: dict[int, list[Scored]] = {}
        for done, index in enumerate(order, start=1):
            scored[index] = self._score_document(encoded[index])
            self.progress(done, len(documents))
        return [score for index in range(len(documents)) for score in scored[index]]

    def encode(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of a pair before any cut; an empty context becomes the prefix token.

        Raises:
            ValueError: when either part is left without tokens.
        """
        pair: tuple[list[int], list[int]]
        if context:
            pair = self._encode_pair(context, continuation)
        else:
            tokens = self.tok_encode(continuation, add_special_tokens=False)
            has_prefix = tokens[:1] == [self.prefix_token_id]
            pair = (tokens[:1], tokens[1:]) if has_prefix else ([self.prefix_token_id], tokens)
        if not all(pair):
            raise ValueError(f"no tokens to score in {continuation!r} after {context[-80:]!r}")
        return pair

    def _score_document(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Scored]:
        scored: list[Scored] = []
        cut = [_truncate(c, t, self.max_length) for c, t in pairs]
        for context, group in itertools.groupby(cut, key=lambda pair: pair[0]):
            scored += self.model.score(context, [continuation for _, continuation in group])
        return scored

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[Scored]:
        return [self._score_document([(context, target)])[0] for _, context, target in requests]

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probability of whole texts, in windows of the model's length."""
        totals = []
        for done, request in enumerate(requests, start=1):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.model.max_length,
                context_len=1,
            )
            pairs = [make_disjoint_window(window) for window in windows]
            totals.append(sum(self._score_document([pair])[0][0] for pair in pairs))
            self.progress(done, len(requests))
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations, cut at the first stop string."""
        contexts = [self.tok_encode(request.args[0]) for request in requests]
        texts: dict[int, str] = {}
        order = sorted(range(len(requests)), key=lambda i: contexts[i])
        for done, index in enumerate(order, start=1):
            texts[index] = self._generate(contexts[index], dict(requests[index].args[1]))
            self.progress(done, len(requests))
        return [texts[index] for index in range(len(requests))]

    def _generate(self, context: list[int], settings: dict[str, Any]) -> str:
        settings = normalize_gen_kwargs(settings, DEFAULT_MAX_GEN_TOKS)
        if settings.get("do_sample") and settings.get("temperature", 0.0) > 0.0:
            raise UserError(
                "sampling is not supported; all tasks here are scored on greedy answers",
                field="generation_kwargs",
                value=settings,
                fix="use do_sample: false",
            )
        eos = self.tokenizer.decode(self.eot_token_id)
        until = handle_stop_sequences(settings.get("until"), eos=eos)
        limit = int(settings["max_gen_toks"])
        room = self.max_length - limit
        if room < 1:
            raise ValueError(
                f"an answer of up to {limit} tokens leaves no room for its prompt in the window of "
                f"{self.max_length}"
            )

        def finished(new: list[int]) -> bool:
            if new[-1] in self._end_tokens:
                return True
            # A stop string may be a special token, which has no text once these are left out.
            text = self.tokenizer.decode(new)
            return any(stop in text for stop in until)

        new = self.model.generate(context[-room:], limit, finished)
        text = self.tokenizer.decode(new, skip_special_tokens=True)
        return str(postprocess_generated_text(text, until, None))


def _truncate(
    context: list[int], continuation: list[int], max_length: int
) -> tuple[list[int], list[int]]:
    """Cut a pair from the left to what the model can see, as the harness's own backend does.

    Raises:
        ValueError: when the continuation alone is longer.
    """
    if len(continuation) > max_length:
        raise ValueError(
            f"a continuation of {len(continuation)} tokens does not fit a window of {max_length}"
        )
    whole = (context + continuation)[-(max_length + 1) :]
    return whole[: -len(continuation)], continuation


def _end_tokens(base: Path) -> set[int]:
    """End-of-sequence ids of generation_config.json, or of config.json where there is none."""
    file = base / "generation_config.json"
    if not file.exists():
        file = base / "config.json"
    found = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    listed = found if isinstance(found, list) else [found]
    return {int(token) for token in listed if token is not None}
