"""A judge in a GGUF file, run by this project's own engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from slm_benchmark.catalog.types import GgufJudge as Entry
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import digest, sha256_file
from slm_benchmark.common.paths import ROOT
from slm_benchmark.judge.protocol import CATALOGUE, Chat, JudgeIdentity, Verdict

_TOKENIZER_FILES = (
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
)

AT_ONCE = 16
"""Chats given to the engine together; after as many, their verdicts are on disk."""


class GgufJudge:
    """A local model that answers in its chat template at temperature 0.

    Args:
        judge_id: Its id in config/judges.yaml.
        entry: Its entry there: see the schema ``judges``.
        threads: CPU threads.

    Raises:
        UserError: when its files are missing, it has no chat template, or its window has no room.
    """

    def __init__(self, judge_id: str, entry: Entry, threads: int) -> None:
        from slm_benchmark.download.weights import weight_file
        from slm_benchmark.engines.load import load_engine
        from slm_benchmark.engines.settings import Settings

        self._id, self._entry = judge_id, entry
        weights, tokenizer = (self._existing(field) for field in ("weights", "tokenizer"))
        if entry["max_tokens"] >= entry["max_context_tokens"]:
            raise self._error("leaves no room for a question", "max_tokens", "make it smaller")
        file = weight_file(weights) if weights.is_dir() else weights
        settings = Settings(max_length=entry["max_context_tokens"], threads=threads)
        self.engine = load_engine("llama.cpp", file, tokenizer, settings)
        if not self.engine.lm.chat_template(True):
            self.close()
            raise self._error(
                "this tokenizer has no chat template", "tokenizer", "use a chat model"
            )
        self.identity: JudgeIdentity = {
            "id": judge_id,
            "kind": "gguf",
            "model": file.name,
            "url": None,
            "weights_sha256": sha256_file(file),
            "tokenizer_sha256": _tokenizer_sha256(tokenizer),
            "engine": self.engine.identity,
            "temperature": 0.0,
            "seed": None,
            "max_tokens": entry["max_tokens"],
            "max_context_tokens": entry["max_context_tokens"],
        }

    def close(self) -> None:
        """Give the model's memory back."""
        self.engine.close()

    def ask(self, chats: Sequence[Chat]) -> Iterator[tuple[int, Verdict]]:
        """See `Judge.ask`; a chat that does not fit the window gets a verdict without text."""
        from lm_eval.api.instance import Instance

        lm = self.engine.lm
        settings = {"until": [], "max_gen_toks": self._entry["max_tokens"], "do_sample": False}
        for first in range(0, len(chats), AT_ONCE):
            indices = range(first, min(first + AT_ONCE, len(chats)))
            requests = [
                Instance(
                    "generate_until", {}, (self.prompt(chats[i]), settings), 0, ("judge", i, 1)
                )
                for i in indices
            ]
            lm.truncated.clear()
            texts = lm.generate_until(requests)
            for i, verdict in zip(indices, texts, strict=True):
                # Of a question that was cut, the judge did not see the beginning.
                yield i, Verdict(None if ("judge", i) in lm.truncated else verdict)

    def prompt(self, chat: Chat) -> str:
        """A chat in the judge's template.

        Some templates refuse or leave out a system message. The grading instructions may be there,
        so it moves to the front of the user's own.
        """
        text: str = self.engine.lm.apply_chat_template(chat)
        if all(said["content"].strip() in text for said in chat):
            return text
        joined = "\n\n".join(said["content"].strip() for said in chat)
        return str(self.engine.lm.apply_chat_template([{"role": "user", "content": joined}]))

    def _existing(self, field: str) -> Path:
        path = ROOT / str(dict(self._entry)[field])
        if not path.exists():
            raise self._error(
                "there is no such file or folder",
                field,
                "correct the path, relative to the repository's root or absolute",
            )
        return path

    def _error(self, message: str, field: str, fix: str) -> UserError:
        value = dict(self._entry)[field]
        return UserError(message, file=CATALOGUE, field=f"{self._id}.{field}", value=value, fix=fix)


def _tokenizer_sha256(folder: Path) -> str:
    """Digest of the files that decide the judge's tokens, its chat template among them."""
    return digest(
        {name: sha256_file(folder / name) for name in _TOKENIZER_FILES if (folder / name).exists()}
    )
