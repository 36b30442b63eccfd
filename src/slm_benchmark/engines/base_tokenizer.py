"""The base model's tokenizer: what encodes prompts and decodes answers for every engine.

Tokenizers differ in what they add to a text, in what their decoders drop, and in where their end
tokens are named. All that is settled here, once for every engine.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from slm_benchmark.common import progress
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import read_json
from slm_benchmark.download.chat_template import ChatTemplate
from slm_benchmark.download.tokenizer import beyond_rows, check_rows, load_tokenizer
from slm_benchmark.engines.backend import Logits
from slm_benchmark.engines.decoding import Sampler
from slm_benchmark.engines.reasoning import is_mark

_PROBE = "a"
"""A text that every tokenizer encodes, to see what is put around it."""

_TAIL = 8
"""Tokens of the prompt that an answer is decoded behind: decoders look at a neighbor or two."""


class BaseTokenizer:
    """The tokenizer in a base model's folder, with what the model's files say of its end tokens.

    Args:
        folder: The base model's folder.
        hub: The tokenizer, where it is loaded already.
        rows: Rows of the model's embeddings; None where they are not known.

    Attributes:
        hub: The tokenizer as `transformers` loads it.
        end_tokens: Ids that end an answer: those of all the files that name any.
        undecodable: Rows of the model that stand for no token, such as those that pad its matrix.

    Raises:
        UserError: when the folder holds no tokenizer that can be loaded, or one of another model.
    """

    def __init__(self, folder: Path, hub: Any = None, rows: int | None = None) -> None:
        self.hub = load_tokenizer(folder) if hub is None else hub
        self._folder, self._rows = folder, rows
        added: Mapping[int, Any] = self.hub.added_tokens_decoder
        self._added = frozenset(added)
        self._special = {i for i, token in added.items() if token.special}
        self._special.update(self.hub.all_special_ids)
        self._marks = {
            i: token.content
            for i, token in added.items()
            if i in self._special and is_mark(token.content)
        }
        ordinary = set(self.hub.get_vocab().values()) - self._added
        if rows is not None:
            check_rows(self.hub, folder, rows)
        self.undecodable = sorted(set(range(rows or 0)) - ordinary - self._added)
        self._front, self._behind = self._affixes()
        self._check_begin()
        self._byte_of = self._byte_pieces()
        self._piece_of = {byte: piece for piece, byte in self._byte_of.items()}
        self._begins_anew = self._begins_behind_added(added)
        self._prefix_text = self._prefix()
        self.end_tokens = self._end_tokens()

    @property
    def eos_text(self) -> str | None:
        """Text of the end-of-sequence token; None where there is none, or it has no text."""
        eos = self.hub.eos_token_id
        return None if eos is None else str(self.hub.decode(eos)) or None

    @property
    def prefix_token(self) -> int:
        """What stands before a text without a context: BOS, else EOS, else what begins every text.

        Raises:
            UserError: when the tokenizer has none of them.
        """
        for token in (self.hub.bos_token_id, self.hub.eos_token_id, *self._front):
            if token is not None:
                return int(token)
        raise UserError(
            "the tokenizer has no BOS and no EOS token, so nothing can stand before a text that "
            "has no context",
            file=self._folder / "tokenizer_config.json",
            field="bos_token",
            value=None,
            fix="name the token that began the training's texts",
        )

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt: with the beginning that the tokenizer gives every text, if the
        text does not begin so itself, and without the end that it may put behind.

        Raises:
            UserError: for a token that the model has no embedding for.
        """
        if self._prefix_text and text.startswith(self._prefix_text):
            return self.encode_plain(text)
        ids = self.encode_plain(text, add_special_tokens=True)
        front, behind = len(self._front), len(self._behind)
        if behind and ids[-behind:] == self._behind:
            ids = ids[:-behind]
        if front and ids[: 2 * front] == 2 * self._front:
            ids = ids[front:]
        return ids

    def encode_behind_prefix(self, text: str) -> list[int]:
        """Token ids of a text that `prefix_token` is put before: with no second one.

        Raises:
            UserError: for a token that the model has no embedding for.
        """
        return self.encode_plain(text) if self._front == [self.prefix_token] else self.encode(text)

    def encode_plain(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Token ids as the tokenizer gives them.

        Raises:
            UserError: for a token that the model has no embedding for.
        """
        ids = [int(i) for i in self.hub.encode(text, add_special_tokens=add_special_tokens)]
        if self._rows is not None and ids and max(ids) >= self._rows:
            raise beyond_rows(self.hub, self._folder, self._rows, max(ids))
        return ids

    def decode_behind(
        self, prompt: Sequence[int], new: Sequence[int], skip_special_tokens: bool = False
    ) -> str:
        """Text of new tokens as it goes on from the prompt's.

        Decoders that take a text's first space away would take that of an answer. A character whose
        bytes are not all there is U+FFFD, as elsewhere; those before it stay.

        Args:
            prompt: Token ids of the prompt; its last ones are enough.
            new: Token ids behind it.
            skip_special_tokens: Whether special tokens have no text.
        """
        tail = self._tail(prompt)
        before = self._decode(tail, skip_special_tokens)
        whole = self._decode([*tail, *new], skip_special_tokens)
        pairs = zip(before, whole, strict=False)
        return whole[sum(1 for _ in itertools.takewhile(lambda two: two[0] == two[1], pairs)) :]

    def answer(self, prompt: Sequence[int], new: Sequence[int]) -> str:
        """Text of an answer, without special tokens, and without what ended it if that was no
        word."""
        return self.decode_behind(prompt, self._unended(new), skip_special_tokens=True)

    def marked_answer(self, prompt: Sequence[int], new: Sequence[int]) -> str:
        """As `answer`, with those special tokens that stand around reasoning."""
        text, behind = "", list(prompt)
        runs = itertools.groupby(self._unended(new), key=self._marks.get)
        for mark, run in runs:
            tokens = list(run)
            if mark is None:
                text += self.decode_behind(behind, tokens, skip_special_tokens=True)
            else:
                text += mark * len(tokens)
            behind += tokens
        return text

    def _unended(self, new: Sequence[int]) -> Sequence[int]:
        """The tokens of an answer without the one that ended it, if that is no word."""
        ended = bool(new) and new[-1] in self.end_tokens & self._added
        return new[:-1] if ended else new

    def decodable(self, sampler: Sampler) -> Sampler:
        """A sampler that never picks a row of the model that stands for no token."""
        if not self.undecodable:
            return sampler

        def pick(logits: Logits) -> int:
            allowed = logits.copy()
            allowed[self.undecodable] = -np.inf
            return sampler(allowed)

        return pick

    def _decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        return str(
            self.hub.decode(
                self._whole_characters(ids),
                skip_special_tokens=skip_special_tokens,
                # Meant for a tokenizer of words; it takes spaces out of code.
                clean_up_tokenization_spaces=False,
            )
        )

    def _whole_characters(self, ids: Sequence[int]) -> list[int]:
        """The same tokens, where pieces of a single byte that make no character are those of
        U+FFFD: decoders give up a whole run of such pieces for one that is cut off."""
        whole: list[int] = []
        for is_byte, run in itertools.groupby(ids, key=self._byte_of.__contains__):
            if is_byte:
                text = bytes(self._byte_of[i] for i in run).decode("utf-8", "replace")
                whole += [self._piece_of[byte] for byte in text.encode()]
            else:
                whole += run
        return whole

    def _tail(self, prompt: Sequence[int]) -> list[int]:
        """The last tokens of a prompt that a decoder must see before an answer."""
        if self._begins_anew and prompt and prompt[-1] in self._added:
            return []
        return [i for i in prompt[-4 * _TAIL :] if i not in self._special][-_TAIL:]

    def _affixes(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and behind every text."""
        plain = list(self.hub.encode(_PROBE, add_special_tokens=False))
        whole = list(self.hub.encode(_PROBE))
        for start in range(len(whole) - len(plain) + 1):
            if whole[start : start + len(plain)] == plain:
                return whole[:start], whole[start + len(plain) :]
        return [], []

    def _byte_pieces(self) -> dict[int, int]:
        """Id of each piece that stands for one byte → the byte; empty without byte fallback."""
        vocabulary = self.hub.get_vocab()
        pieces = {vocabulary.get(f"<0x{byte:02X}>"): byte for byte in range(256)}
        if len(pieces) < 256 or None in pieces or self.hub.decode([vocabulary["<0x41>"]]) != "A":
            return {}
        return {int(piece): byte for piece, byte in pieces.items()}

    def _begins_behind_added(self, added: Mapping[int, Any]) -> bool:
        """Whether a text behind an added token is encoded as one that begins there: then the space
        that a decoder takes away at the beginning is none of the text's."""
        if not added:
            return False
        first, token = next(iter(added.items()))
        ids = self.hub.encode(f"{token.content}{_PROBE}", add_special_tokens=False)
        return list(ids) == [first, *self.hub.encode(_PROBE, add_special_tokens=False)]

    def _prefix(self) -> str:
        """Text by which a prompt shows that it begins with the prefix token itself."""
        for token in (self.hub.bos_token_id, self.hub.eos_token_id):
            if token is not None:
                return str(self.hub.decode(token) or self.hub.convert_ids_to_tokens(token))
        return ""

    def _check_begin(self) -> None:
        """Say so where tokenizer_config.json promises another beginning or end."""
        file = self._folder / "tokenizer_config.json"
        described = read_json(file) if file.exists() else {}
        bos = self.hub.bos_token_id
        promised = described.get("add_bos_token")
        if bos is not None and promised is not None and bool(promised) != (bos in self._front):
            progress.say(
                f"{file}: add_bos_token: {promised}, but tokenizer.json puts "
                f"{'no BOS' if promised else 'a BOS'} before a text; tokenizer.json is followed, "
                "as in Transformers"
            )
        if self._behind:
            names = " ".join(map(str, self.hub.convert_ids_to_tokens(self._behind)))
            progress.say(
                f"{self._folder}: the tokenizer puts {names} behind every text; prompts and "
                "answers go without it"
            )

    def _end_tokens(self) -> frozenset[int]:
        """Ids that end an answer; says so where the files differ, or none names any."""
        eos = self.hub.eos_token_id
        sources = {
            "generation_config.json": _listed(self._folder / "generation_config.json"),
            "config.json": _listed(self._folder / "config.json"),
            "tokenizer": set() if eos is None else {int(eos)},
            "chat template": self._turn_end(),
        }
        if sources["generation_config.json"]:
            # A configuration class writes its default here, which may be any word of another
            # tokenizer.
            control = self._special | self._added
            sources["config.json"] = {i for i in sources["config.json"] if i in control}
        ids = {i for named in sources.values() for i in named if not self._rows or i < self._rows}
        if not ids:
            progress.say(
                f"{self._folder}: no end token in {', '.join(sources)}: an answer ends at a stop "
                "string or its limit alone"
            )
        if len({frozenset(named) for named in sources.values() if named}) > 1:
            listed = "; ".join(
                f"{source}: {' '.join(self._names(named))}"
                for source, named in sources.items()
                if named
            )
            progress.say(
                f"{self._folder}: end tokens differ ({listed}); each of them ends an answer"
            )
        return frozenset(ids)

    def _names(self, ids: set[int]) -> list[str]:
        return [str(self.hub.convert_ids_to_tokens(i) or i) for i in sorted(ids)]

    def _turn_end(self) -> set[int]:
        """The added token by which the chat template ends an assistant's turn, if it does."""
        template = ChatTemplate(self.hub, self._folder).text
        if not template:
            return set()
        said = "reply"
        turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": said}]
        try:
            text = str(self.hub.apply_chat_template(turns, chat_template=template, tokenize=False))
        except (jinja2.TemplateError, ValueError, TypeError, KeyError):
            return set()
        _, reply, behind = text.rpartition(said)
        ids = self.hub.encode(behind.strip(), add_special_tokens=False) if reply else []
        return {int(i) for i in ids[:1] if i in self._added}


def _listed(file: Path) -> set[int]:
    """End-of-sequence ids that a configuration names.

    Raises:
        UserError: when they are no numbers.
    """
    described = read_json(file) if file.exists() else {}
    ids = described.get("eos_token_id")
    if ids is None:
        ids = (described.get("text_config") or {}).get("eos_token_id")
    listed = ids if isinstance(ids, list) else [ids]
    if any(type(token) is not int for token in listed if token is not None):
        raise UserError(
            "not the number of a token, and no list of numbers",
            file=file,
            field="eos_token_id",
            value=ids,
            fix="write the numbers of the tokens that end an answer",
        )
    # Some files write -1 where there is none.
    return {token for token in listed if token is not None and token >= 0}
