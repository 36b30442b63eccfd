"""An engine as a language model of lm-evaluation-harness, with the base model's tokenizer."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
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

from slm_benchmark.common.errors import RunEnvironmentError, UserError
from slm_benchmark.common.files import digest
from slm_benchmark.download.chat_template import ChatTemplate
from slm_benchmark.engines.backend import Backend, OutOfMemory, Scored
from slm_benchmark.engines.base_tokenizer import BaseTokenizer
from slm_benchmark.engines.beam_search import Search, search
from slm_benchmark.engines.decoding import (
    Beams,
    Generation,
    Job,
    Sampler,
    generate,
    make_sampler,
    plan_prompts,
    read_decoding,
)
from slm_benchmark.engines.journal import Journal
from slm_benchmark.engines.reasoning import opens_reasoning, without_reasoning
from slm_benchmark.engines.schedule import Pair, Plan, PlannedForward, plan_document, plan_forwards

GenerationRequest = Callable[[], Job] | Search
"""A generation to make: what makes its job, or a beam search."""

Progress = Callable[[int, int], None]
"""Told (documents done, documents in all) after each document."""

Document = tuple[str | None, int | None]
"""Task and number of a document."""

DEFAULT_MAX_GEN_TOKS = 256
"""The harness's own default for tasks that name none."""


def silent(done: int, total: int) -> None:
    """Progress that is reported to nobody."""


class BenchmarkLM(TemplateLM):  # type: ignore[misc]
    """A backend behind the harness's interface: the same requests and tokens for every format.

    Args:
        backend: The loaded model.
        tokenizer: Folder of the base model, whose tokenizer encodes for every weight format.
        progress: Called after each document.
        journal: Where finished requests are kept, and looked up.
        seed: Of sampled generations.
        hub: The tokenizer, where it is loaded already.

    Attributes:
        truncated: Task and number of the documents whose context was cut from the left.
        unfinished: Task and number of the documents whose answer reached its limit of tokens.
        chat: The chat template. Once it is in use, answers are without reasoning.
        reasoning: Task and number of the documents with reasoning → its characters.
    """

    def __init__(
        self,
        backend: Backend,
        tokenizer: Path,
        progress: Progress = silent,
        journal: Journal | None = None,
        seed: int = 0,
        hub: Any = None,
    ) -> None:
        super().__init__()
        self.model = backend
        self.text = BaseTokenizer(tokenizer, hub, getattr(backend, "vocabulary", None))
        self.tokenizer = self.text.hub
        self.chat = ChatTemplate(self.tokenizer, tokenizer)
        self.reasoning: dict[Document, int] = {}
        self.progress = progress
        self.truncated: set[Document] = set()
        self.unfinished: set[Document] = set()
        self._journal = journal
        self._seed = seed
        self._tokens = dict.fromkeys(("unique", "forwarded", "chunk_rounding", "generated"), 0)
        # The choices of a document have the same context, one after the other.
        self._encode_context = functools.lru_cache(maxsize=4)(self.text.encode)

    @property
    def eot_token_id(self) -> int | None:
        eos = self.tokenizer.eos_token_id
        return None if eos is None else int(eos)

    @property
    def prefix_token_id(self) -> int:
        return self.text.prefix_token

    @property
    def max_length(self) -> int:
        """Longest context and continuation together, in tokens."""
        return self.model.max_length

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tokens(self) -> dict[str, int]:
        """What was forwarded for the requests so far, by plan.

        Returns:
            The cell schema's ``tokens`` block, in tokens.
        """
        return {f"{name}_tokens": count for name, count in self._tokens.items()}

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids of ``string``; a text that begins with the BOS token gets no second one."""
        if add_special_tokens is None:
            return list(self._encode_context(string))
        return self.text.encode_plain(string, add_special_tokens)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The text of the chat template, which is used from now on; None without one.

        Args:
            chat_template: True, or the name of one of several.
        """
        if not chat_template:
            return None
        return self.chat.select(None if chat_template is True else chat_template)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The history as one prompt, through the base tokenizer's template."""
        return self.chat.render(chat_history, add_generation_prompt)

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Score requests document by document, so that the choices of one share its context.

        Raises:
            UserError: when the chat template lets the model think where the choices stand.
        """
        if self.chat.in_use and any(opens_reasoning(request.args[0]) for request in requests):
            raise thinks_before_options(self.chat)
        # A request that names no document is a document of its own.
        named = itertools.groupby(
            enumerate(requests), key=lambda r: (r[0], None) if r[1].doc_id is None else _name(r[1])
        )
        documents = [[request for _, request in group] for _, group in named]
        pairs = []
        for document in documents:
            encoded = [self.encode(*request.args) for request in document]
            if any(_is_too_long(pair, self.max_length) for pair in encoded):
                self.truncated.add(_name(document[0]))
            pairs.append([_truncate(pair, self.max_length) for pair in encoded])
        return [score for scores in self._score(pairs) for score in scores]

    def encode(self, context: str, continuation: str) -> Pair:
        """Token ids of a pair before any cut; an empty context becomes the prefix token.

        Raises:
            ValueError: when either part is left without tokens.
        """
        pair: Pair
        if context:
            pair = self._encode_pair(context, continuation)
        else:
            tokens = self.tok_encode(continuation, add_special_tokens=False)
            has_prefix = tokens[:1] == [self.prefix_token_id]
            pair = (tokens[:1], tokens[1:]) if has_prefix else ([self.prefix_token_id], tokens)
        if not all(pair):
            # Lengths, not texts: records of errors are published.
            raise ValueError(
                f"no tokens to score in a continuation of {len(continuation)} characters after a "
                f"context of {len(context)}"
            )
        return pair

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[Scored]:
        pairs = [[_truncate((c, t), self.max_length)] for _, c, t in requests]
        return [score for (score,) in self._score(pairs)]

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probability of whole texts, in windows of the model's length."""
        windows = []
        owners = []
        for number, request in enumerate(requests):
            for window in get_rolling_token_windows(
                token_list=self.text.encode_behind_prefix(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append([make_disjoint_window(window)])
                owners.append(number)
        totals = [0.0] * len(requests)
        for number, ((score, _),) in zip(owners, self._score(windows), strict=True):
            totals[number] += score
        return totals

    def _score(self, documents: Sequence[Sequence[Pair]]) -> list[list[Scored]]:
        """Score all pairs of all documents."""
        forwards: list[PlannedForward] = []
        owners: list[tuple[int, list[int]]] = []
        for number, pairs in enumerate(documents):
            for planned, indices in plan_document(pairs, self.model.chunk):
                forwards.append(planned)
                owners.append((number, indices))
        plan = plan_forwards(forwards, self.model.chunk)
        alone = [len(c) + len(t) - 1 for pairs in documents for c, t in pairs]
        self._count(plan, None if self.model.shares else alone)
        scored: list[dict[int, Scored]] = [{} for _ in documents]
        done = 0
        for index in plan.order:
            number, indices = owners[index]
            scores = self._stored_score(forwards[index], plan)
            scored[number] |= dict(zip(indices, scores, strict=True))
            if len(scored[number]) == len(documents[number]):
                done += 1
                self.progress(done, len(documents))
        return [[by_index[i] for i in range(len(by_index))] for by_index in scored]

    def _score_forward(self, planned: PlannedForward, plan: Plan) -> list[Scored]:
        try:
            self.model.prepare(plan)
            return self.model.score(planned)
        except OutOfMemory:
            # Without what is cached for others, the forward may fit.
            self.model.free()
        try:
            return self.model.score(planned)
        except OutOfMemory as error:
            raise RunEnvironmentError(
                f"no memory for a document of {planned.length} tokens: {error}",
                fix="free memory, or run fewer jobs at once",
            ) from error

    def _stored_score(self, planned: PlannedForward, plan: Plan) -> list[Scored]:
        """The scores of a planned forward from the journal, or scored now and stored there."""
        if self._journal is None:
            return self._score_forward(planned, plan)
        key = digest(
            [
                planned.shared_prefix,
                planned.tokens,
                planned.parents,
                planned.predictors,
                planned.targets,
            ]
        )
        scores = self._journal.get(key)
        if scores is None:
            scores = self._score_forward(planned, plan)
            self._journal.put(key, scores)
        return [(float(value), bool(greedy)) for value, greedy in scores]

    def _count(self, plan: Plan, alone: Sequence[int] | None) -> None:
        """Count what a plan forwards, or what sequences of these lengths do, each alone."""
        self._tokens["unique"] += plan.unique_tokens
        self._tokens["forwarded"] += plan.forwarded_tokens if alone is None else sum(alone)
        self._tokens["chunk_rounding"] += plan.chunk_rounding_tokens if alone is None else 0

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continuations, cut at the first stop string: greedy, searched with beams, or drawn with
        the engine's seed."""
        seen: dict[Any, int] = {}
        requested: list[GenerationRequest] = []
        contexts, keys, stops = [], [], []
        for request in requests:
            context, settings = self._prompt(request)
            until, limit = settings["until"], settings["max_gen_toks"]
            decoding = read_decoding(settings)
            key = digest([context, until, limit, str(decoding), self.chat.in_use])
            ending = self._ending(context, until, request.args[0] if self.chat.in_use else None)
            if isinstance(decoding, Beams):
                requested.append(
                    Search(
                        context,
                        limit,
                        decoding,
                        ending,
                        len(self.text.end_tokens),
                        self.text.undecodable,
                    )
                )
            else:
                # A harness that wants several samples of a document asks as often.
                repeat = seen.get((key, *_name(request)), 0) if decoding else 0
                seen[key, *_name(request)] = repeat + 1
                seed = [self._seed, repeat, int(key[:16], 16)]
                make = functools.partial(make_sampler, decoding, seed)
                requested.append(functools.partial(self._job, context, limit, ending, make))
                if decoding:
                    key = f"{key}-{self._seed}-{repeat}"
            keys.append(key)
            stops.append(until)
            contexts.append(context)
        alone = None if self.model.shares_prompts else [len(context) for context in contexts]
        self._count(plan_prompts(contexts, self.model.chunk)[1], alone)
        generations = self._generate(keys, requested)
        for request, generation in zip(requests, generations, strict=True):
            self._tokens["unique"] += generation.forwarded
            self._tokens["forwarded"] += generation.forwarded
            self._tokens["generated"] += len(generation.new)
            if not generation.stopped:
                self.unfinished.add(_name(request))
        answers = [
            self._answer(request, context, one.new)
            for request, context, one in zip(requests, contexts, generations, strict=True)
        ]
        return [
            str(postprocess_generated_text(answer, until, None))
            for answer, until in zip(answers, stops, strict=True)
        ]

    def _answer(self, request: Instance, context: Sequence[int], new: Sequence[int]) -> str:
        """Text of a generation; under a chat template, without reasoning, which is counted."""
        if not self.chat.in_use:
            return self.text.answer(context, new)
        text = self.text.marked_answer(context, new)
        return count_reasoning(self.reasoning, request, text)

    def _generate(
        self, keys: Sequence[str], requested: Sequence[GenerationRequest]
    ) -> list[Generation]:
        """The generation of each request, from the journal or made now."""
        generations: dict[int, Generation] = {}
        if self._journal is not None:
            for index, key in enumerate(keys):
                if (stored := self._journal.get(key)) is not None:
                    generations[index] = Generation(index, *stored)
        missing = {i: one for i, one in enumerate(requested) if i not in generations}
        for one in self._make(missing):
            generations[one.index] = one
            if self._journal is not None:
                self._journal.put(keys[one.index], [one.new, one.stopped, one.forwarded])
            self.progress(len(generations), len(keys))
        return [generations[index] for index in range(len(keys))]

    def _make(self, requested: Mapping[int, GenerationRequest]) -> Iterator[Generation]:
        jobs = {i: one for i, one in requested.items() if not isinstance(one, Search)}
        searches = {i: one for i, one in requested.items() if isinstance(one, Search)}
        for indices, generations in (
            (list(jobs), generate(self.model, list(jobs.values()))),
            (list(searches), search(self.model, list(searches.values()))),
        ):
            for one in generations:
                yield replace(one, index=indices[one.index])

    def _prompt(self, request: Instance) -> tuple[list[int], dict[str, Any]]:
        """Tokens of a prompt, cut to leave room for its answer, and its generation settings."""
        settings = normalize_gen_kwargs(dict(request.args[1]), DEFAULT_MAX_GEN_TOKS)
        until = handle_stop_sequences(settings.get("until"), eos=self.text.eos_text)
        # The empty string would be found in every text.
        settings["until"] = [stop for stop in until if stop]
        limit = settings["max_gen_toks"] = int(settings["max_gen_toks"])
        room = self.max_length - limit
        if room < 1:
            raise ValueError(
                f"an answer of up to {limit} tokens leaves no room for its prompt in the window of "
                f"{self.max_length}"
            )
        context = self.tok_encode(request.args[0]) or [self.prefix_token_id]
        if len(context) > room:
            self.truncated.add(_name(request))
        return context[-room:], settings

    def _ending(
        self, context: Sequence[int], until: Sequence[str], prompt: str | None
    ) -> Callable[[Sequence[int]], bool]:
        """Whether new tokens end with an end token, or hold a stop string.

        Args:
            context: Tokens of the prompt.
            until: The stop strings.
            prompt: Text of a prompt whose answer may come behind reasoning, where a stop string
                ends nothing; None for any other prompt.
        """
        # Whatever ends with the last token lies in the tokens of so many bytes; what ended before
        # was found before.
        reach = 8 + max((len(stop.encode()) for stop in until), default=0)

        def finished(new: Sequence[int]) -> bool:
            if new[-1] in self.text.end_tokens:
                return True
            # A stop string may be a special token, which has no text once these are left out.
            text = self.text.decode_behind(context, new[-reach:])
            if prompt is None or not any(stop in text for stop in until):
                return any(stop in text for stop in until)
            answer = without_reasoning(prompt, self.text.decode_behind(context, new))
            return any(stop in answer for stop in until)

        return finished

    def _job(
        self,
        context: list[int],
        limit: int,
        ending: Callable[[Sequence[int]], bool],
        make: Callable[[], Sampler],
    ) -> Job:
        return Job(context, limit, self.text.decodable(make()), ending)


def count_reasoning(counts: dict[Document, int], request: Instance, text: str) -> str:
    """The answer of a generation, without its reasoning, whose characters are counted.

    Args:
        counts: Characters by document, to add to.
        request: What was generated for.
        text: The whole generation.
    """
    answer = without_reasoning(str(request.args[0]), text)
    if characters := len(text) - len(answer):
        counts[_name(request)] = counts.get(_name(request), 0) + characters
    return answer


def thinks_before_options(chat: ChatTemplate) -> UserError:
    """An error about a template under which the options of a task would stand within reasoning."""
    return chat.refuse(
        "the chat template lets the model think before it answers and has no switch against it, so "
        "the likelihood of an option would be that of a thought",
        "choose a protocol without a chat template for tasks that compare options, or "
        "write chat: false into the model's card",
    )


def _name(request: Instance) -> Document:
    return request.task_name, request.doc_id


def _is_too_long(pair: Pair, max_length: int) -> bool:
    # The last token of a continuation is scored, not read.
    return sum(map(len, pair)) - 1 > max_length


def _truncate(pair: Pair, max_length: int) -> Pair:
    """Cut a pair from the left to what the model can see, as the harness's own backend does.

    Raises:
        ValueError: when the continuation alone is longer.
    """
    context, continuation = pair
    if len(continuation) > max_length:
        raise ValueError(
            f"a continuation of {len(continuation)} tokens does not fit a window of {max_length}"
        )
    whole = [*context, *continuation][-(max_length + 1) :]
    return whole[: -len(continuation)], continuation
