"""Beam search against the library's own, and against generations that were never forked."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from slm_benchmark.common.errors import RunEnvironmentError, UserError
from slm_benchmark.engines.backend import MOST_BEAMS, Backend, Logits, OutOfMemory
from slm_benchmark.engines.beam_search import Search, search
from slm_benchmark.engines.decoding import Beams, Generation, plan_prompts
from slm_benchmark.engines.journal import Journal
from slm_benchmark.engines.llamacpp import LlamaCpp
from slm_benchmark.engines.lm import BenchmarkLM
from slm_benchmark.engines.schedule import CHUNK, Plan, PlannedForward
from slm_benchmark.engines.settings import Settings
from slm_benchmark.engines.transformers import Loaded, Transformers, load_transformers
from tests.engines.test_engines import harness_lm, never, requests, tokens, uncuttable, write
from tests.engines.test_real_model import MODEL, inputs  # noqa: F401
from tests.support.gguf_models import write_long_rope, write_mamba

ONE_THREAD = Settings(max_length=512, threads=1)
TWO_THREADS = Settings(max_length=512, threads=2)
ENDS = [7, 77, 101, 202, 303]
"""Tokens that end a text here, so that the tiny model ends some."""

WAYS = [Beams(4, 1.0, False), Beams(10, 1.0, False), Beams(4, 0.5, True), Beams(3, 2.0, "never")]


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> Loaded:
    return load_transformers(tiny_model, dtype="float32", device="cpu")


@pytest.fixture(params=["transformers", "llama.cpp"])
def make(
    request: pytest.FixtureRequest, tiny_gguf: Path, loaded: Loaded
) -> Iterator[Callable[[int | None], Backend]]:
    """Makes a backend with a memory budget, on two threads: what could depend on them may show."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    made: list[Backend] = []

    def backend(budget: int | None = None) -> Backend:
        settings = Settings(512, threads=2, memory_budget_bytes=budget)
        kind = request.param
        made.append(
            Transformers(loaded, settings)
            if kind == "transformers"
            else LlamaCpp(tiny_gguf, settings)
        )
        return made[-1]

    yield backend
    for one in made:
        if isinstance(one, LlamaCpp):
            one.close()
    torch.set_num_threads(before)


def prompts() -> list[list[int]]:
    """Of several lengths around a chunk; some share their beginning."""
    draw = random.Random(5)
    shared = tokens(draw, 100)
    lengths = (1, 5, CHUNK, CHUNK + 6)
    return [*(tokens(draw, n) for n in lengths), shared, [*shared[:90], *tokens(draw, 30)]]


def ends(new: Sequence[int]) -> bool:
    return new[-1] in ENDS


def asked(context: Sequence[int], beams: Beams, limit: int = 20) -> Search:
    return Search(context, limit, beams, ends, len(ENDS))


def find(backend: Backend, searches: Sequence[Search]) -> list[Generation]:
    return sorted(search(backend, searches), key=lambda found: found.index)


def find_by_library(model: Any, context: Sequence[int], beams: Beams, limit: int = 20) -> list[int]:
    written = model.generate(
        torch.tensor([context]),
        max_new_tokens=limit,
        do_sample=False,
        num_beams=beams.count,
        length_penalty=beams.length_penalty,
        early_stopping=beams.early_stopping,
        eos_token_id=ENDS,
        pad_token_id=0,
    )
    found: list[int] = written[0, len(context) :].tolist()
    return found


# --- what is found -------------------------------------------------------------------------------


@pytest.mark.parametrize("beams", WAYS, ids=str)
def test_the_library_finds_the_same(loaded: Loaded, beams: Beams) -> None:
    backend = Transformers(loaded, ONE_THREAD)
    found = find(backend, [asked(context, beams) for context in prompts()])
    for context, one in zip(prompts(), found, strict=True):
        assert one.new == find_by_library(loaded.model, context, beams)
        assert one.stopped == ends(one.new)
    assert len({tuple(one.new) for one in found}) == len(found)
    # Neither plain greedy nor all of one length: the search has something to decide.
    assert any(one.new != write(backend, c, 20) for c, one in zip(prompts(), found, strict=True))


def test_texts_end_by_themselves_and_at_the_limit(loaded: Loaded) -> None:
    backend = Transformers(loaded, ONE_THREAD)
    found = [one for beams in WAYS for one in find(backend, [asked(c, beams) for c in prompts()])]
    assert {one.stopped for one in found} == {True, False}
    assert all(len(one.new) == 20 for one in found if not one.stopped)


def test_one_beam_is_greedy(make: Callable[..., Backend]) -> None:
    backend = make()
    for context in prompts():
        ((found),) = find(backend, [Search(context, 15, Beams(1, 1.0, False), never, 0)])
        assert found.new == write(backend, context, 15)
        assert (found.stopped, found.forwarded) == (False, 14)


@pytest.mark.parametrize("kind", ["mamba", "mistral", "gemma2", "gpt_neo", "dynamic"])
def test_models_whose_caches_cannot_be_cut_are_searched_too(kind: str) -> None:
    model = uncuttable(kind)
    backend = Transformers(Loaded(model, "Linear", "float32"), ONE_THREAD)
    assert backend.rows == 1
    context, beams = tokens(random.Random(3), 40), Beams(4, 1.0, False)
    (found,) = find(backend, [asked(context, beams, limit=8)])
    assert found.new == find_by_library(model, context, beams, limit=8)


def test_llama_cpp_finds_what_transformers_finds(tiny_gguf_f16: Path, loaded: Loaded) -> None:
    """But where two texts are so close that rounding to 16 bits drops the other one."""
    beams = Beams(4, 1.0, False)
    base = Transformers(loaded, ONE_THREAD)
    with LlamaCpp(tiny_gguf_f16, ONE_THREAD) as gguf:
        watched = Watched(gguf)
        searches = [asked(context, beams) for context in prompts()]
        pairs = list(zip(find(base, searches), find(watched, searches), strict=True))
    assert sum(one.new == other.new for one, other in pairs) >= len(pairs) - 1
    # What every beam saw is what a plain forward gives.
    for text, logits in list(watched.seen.items())[::7]:
        with torch.inference_mode():
            expected = loaded.model(torch.tensor([text])).logits[0, -1].log_softmax(-1)
        found = torch.frombuffer(bytearray(logits), dtype=torch.float32).log_softmax(-1)
        assert found.tolist() == pytest.approx(expected.tolist(), abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("count", [4, 10])
def test_the_library_finds_the_same_on_a_real_model(inputs: Path, count: int) -> None:  # noqa: F811
    folder = inputs / "models" / MODEL / "base"
    real = load_transformers(folder, dtype="float32", device="cpu")
    lm = BenchmarkLM(Transformers(real, TWO_THREADS), folder)
    for text in ("def add(a, b):\n    return a + b\n", "Three colors are"):
        context, beams = lm.tok_encode(text), Beams(count, 1.0, False)
        end = lm.eot_token_id
        ask = Search(context, 16, beams, lambda new: new[-1] == end, 1)  # noqa: B023
        written = real.model.generate(
            torch.tensor([context]), max_new_tokens=16, num_beams=count, do_sample=False
        )
        (found,) = find(lm.model, [ask])
        assert found.new == written[0, len(context) :].tolist()


# --- that nothing else decides it ----------------------------------------------------------------


class Watched:
    """A backend that keeps the logits after each text that it forwards, and counts generations."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.seen: dict[tuple[int, ...], bytes] = {}
        self.texts: dict[int, tuple[int, ...]] = {}
        self.states: dict[int, Any] = {}  # so that no id is given twice
        self.forks = self.most = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def _keep(self, state: Any, text: tuple[int, ...], logits: Logits | None = None) -> None:
        self.states[id(state)], self.texts[id(state)] = state, text
        self.most = max(self.most, len(self.states))
        if logits is not None:
            self.seen[text] = logits.tobytes()

    def start(self, planned: PlannedForward, tokens: int) -> tuple[Any, Logits]:
        state, logits = self.backend.start(planned, tokens)
        self._keep(state, tuple(planned.sequences[0]), logits)
        return state, logits

    def step(self, states: Sequence[Any], tokens: Sequence[int]) -> Logits:
        logits = self.backend.step(states, tokens)
        for state, token, row in zip(states, tokens, logits, strict=True):
            self._keep(state, (*self.texts[id(state)], token), row)
        return logits

    def fork(self, state: Any) -> Any:
        forked = self.backend.fork(state)
        self.forks += 1
        self._keep(forked, self.texts[id(state)])
        return forked

    def finish(self, state: Any) -> None:
        self.backend.finish(state)
        del self.states[id(state)]


def logits_alone(backend: Backend, context: Sequence[int], new: Sequence[int]) -> list[bytes]:
    """Logits after the prompt and after each new token, in a generation that is never forked."""
    (part,), plan = plan_prompts([context])
    longest = len(context) + len(new)
    backend.reserve(plan, [longest], 1)
    state, logits = backend.start(part, longest)
    kept = [logits.tobytes()]
    kept += [backend.step([state], [token])[0].tobytes() for token in new]
    backend.finish(state)
    return kept


def assert_forks_change_no_bit(backend: Backend, limit: int) -> None:
    context = prompts()[-1][:70]
    watched = Watched(backend)
    (found,) = find(watched, [Search(context, limit, Beams(10, 1.0, False), never, 0)])
    assert watched.forks > 9
    assert watched.most == 10
    assert watched.states == {}
    assert found.forwarded == len(watched.seen) - 1  # a text is never forwarded twice
    longest = [text for text in watched.seen if len(text) == len(context) + limit - 1]
    assert len(longest) == 10
    for text in longest[:3]:
        alone = logits_alone(backend, context, text[len(context) :])
        assert [watched.seen[text[:n]] for n in range(len(context), len(text) + 1)] == alone


def test_forks_change_no_bit(make: Callable[..., Backend]) -> None:
    backend = make()
    assert backend.rows > 1
    assert_forks_change_no_bit(backend, limit=60)


def test_forks_change_no_bit_where_each_row_runs_alone(make: Callable[..., Backend]) -> None:
    backend = make()
    backend.rows = 1
    assert_forks_change_no_bit(backend, limit=12)


@pytest.mark.parametrize("write_model", [write_mamba, write_long_rope])
def test_forks_change_no_bit_where_a_cache_is_not_shared(
    write_model: Callable[[Path, Path], Path], tiny_model: Path, tmp_path: Path
) -> None:
    with LlamaCpp(write_model(tmp_path / "tiny.gguf", tiny_model), ONE_THREAD) as backend:
        assert not backend.shares
        assert_forks_change_no_bit(backend, limit=8)


def test_a_search_does_not_depend_on_others(make: Callable[..., Backend]) -> None:
    """Every logit is the same alone, after others, in another order and with any budget."""
    beams = Beams(10, 1.0, False)
    searches = [asked(context, beams, 5 + 4 * n) for n, context in enumerate(prompts())]
    together = Watched(make())
    found = find(together, searches)
    alone: dict[tuple[int, ...], bytes] = {}
    for one, expected in zip(searches, found, strict=True):
        watched = Watched(make())
        (again,) = find(watched, [one])
        assert (again.new, again.stopped) == (expected.new, expected.stopped)
        alone |= watched.seen
    assert together.seen == alone
    for budget in (None, 1):
        used = make(budget)
        write(used, prompts()[2], 30)
        shuffled = Watched(used)
        reverse = find(shuffled, searches[::-1])
        assert [one.new for one in reverse[::-1]] == [one.new for one in found]
        assert shuffled.seen == alone


def test_as_many_beams_as_there_may_be(make: Callable[..., Backend]) -> None:
    watched = Watched(make(budget=1))
    (found,) = find(watched, [Search(prompts()[1], 30, Beams(MOST_BEAMS, 1.0, False), never, 0)])
    assert watched.most == MOST_BEAMS
    assert len(found.new) == 30


# --- memory --------------------------------------------------------------------------------------


class Short:
    """A backend that has no memory at some calls."""

    def __init__(self, backend: Backend, fails: Callable[[str, int], bool]) -> None:
        self.backend, self.fails = backend, fails
        self.calls: dict[str, int] = {}
        self.freed = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def _count(self, name: str) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1
        if self.fails(name, self.calls[name]):
            raise OutOfMemory("no memory")

    def reserve(self, plan: Plan, tokens: Sequence[int], at_once: int) -> int:
        self._count("reserve")
        return self.backend.reserve(plan, tokens, at_once)

    def start(self, planned: PlannedForward, tokens: int) -> tuple[Any, Logits]:
        self._count("start")
        return self.backend.start(planned, tokens)

    def step(self, states: Sequence[Any], tokens: Sequence[int]) -> Logits:
        self._count("step")
        return self.backend.step(states, tokens)

    def fork(self, state: Any) -> Any:
        self._count("fork")
        return self.backend.fork(state)

    def free(self) -> None:
        self.freed += 1
        self.backend.free()


@pytest.mark.parametrize("name", ["reserve", "start", "step", "fork"])
def test_a_lack_of_memory_is_survived(make: Callable[..., Backend], name: str) -> None:
    searches = [asked(context, Beams(4, 1.0, False), 8) for context in prompts()[:3]]
    backend = make()
    expected = find(backend, searches)
    fails_at = 1 if name == "reserve" else 3
    short = Short(backend, lambda called, number: (called, number) == (name, fails_at))
    assert find(short, searches) == expected
    assert short.freed == 1
    never_enough = Short(backend, lambda called, number: called == name)
    with pytest.raises(RunEnvironmentError, match="no memory for a single beam search: no memory"):
        find(never_enough, searches)
    assert never_enough.calls[name] == 2


# --- behind the harness's interface --------------------------------------------------------------

TEXTS = ("Which of these is a planet?", "A small model", "def add(first, second):\n", "Größe 東京")


def ask(**settings: Any) -> list[Any]:
    more = {"until": ["no such text"], "max_gen_toks": 16, **settings}
    return requests("generate_until", [(text, dict(more)) for text in TEXTS])


@pytest.mark.parametrize("count", [4, 10])
def test_answers_are_those_of_the_harness(tiny_model: Path, loaded: Loaded, count: int) -> None:
    backend = Transformers(loaded, Settings(64, 1))
    ours = BenchmarkLM(backend, tiny_model)
    settings = {"num_beams": count, "length_penalty": 1.5, "early_stopping": "never"}
    backend.forwarded_tokens = 0
    answers = ours.generate_until(ask(**settings))
    assert answers == harness_lm(tiny_model, 64).generate_until(ask(**settings), disable_tqdm=True)
    assert answers != ours.generate_until(ask(num_beams=1))
    assert ours.unfinished == {("task", number) for number in range(len(TEXTS))}


def test_what_beams_forward_is_counted(tiny_model: Path, loaded: Loaded) -> None:
    backend = Transformers(loaded, Settings(64, 1))
    ours = BenchmarkLM(backend, tiny_model)
    backend.forwarded_tokens = 0
    ours.generate_until(ask(num_beams=4))
    counted = ours.tokens()
    assert counted["forwarded_tokens"] == backend.forwarded_tokens
    assert counted["generated_tokens"] == 16 * len(TEXTS)
    prompt = sum(len(ours.tok_encode(text)) for text in TEXTS)
    assert counted["forwarded_tokens"] == prompt + 15 * 4 * len(TEXTS)
    assert counted["unique_tokens"] == counted["forwarded_tokens"]


class Holds(StoppingCriteria):  # type: ignore[misc]
    """Ends each text that holds a stop string, and no other."""

    def __init__(self, tokenizer: Any, stops: Sequence[str], start: int) -> None:
        self.tokenizer, self.stops, self.start = tokenizer, stops, start

    def __call__(self, ids: torch.Tensor, scores: Any, **more: Any) -> torch.Tensor:
        texts = self.tokenizer.batch_decode(ids[:, self.start :])
        return torch.tensor([any(stop in text for stop in self.stops) for text in texts])


@pytest.mark.parametrize("stops", [["e"], ["a", "o ", "\n", "."]], ids=str)
def test_a_stop_string_ends_the_beam_that_holds_it(
    tiny_model: Path, loaded: Loaded, stops: list[str]
) -> None:
    ours = BenchmarkLM(Transformers(loaded, ONE_THREAD), tiny_model)
    answers = ours.generate_until(ask(num_beams=4, until=stops))
    for text, answer in zip(TEXTS, answers, strict=True):
        context = ours.tok_encode(text)
        holds = Holds(ours.tokenizer, stops, len(context))
        written = loaded.model.generate(
            torch.tensor([context]),
            max_new_tokens=16,
            do_sample=False,
            num_beams=4,
            pad_token_id=2,
            stopping_criteria=StoppingCriteriaList([holds]),
        )[0, len(context) :]
        whole = ours.tokenizer.decode(written, skip_special_tokens=True)
        cuts = [place for stop in stops if (place := whole.find(stop)) >= 0]
        assert answer == (whole[: min(cuts)] if cuts else whole)
    assert len(ours.unfinished) < len(TEXTS)


class Killed(Exception):
    pass


def test_a_killed_search_is_resumed(tiny_model: Path, loaded: Loaded, tmp_path: Path) -> None:
    def lm(done_at_most: int = 99) -> tuple[BenchmarkLM, Watched]:
        def progress(done: int, total: int) -> None:
            if done > done_at_most:
                raise Killed

        watched = Watched(Transformers(loaded, ONE_THREAD))
        journal = Journal(tmp_path / "journal", {})
        return BenchmarkLM(watched, tiny_model, progress, journal), watched

    expected = BenchmarkLM(Transformers(loaded, ONE_THREAD), tiny_model)
    settings = {"num_beams": 4, "until": ["e"]}
    answers = expected.generate_until(ask(**settings))
    with pytest.raises(Killed):
        lm(1)[0].generate_until(ask(**settings))
    for left in (2, 0):
        resumed, watched = lm()
        assert resumed.generate_until(ask(**settings)) == answers
        assert resumed.tokens() == expected.tokens()
        assert resumed.unfinished == expected.unfinished
        assert len(begun(resumed, watched)) == left
    for other in ({"num_beams": 5}, {"length_penalty": 0.0}, {"early_stopping": True}):
        changed, watched = lm()
        changed.generate_until(ask(**settings | other))
        assert len(begun(changed, watched)) == len(TEXTS)


def begun(lm: BenchmarkLM, watched: Watched) -> set[tuple[int, ...]]:
    """Prompts that were forwarded."""
    return watched.seen.keys() & {tuple(lm.tok_encode(text)) for text in TEXTS}


@pytest.mark.parametrize(
    ("settings", "field", "says"),
    [
        ({"num_beams": 4, "do_sample": True, "temperature": 0.7}, "num_beams", "no samples"),
        ({"num_beams": 4, "temperature": 0.7}, "num_beams", "no samples from beams"),
        ({"num_beams": MOST_BEAMS + 1}, "num_beams", f"from 1 to {MOST_BEAMS}"),
        ({"num_beams": 0}, "num_beams", "number of beams"),
        ({"num_beams": "4"}, "num_beams", "number of beams"),
        ({"num_beams": 4, "length_penalty": "long"}, "length_penalty", "not a number"),
        ({"num_beams": 4, "early_stopping": "soon"}, "early_stopping", "true, false or never"),
        ({"num_beams": 4, "num_beam_groups": 2}, "num_beam_groups", "no such generation setting"),
    ],
    ids=str,
)
def test_what_cannot_be_searched_is_refused(
    tiny_model: Path, loaded: Loaded, settings: dict[str, Any], field: str, says: str
) -> None:
    ours = BenchmarkLM(Transformers(loaded, ONE_THREAD), tiny_model)
    with pytest.raises(UserError, match=f"generation_kwargs.{field}: .*{says}") as refusal:
        ours.generate_until(ask(**settings))
    assert f"(got {settings[field]!r})" in str(refusal.value)
    assert "\n" not in str(refusal.value)
