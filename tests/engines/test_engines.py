"""The engines against naive forwards, against themselves in another order, and against lm_eval."""

from __future__ import annotations

import functools
import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from slm_benchmark.common.errors import RunEnvironmentError, UserError
from slm_benchmark.engines.backend import Backend, Logits, OutOfMemory, Scored
from slm_benchmark.engines.decoding import (
    Job,
    Sampling,
    generate,
    make_sampler,
    probabilities,
    rows_are_independent,
)
from slm_benchmark.engines.llamacpp import LlamaCpp
from slm_benchmark.engines.lm import BenchmarkLM
from slm_benchmark.engines.load import load_engine
from slm_benchmark.engines.schedule import CHUNK, LEAVES, TREE, Plan, PlannedForward, plan_document
from slm_benchmark.engines.settings import Settings
from slm_benchmark.engines.transformers import ROWS, Loaded, Transformers, load_transformers
from tests.support.gguf_models import WINDOW as WINDOW_OF_GEMMA
from tests.support.gguf_models import write_gemma2, write_long_rope, write_mamba

Document = tuple[list[int], list[list[int]]]
"""Context and continuations, as token ids."""

VOCABULARY = 370
WINDOW = 512
ONE_THREAD = Settings(max_length=WINDOW, threads=1)
TWO_THREADS = Settings(max_length=WINDOW, threads=2)
FEW = settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only slow so small a model down; what depends on them is asked with two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def two_threads(one_thread: None) -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> Loaded:
    return load_transformers(tiny_model, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def llama(tiny_gguf: Path) -> Iterator[LlamaCpp]:
    with LlamaCpp(tiny_gguf, ONE_THREAD) as backend:
        yield backend


# --- documents, and what they score in one forward each ------------------------------------------


def tokens(draw: random.Random, length: int) -> list[int]:
    return [draw.randrange(3, VOCABULARY) for _ in range(length)]


@st.composite
def tries(draw: st.DrawFn) -> list[Document]:
    """Documents that share prefixes of any length, also within their continuations."""
    generator = random.Random(draw(st.integers(0, 2**32)))
    shared_prefix = tokens(generator, 150)
    found = []
    for _ in range(draw(st.integers(1, 3))):
        shared = draw(st.integers(0, 150))
        own = draw(st.integers(0 if shared else 1, 40))
        lengths = draw(st.lists(st.integers(1, 150), min_size=1, max_size=20))
        branch = tokens(generator, 150)
        continuations = [
            branch[: (size + 1) // 2] + tokens(generator, size // 2) for size in lengths
        ]
        found.append((shared_prefix[:shared] + tokens(generator, own), continuations))
    return found


def example_documents() -> list[Document]:
    """Twelve documents: shared prefixes, many and long choices, one of a single context token."""
    draw = random.Random(4)
    shots = tokens(draw, 200)
    documents: list[Document] = [([7], [tokens(draw, 3), tokens(draw, 1)])]
    for i in range(9):
        context = shots[: 40 * (i % 6)] + tokens(draw, 5 + 13 * i)
        documents.append((context, [tokens(draw, 1 + (5 * i + j) % 17) for j in range(4)]))
    documents.append((shots, [tokens(draw, 2) for _ in range(LEAVES + 9)]))
    documents.append((shots[:130], [tokens(draw, 150), tokens(draw, 80)]))
    return documents


def score_naively(model: Any, context: Sequence[int], continuation: Sequence[int]) -> Scored:
    """One forward over all tokens, without a cache."""
    with torch.inference_mode():
        logits = model(torch.tensor([[*context, *continuation]])).logits[0].double()
    return read_score(logits.log_softmax(-1).numpy(), len(context), continuation)


def read_score(table: Any, start: int, continuation: Sequence[int]) -> Scored:
    """The score of a continuation that begins at ``start``, from log-probabilities of all rows."""
    rows = table[start - 1 : start - 1 + len(continuation)]
    total = sum(row[token] for row, token in zip(rows, continuation, strict=True))
    return float(total), [int(row.argmax()) for row in rows] == list(continuation)


def score_all(backend: Backend, documents: Sequence[Document]) -> list[list[Scored]]:
    found = []
    for context, continuations in documents:
        scores: dict[int, Scored] = {}
        for part, indices in plan_document([(context, c) for c in continuations]):
            scores |= dict(zip(indices, backend.score(part), strict=True))
        found.append([scores[index] for index in range(len(continuations))])
    return found


def greedy(context: Sequence[int], limit: int, end: Callable[[Sequence[int]], bool]) -> Job:
    return Job(context, limit, make_sampler(None, []), end)


def never(new: Sequence[int]) -> bool:
    return False


def write_all(backend: Backend, prompts: Sequence[tuple[list[int], int]]) -> list[list[int]]:
    """The top-1 tokens after each prompt, as many as asked for, all in one go."""
    jobs = [functools.partial(greedy, context, limit, never) for context, limit in prompts]
    new = {one.index: one.new for one in generate(backend, jobs) if not one.stopped}
    return [new[index] for index in range(len(prompts))]


def write(backend: Backend, context: list[int], limit: int) -> list[int]:
    return write_all(backend, [(context, limit)])[0]


def assert_independent(make: Callable[[], Backend]) -> None:
    """Bit-identical alone, in a subset, shuffled, and after other documents and generations."""
    documents = example_documents()
    together = score_all(make(), documents)
    assert [score_all(make(), [document])[0] for document in documents] == together
    assert score_all(make(), documents[1::3]) == together[1::3]
    order = list(range(len(documents)))
    for seed in (1, 2):
        random.Random(seed).shuffle(order)
        shuffled = score_all(make(), [documents[i] for i in order])
        assert shuffled == [together[i] for i in order]

    other = random.Random(9)
    used = make()
    first = write(used, documents[5][0], 12)
    score_all(used, [(tokens(other, 300), [tokens(other, 40) for _ in range(3)])])
    write(used, documents[4][0][:70] + tokens(other, 20), 30)
    assert score_all(used, documents) == together
    assert write(used, documents[5][0], 12) == first
    assert len(first) == 12


class Watched:
    """A backend that keeps the logits of each generated token."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.seen: dict[int, list[bytes]] = {}
        self.states: dict[int, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def start(self, planned: PlannedForward, tokens: int) -> tuple[Any, Logits]:
        state, logits = self.backend.start(planned, tokens)
        # The prompt names the generation.
        self.states[id(state)] = hash(tuple(planned.sequences[0]))
        self.seen[self.states[id(state)]] = [logits.tobytes()]
        return state, logits

    def step(self, states: Sequence[Any], tokens: Sequence[int]) -> Logits:
        logits = self.backend.step(states, tokens)
        for state, row in zip(states, logits, strict=True):
            self.seen[self.states[id(state)]].append(row.tobytes())
        return logits


def assert_generations_are_independent(make: Callable[[int | None], Backend]) -> None:
    """Every logit is bit-identical alone and in a batch, shuffled, and with any memory budget."""
    draw = random.Random(8)
    shots = tokens(draw, 140)
    prompts = [
        (shots[: 30 * (i % 5)] + tokens(draw, 3 + 11 * i % 70), 4 + 7 * i % 40) for i in range(22)
    ]
    batched = Watched(make(None))
    assert batched.rows > 1
    texts = write_all(batched, prompts)
    assert [len(text) for text in texts] == [limit for _, limit in prompts]
    assert len(set(map(tuple, texts))) > 10
    one = make(None)
    for prompt in prompts[::3]:
        alone = Watched(one)
        assert write(alone, *prompt) == texts[prompts.index(prompt)]
        ((name, logits),) = alone.seen.items()
        assert logits == batched.seen[name]
    for seed, budget in ((1, None), (2, 1), (3, 100_000)):
        order = list(range(len(prompts)))
        random.Random(seed).shuffle(order)
        shuffled = Watched(make(budget))
        assert write_all(shuffled, [prompts[i] for i in order]) == [texts[i] for i in order]
        assert shuffled.seen == batched.seen


class Short:
    """A backend that has no memory at some calls, as a machine does whose memory others take."""

    def __init__(self, backend: Backend, fails: Callable[[str, int], bool]) -> None:
        self.backend, self.fails = backend, fails
        self.calls = dict.fromkeys(("score", "reserve", "start", "step"), 0)
        self.freed = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def _count(self, name: str) -> None:
        self.calls[name] += 1
        if self.fails(name, self.calls[name]):
            raise OutOfMemory("no memory")

    def score(self, planned: PlannedForward) -> list[Scored]:
        self._count("score")
        return self.backend.score(planned)

    def reserve(self, plan: Plan, tokens: Sequence[int], at_once: int) -> int:
        self._count("reserve")
        return self.backend.reserve(plan, tokens, at_once)

    def start(self, planned: PlannedForward, tokens: int) -> tuple[Any, Logits]:
        self._count("start")
        return self.backend.start(planned, tokens)

    def step(self, states: Sequence[Any], tokens: Sequence[int]) -> Logits:
        self._count("step")
        return self.backend.step(states, tokens)

    def free(self) -> None:
        self.freed += 1
        self.backend.free()


def assert_survives_a_lack_of_memory(backend: Backend, folder: Path) -> None:
    """What fails is done again with less beside it, and gives the same numbers."""
    pairs = [(context, continuation) for context, continuation in PAIRS if len(continuation) < 40]
    asked = requests("loglikelihood", pairs)
    settings = {"until": [], "max_gen_toks": 9}
    written = requests("generate_until", [(context, settings) for context, _ in pairs if context])
    plain = BenchmarkLM(backend, folder)
    expected = plain.loglikelihood(asked), plain.generate_until(written)

    short = Short(backend, lambda name, call: call == (1 if name == "reserve" else 3))
    ours = BenchmarkLM(short, folder)
    assert (ours.loglikelihood(asked), ours.generate_until(written)) == expected
    assert short.freed >= 3

    kinds = (("score", asked), ("reserve", written), ("start", written), ("step", written))
    for kind, question in kinds:
        never_enough = Short(backend, lambda name, call, kind=kind: name == kind)  # type: ignore[misc]
        ours = BenchmarkLM(never_enough, folder)
        with pytest.raises(RunEnvironmentError, match="no memory for a"):
            getattr(ours, "loglikelihood" if kind == "score" else "generate_until")(question)


def assert_greedy_flags(backend: Backend) -> None:
    """Only the continuation that the model would write is greedy."""
    context = example_documents()[3][0]
    likely = write(backend, context, 6)
    changed = [*likely[:-1], (likely[-1] + 1) % VOCABULARY]
    (((best, is_best), (worse, is_worse), (_, is_start)),) = score_all(
        backend, [(context, [likely, changed, likely[:1]])]
    )
    assert (is_best, is_worse, is_start) == (True, False, True)
    assert best > worse


# --- Transformers ------------------------------------------------------------------------------


@FEW
@given(tries())
def test_transformers_scores_as_a_naive_forward(loaded: Loaded, documents: list[Document]) -> None:
    backend = Transformers(loaded, ONE_THREAD)
    assert backend.shares
    for (context, continuations), scores in zip(
        documents, score_all(backend, documents), strict=True
    ):
        assert len(scores) == len(continuations)
        for continuation, (found, greedy) in zip(continuations, scores, strict=True):
            expected, expected_greedy = score_naively(loaded.model, context, continuation)
            assert found == pytest.approx(expected, abs=1e-4)
            assert greedy == expected_greedy


@pytest.mark.usefixtures("two_threads")
def test_transformers_does_not_depend_on_the_batch(loaded: Loaded) -> None:
    assert_independent(lambda: Transformers(loaded, ONE_THREAD))
    assert_generations_are_independent(
        lambda budget: Transformers(loaded, Settings(WINDOW, 2, memory_budget_bytes=budget))
    )


@pytest.mark.usefixtures("two_threads")
def test_transformers_does_not_depend_on_the_batch_in_bfloat16(tiny_model: Path) -> None:
    half = load_transformers(tiny_model, dtype="bfloat16", device="cpu")
    assert half.dtype == "bfloat16"
    assert_independent(lambda: Transformers(half, ONE_THREAD))
    assert_generations_are_independent(
        lambda budget: Transformers(half, Settings(WINDOW, 2, memory_budget_bytes=budget))
    )


def test_the_check_of_rows_sees_a_row_that_depends_on_its_place(loaded: Loaded) -> None:
    backend = Transformers(loaded, ONE_THREAD)
    assert backend.rows == ROWS
    assert rows_are_independent(backend)

    class Placed(Watched):
        def step(self, states: Sequence[Any], tokens: Sequence[int]) -> Logits:
            logits = self.backend.step(states, tokens).copy()
            logits[5:6] += np.float32(1e-5)
            return logits

    assert not rows_are_independent(Placed(backend))


def test_transformers_survives_a_lack_of_memory(loaded: Loaded, tiny_model: Path) -> None:
    assert_survives_a_lack_of_memory(Transformers(loaded, ONE_THREAD), tiny_model)


def test_transformers_flags(loaded: Loaded) -> None:
    assert_greedy_flags(Transformers(loaded, ONE_THREAD))


@pytest.mark.parametrize("length", [1, 2, CHUNK, CHUNK + 1, 150])
def test_transformers_generates_as_the_library_does(loaded: Loaded, length: int) -> None:
    context = tokens(random.Random(length), length)
    expected = loaded.model.generate(
        torch.tensor([context]),
        max_new_tokens=24,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[0, length:].tolist()
    backend = Transformers(loaded, ONE_THREAD)
    assert write(backend, context, 24) == expected
    (one,) = generate(backend, [lambda: greedy(context, 24, lambda new: len(new) == 5)])
    assert (one.new, one.stopped) == (expected[:5], True)


def uncuttable(kind: str) -> Any:
    """A tiny model whose cache can be neither cut nor copied."""
    import transformers as t

    common = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2}
    attention = {
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 16,
        "initializer_range": 0.2,
    }
    config = {
        "mamba": lambda: t.MambaConfig(**common, state_size=8, initializer_range=0.2),
        "mistral": lambda: t.MistralConfig(**common, **attention),
        "gemma2": lambda: t.Gemma2Config(**common, **attention, query_pre_attn_scalar=8),
        "gpt_neo": lambda: t.GPTNeoConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            window_size=16,
            initializer_range=0.2,
        ),
        "dynamic": lambda: t.LlamaConfig(
            **common,
            intermediate_size=64,
            num_attention_heads=4,
            max_position_embeddings=WINDOW,
            rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
            initializer_range=0.2,
        ),
    }[kind]()
    state = torch.get_rng_state()
    torch.manual_seed(1)
    model = t.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    torch.set_rng_state(state)
    return model


@pytest.mark.parametrize("kind", ["mamba", "mistral", "gemma2", "gpt_neo", "dynamic"])
def test_models_without_a_sharable_cache_take_the_slow_way(kind: str) -> None:
    model = uncuttable(kind)
    backend = Transformers(Loaded(model, "Linear", "float32"), ONE_THREAD)
    assert not backend.shares
    assert backend.schedule == (
        "each continuation alone, without a cache; generation alone, with the model's own cache"
    )
    assert backend.rows == 1
    draw = random.Random(3)
    shared = tokens(draw, 50)  # three windows long
    documents = [
        (shared[: 20 * i] + tokens(draw, 5), [tokens(draw, n) for n in (1, 9, 30)])
        for i in range(3)
    ]
    for (context, continuations), scores in zip(
        documents, score_all(backend, documents), strict=True
    ):
        for continuation, (found, greedy) in zip(continuations, scores, strict=True):
            expected, expected_greedy = score_naively(model, context, continuation)
            assert found == pytest.approx(expected, abs=1e-4)
            assert greedy == expected_greedy
    assert_greedy_flags(backend)
    expected = model.generate(
        torch.tensor([shared]),
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[0, len(shared) :].tolist()
    assert write_all(backend, [(shared, 8), (shared[:9], 3)])[0] == expected


# --- llama.cpp ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def naive_llama(tiny_gguf: Path) -> Callable[[Sequence[int]], Any]:
    return naive_decoder(tiny_gguf)


def naive_decoder(file: Path) -> Callable[[Sequence[int]], Any]:
    """Log-probabilities of one sequence decoded at once, shape (tokens, vocabulary)."""
    from llama_cpp import Llama

    model = Llama(
        str(file),
        n_ctx=4096,
        n_batch=4096,
        n_ubatch=4096,
        flash_attn=True,
        logits_all=True,
        verbose=False,
    )

    def forward(sequence: Sequence[int]) -> Any:
        model.reset()
        model.eval(list(sequence))
        logits = np.array(model.scores[: len(sequence)], dtype=np.float64)
        top = logits.max(axis=1, keepdims=True)
        return logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))

    return forward


NATS_PER_TOKEN = 0.1
"""llama.cpp is not batch-invariant: it sums in another order for another shape of the batch, in
float16 within attention, and rounding activations to 8 bits can make a step of that. The logits of
so wide a model lie nats apart where it sees other tokens."""


def assert_close_to_naive(
    forward: Callable[[Sequence[int]], Any],
    context: Sequence[int],
    continuations: Sequence[Sequence[int]],
    scores: Sequence[Scored],
) -> None:
    for continuation, (found, _) in zip(continuations, scores, strict=True):
        expected, _ = read_score(forward([*context, *continuation]), len(context), continuation)
        assert found == pytest.approx(expected, abs=NATS_PER_TOKEN * len(continuation))


@FEW
@given(tries())
def test_llama_cpp_scores_as_a_naive_decode(
    llama: LlamaCpp,
    naive_llama: Callable[[Sequence[int]], Any],
    documents: list[Document],
) -> None:
    for (context, continuations), scores in zip(
        documents, score_all(llama, documents), strict=True
    ):
        assert len(scores) == len(continuations)
        assert_close_to_naive(naive_llama, context, continuations[:6], scores[:6])


def test_llama_cpp_does_not_depend_on_the_batch(tiny_gguf: Path) -> None:
    opened: list[LlamaCpp] = []

    def make(budget: int | None = None) -> LlamaCpp:
        opened.append(LlamaCpp(tiny_gguf, Settings(WINDOW, 2, memory_budget_bytes=budget)))
        return opened[-1]

    try:
        assert_independent(make)
        assert_generations_are_independent(make)
    finally:
        for backend in opened:
            backend.close()


def test_llama_cpp_survives_a_lack_of_memory(llama: LlamaCpp, tiny_model: Path) -> None:
    assert_survives_a_lack_of_memory(llama, tiny_model)


def test_llama_cpp_flags(llama: LlamaCpp) -> None:
    assert_greedy_flags(llama)


def test_llama_cpp_scores_what_is_longer_than_one_decode(
    tiny_gguf: Path, naive_llama: Callable[[Sequence[int]], Any]
) -> None:
    draw = random.Random(6)
    context = tokens(draw, 90)
    long = tokens(draw, 2 * TREE + 200)
    continuations = [tokens(draw, 2), long, *(tokens(draw, 130) for _ in range(20))]
    with LlamaCpp(tiny_gguf, Settings(2 * TREE + 400, 2)) as backend:
        (scores,) = score_all(backend, [(context, continuations)])
        ((again,), (first,)) = score_all(backend, [(context, [long]), (context, continuations[:1])])
    assert_close_to_naive(naive_llama, context, continuations[:4], scores[:4])
    assert again == scores[1]  # a part of its own in both
    assert first[0] == pytest.approx(scores[0][0], abs=2 * NATS_PER_TOKEN)


def test_llama_cpp_generates_as_a_naive_decode(
    llama: LlamaCpp, naive_llama: Callable[[Sequence[int]], Any]
) -> None:
    for length in (1, CHUNK, 150):
        context = tokens(random.Random(length), length)
        new = write(llama, context, 20)
        rows = naive_llama([*context, *new])[length - 1 : -1]
        for row, token in zip(rows, new, strict=True):
            assert row[token] >= row.max() - 2 * NATS_PER_TOKEN


@pytest.mark.parametrize(
    ("write_model", "shares"),
    [(write_mamba, False), (write_gemma2, True), (write_long_rope, False)],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_llama_cpp_scores_recurrent_and_sliding_window_models(
    write_model: Callable[[Path, Path], Path], shares: bool, tiny_model: Path, tmp_path: Path
) -> None:
    """A recurrent state cannot be cut back; a sliding window keeps what is needed again."""
    file = write_model(tmp_path / "tiny.gguf", tiny_model)
    forward = naive_decoder(file)
    documents = [(c, t) for c, t in example_documents() if len(c) < 150][:8]
    assert max(len(context) for context, _ in documents) > 3 * WINDOW_OF_GEMMA
    with LlamaCpp(file, ONE_THREAD) as backend:
        assert backend.shares == shares
        assert ("alone" in backend.schedule) != shares
        for (context, continuations), scores in zip(
            documents, score_all(backend, documents), strict=True
        ):
            assert_close_to_naive(forward, context, continuations, scores)
        assert_greedy_flags(backend)
        context = documents[-1][0]
        rows = forward([*context, *(new := write(backend, context, 12))])[len(context) - 1 : -1]
        for row, token in zip(rows, new, strict=True):
            assert row[token] >= row.max() - 2 * NATS_PER_TOKEN
        together = write_all(backend, [(c, 7) for c, _ in documents])
        assert together == [write(backend, c, 7) for c, _ in documents]


@pytest.mark.parametrize("keep", [0, 3, 1000, 0.5, 0.99])
def test_a_damaged_gguf_is_one_clear_error(tiny_gguf: Path, tmp_path: Path, keep: float) -> None:
    whole = tiny_gguf.read_bytes()
    file = tmp_path / "cut.gguf"
    file.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(UserError) as refusal:
        LlamaCpp(file, ONE_THREAD)
    assert str(refusal.value).startswith(f"{file}: llama.cpp cannot load this file")
    assert "Fix: " in str(refusal.value)
    assert "\n" not in str(refusal.value)


# --- behind the harness's interface --------------------------------------------------------------

SHORT_WINDOW = 64
LONG = " ".join(f"The fox jumps over {i} dogs." for i in range(30))
BOS = "<|im_start|>"
PAIRS = [
    ("Which of these is a planet?", " Mars"),
    ("Which of these is a planet?", " the Moon"),
    ("Which of these is a planet? ", "Mars"),
    ("Which of these is a planet?  \n", "  Mars "),
    ("Answer:", "Mars"),
    ("", "Mars, of course"),
    ("", " "),
    ("", f"{BOS}user"),
    (f"{BOS}user\nWhich planet?", " Mars"),
    (f"{BOS}user\nWhich planet?<|im_end|>\n{BOS}assistant\n", "Mars<|im_end|>"),
    ("Größe, naïveté, 東京, 🦙", " é"),
    ("東京", "東京"),
    ("🦙", "🦙"),
    ("e", "\u0301 combining"),
    ("مرحبا\u202e", " עולם"),
    ("def add(first, second):\n    return", " first + second\n"),
    ("12", "345"),
    (LONG, " 31 dogs."),
    (LONG + " ", "A small model"),
    ("A short text", " " + LONG[:120]),
]


def requests(kind: str, arguments: Sequence[tuple[Any, ...]]) -> list[Instance]:
    """One document for each pair."""
    return [
        Instance(request_type=kind, doc={}, arguments=a, idx=0, metadata=("task", i, 1))
        for i, a in enumerate(arguments)
    ]


class Recorder:
    """A backend that keeps what it is asked and writes a fixed answer."""

    rows = 1
    shares = shares_prompts = True
    forwarded_tokens = 0
    chunk = CHUNK
    vocabulary = VOCABULARY + 30
    schedule = "recorded"
    effective: Mapping[str, Any] = {}

    def __init__(self, max_length: int, answer: Sequence[int] = ()) -> None:
        self.max_length = max_length
        self.answer = list(answer)
        self.scored: list[list[tuple[int, ...]]] = []
        self.choices: list[int] = []
        self.generated: list[list[int]] = []

    def prepare(self, plan: Plan) -> None: ...

    def score(self, planned: PlannedForward) -> list[Scored]:
        self.scored.append([tuple(sequence) for sequence in planned.sequences])
        self.choices.append(len(planned.targets))
        return [(-1.0, False)] * len(planned.targets)

    def reserve(self, plan: Plan, tokens: Sequence[int], at_once: int) -> int:
        return max(tokens)

    def start(self, planned: PlannedForward, tokens: int) -> tuple[Any, Logits]:
        self.generated.append(planned.sequences[0])
        self.written = 0
        return None, self._next()

    def step(self, states: Sequence[Any], tokens: Sequence[int]) -> Logits:
        return self._next()[None]

    def fork(self, state: Any) -> Any: ...

    def _next(self) -> Logits:
        logits = np.zeros(VOCABULARY + 30, dtype=np.float32)
        # After its answer it writes end tokens.
        logits[self.answer[self.written] if self.written < len(self.answer) else 2] = 9.0
        self.written += 1
        return logits

    def finish(self, state: Any) -> None: ...

    def free(self) -> None: ...

    def close(self) -> None: ...


@functools.cache
def harness_lm(folder: Path, max_length: int) -> HFLM:
    return HFLM(str(folder), dtype="float32", device="cpu", max_length=max_length, batch_size=1)


def forwarded(lm: HFLM, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Filled with the tokens of each forward of the harness's own backend."""
    seen: list[tuple[int, ...]] = []
    call = lm._model_call

    def record(inputs: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        seen.append(tuple(inputs[0].tolist()))
        return call(inputs, **kwargs)

    monkeypatch.setattr(lm, "_model_call", record)
    return seen


@pytest.mark.parametrize("max_length", [SHORT_WINDOW, 256])
def test_pairs_are_encoded_and_cut_as_the_harness_does(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, max_length: int
) -> None:
    theirs = harness_lm(tiny_model, max_length)
    recorder = Recorder(max_length)
    ours = BenchmarkLM(recorder, tiny_model)
    assert (ours.max_length, ours.prefix_token_id, ours.eot_token_id) == (
        theirs.max_length,
        theirs.prefix_token_id,
        theirs.eot_token_id,
    )
    for text in {part for pair in PAIRS for part in pair}:
        assert ours.tok_encode(text) == theirs.tok_encode(text)
        for special in (True, False):
            assert ours.tok_encode(text, add_special_tokens=special) == theirs.tok_encode(
                text, add_special_tokens=special
            )
    seen = forwarded(theirs, monkeypatch)
    for pair in PAIRS:
        if pair[0]:
            assert ours._encode_pair(*pair) == theirs._encode_pair(*pair)
        del seen[:], recorder.scored[:]
        theirs.loglikelihood(requests("loglikelihood", [pair]), disable_tqdm=True)
        ours.loglikelihood(requests("loglikelihood", [pair]))
        ((sequence,),) = recorder.scored
        assert seen == [sequence], pair


@pytest.mark.parametrize("max_length", [SHORT_WINDOW, 256])
def test_likelihoods_are_those_of_the_harness(
    tiny_model: Path, loaded: Loaded, max_length: int
) -> None:
    theirs = harness_lm(tiny_model, max_length)
    done: list[tuple[int, int]] = []
    backend = Transformers(loaded, Settings(max_length, 1))
    ours = BenchmarkLM(backend, tiny_model, lambda *progress: done.append(progress))
    asked = requests("loglikelihood", PAIRS)
    for (expected, expected_greedy), (found, greedy) in zip(
        theirs.loglikelihood(asked, disable_tqdm=True), ours.loglikelihood(asked), strict=True
    ):
        assert found == pytest.approx(expected, abs=1e-3)
        assert greedy == expected_greedy
    assert done == [(i + 1, len(PAIRS)) for i in range(len(PAIRS))]
    cut = [i for i, pair in enumerate(PAIRS) if sum(map(len, ours.encode(*pair))) - 1 > max_length]
    assert ours.truncated == {("task", i) for i in cut}
    assert cut
    counted = ours.tokens()
    assert counted["forwarded_tokens"] == backend.forwarded_tokens
    assert counted["unique_tokens"] <= counted["forwarded_tokens"]


def test_the_choices_of_a_document_share_its_context(tiny_model: Path) -> None:
    recorder = Recorder(256)
    ours = BenchmarkLM(recorder, tiny_model)
    asked = [
        Instance(
            request_type="loglikelihood",
            doc={},
            arguments=(context, f" {choice}"),
            idx=idx,
            metadata=("task", document, 1),
        )
        for document, context in enumerate(["Which planet?", "A small model"])
        for idx, choice in enumerate(["Mars", "the Moon", "first"])
    ]
    assert ours.loglikelihood(asked) == [(-1.0, False)] * 6
    assert recorder.choices == [3, 3]


def test_requests_without_a_document_are_not_taken_for_one(tiny_model: Path) -> None:
    recorder = Recorder(256)
    asked = [Instance("loglikelihood", {}, ("Which planet?", f" {i}"), 0) for i in range(5)]
    BenchmarkLM(recorder, tiny_model).loglikelihood(asked)
    assert recorder.choices == [1] * 5


def test_rolling_likelihoods_are_those_of_the_harness(tiny_model: Path, loaded: Loaded) -> None:
    theirs = harness_lm(tiny_model, SHORT_WINDOW)
    ours = BenchmarkLM(Transformers(loaded, Settings(SHORT_WINDOW, 1)), tiny_model)
    texts = ["Mars", " Mars ", "東京 🦙", f"{BOS}user", LONG, LONG[:200], ""]
    asked = requests("loglikelihood_rolling", [(text,) for text in texts])
    expected = theirs.loglikelihood_rolling(asked, disable_tqdm=True)
    assert ours.loglikelihood_rolling(asked) == pytest.approx(expected, abs=1e-3)
    assert len(ours.tok_encode(LONG)) > 3 * SHORT_WINDOW


SETTINGS: list[dict[str, Any]] = [
    {"until": [], "max_gen_toks": 24},
    {"until": ["e"], "max_gen_toks": 24},
    {"until": ["a", "o ", "\n", "."], "max_gen_toks": 24},
    {"until": "<|endoftext|>", "max_gen_toks": 24, "do_sample": False, "temperature": 0.0},
    {"until": ["e"], "max_gen_toks": 1},
    {"until": ["no such text"], "max_new_tokens": 7},
]


@pytest.mark.parametrize("chosen", SETTINGS, ids=str)
def test_generations_are_those_of_the_harness(
    tiny_model: Path, loaded: Loaded, chosen: dict[str, Any]
) -> None:
    theirs = harness_lm(tiny_model, SHORT_WINDOW)
    ours = BenchmarkLM(Transformers(loaded, Settings(SHORT_WINDOW, 1)), tiny_model)
    contexts = [context for context, _ in PAIRS if context]
    asked = requests("generate_until", [(context, dict(chosen)) for context in contexts])
    expected = theirs.generate_until(asked, disable_tqdm=True)
    found = ours.generate_until(asked)
    assert found == expected
    assert len(set(found)) > 4


def test_a_stop_that_is_a_special_token_ends_the_answer(tiny_model: Path) -> None:
    """It has no text once special tokens are left out, so it must be seen before."""
    backend = Recorder(256)
    ours = BenchmarkLM(backend, tiny_model)
    before, after = ours.tok_encode("A small"), ours.tok_encode(" model")
    end = ours.tok_encode("<|endoftext|>")
    assert len(end) == 1
    backend.answer = [*before, *end, *after]
    (text,) = ours.generate_until(
        requests("generate_until", [("Say", {"until": ["<|endoftext|>"], "max_gen_toks": 50})])
    )
    assert text == "A small"
    (text,) = ours.generate_until(
        requests("generate_until", [("Say", {"until": ["zzz"], "max_gen_toks": 50})])
    )
    assert text == "A small model"


def test_an_end_token_of_the_model_ends_the_answer(tiny_model: Path, tmp_path: Path) -> None:
    """generation_config.json may name more than the tokenizer; config.json stands in for it."""
    for present in (True, False):
        folder = tmp_path / str(present)
        shutil.copytree(tiny_model, folder)
        source = folder / ("generation_config.json" if present else "config.json")
        if not present:
            (folder / "generation_config.json").unlink()
        changed = json.loads(source.read_text()) | {"eos_token_id": [2, 50]}
        source.write_text(json.dumps(changed))
        backend = Recorder(256, [10, 11, 50, 12])
        ours = BenchmarkLM(backend, folder)
        asked = requests("generate_until", [("Say", {"until": [], "max_gen_toks": 50})])
        assert ours.generate_until(asked) == [ours.tokenizer.decode([10, 11, 50])]


def test_a_long_prompt_is_cut_from_the_left(tiny_model: Path) -> None:
    backend = Recorder(SHORT_WINDOW)
    ours = BenchmarkLM(backend, tiny_model)
    asked = requests("generate_until", [(LONG, {"until": [], "max_gen_toks": 20})])
    ours.generate_until(asked)
    assert backend.generated == [ours.tok_encode(LONG)[-(SHORT_WINDOW - 20) :]]


@pytest.mark.parametrize("limit", [SHORT_WINDOW, SHORT_WINDOW + 1])
def test_an_answer_that_leaves_no_room_for_its_prompt_is_an_error(
    tiny_model: Path, limit: int
) -> None:
    ours = BenchmarkLM(Recorder(SHORT_WINDOW), tiny_model)
    asked = requests("generate_until", [(LONG, {"until": [], "max_gen_toks": limit})])
    with pytest.raises(ValueError, match=f"{limit} .*{SHORT_WINDOW}"):
        ours.generate_until(asked)
    with pytest.raises(AssertionError):
        harness_lm(tiny_model, SHORT_WINDOW).generate_until(asked, disable_tqdm=True)


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        (("", ""), "no tokens"),
        (("Mars", ""), "no tokens"),
        (("", BOS), "no tokens"),
        (("  ", "Mars"), None),
        (("Mars", " " + LONG), "tokens"),
    ],
)
def test_what_cannot_be_scored_is_an_error_as_in_the_harness(
    tiny_model: Path, pair: tuple[str, str], says: str | None
) -> None:
    asked = requests("loglikelihood", [pair])
    with pytest.raises((AssertionError, IndexError)):
        harness_lm(tiny_model, SHORT_WINDOW).loglikelihood(asked, disable_tqdm=True)
    ours = BenchmarkLM(Recorder(SHORT_WINDOW), tiny_model)
    with pytest.raises(ValueError, match=says or "no tokens"):
        ours.loglikelihood(asked)


@pytest.mark.parametrize(
    ("setting", "value"), [("num_beam_groups", 2), ("repetition_penalty", 1.2), ("best_of", 2)]
)
def test_a_generation_setting_that_no_engine_has_is_refused(
    tiny_model: Path, setting: str, value: Any
) -> None:
    ours = BenchmarkLM(Recorder(256), tiny_model)
    asked = [("Say", {"until": [], "max_gen_toks": 9, setting: value})]
    with pytest.raises(UserError, match=rf"generation_kwargs.{setting}: .*got {value}"):
        ours.generate_until(requests("generate_until", asked))


def test_a_single_beam_is_what_the_engines_have(tiny_model: Path) -> None:
    ours = BenchmarkLM(Recorder(256, [9]), tiny_model)
    settings = {"until": [], "max_gen_toks": 3, "num_beams": 1}
    assert ours.generate_until(requests("generate_until", [("Say", settings)]))[0]


def test_samples_follow_from_the_seed_alone(tiny_model: Path, loaded: Loaded) -> None:
    """The same in any batch and order; another with another seed, and for each repeat."""
    settings = {"until": [], "do_sample": True, "temperature": 1.0, "max_gen_toks": 12}
    contexts = {context for context, _ in PAIRS if context}
    asked = requests("generate_until", [(context, settings) for context in sorted(contexts)])

    def sample(seed: int, asked: Sequence[Instance]) -> list[str]:
        backend = Transformers(loaded, ONE_THREAD)
        return BenchmarkLM(backend, tiny_model, seed=seed).generate_until(list(asked))

    found = sample(1, asked)
    assert sample(1, asked) == found
    assert sample(1, asked[::-1])[::-1] == found
    assert [sample(1, [request])[0] for request in asked[:4]] == found[:4]
    assert sample(2, asked) != found
    first, second, third = sample(1, [asked[0]] * 3)
    assert first == found[0]
    assert len({first, second, third}) == 3


def test_draws_have_the_frequencies_of_their_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.2, 0.2, 0.08, 0.02], dtype=np.float32))
    assert probabilities(logits, Sampling(1.0, 0, 1.0)) == pytest.approx(
        [0.5, 0.2, 0.2, 0.08, 0.02], abs=1e-6
    )
    assert probabilities(logits, Sampling(1.0, 1, 1.0)) == pytest.approx([1, 0, 0, 0, 0])
    assert probabilities(logits, Sampling(1.0, 0, 0.65)) == pytest.approx([5 / 7, 2 / 7, 0, 0, 0])
    assert probabilities(logits, Sampling(0.5, 2, 1.0))[3:] == pytest.approx([0, 0])
    cold = probabilities(logits, Sampling(0.5, 0, 1.0))
    assert cold[0] / cold[1] == pytest.approx(2.5**2, rel=1e-5)
    draw = make_sampler(Sampling(1.0, 0, 1.0), [4, 2])
    counts = np.bincount([draw(logits) for _ in range(4000)], minlength=5) / 4000
    assert counts == pytest.approx([0.5, 0.2, 0.2, 0.08, 0.02], abs=0.03)


@pytest.mark.parametrize("prompt", [True, False])
def test_chat_templates_are_applied_as_the_harness_does(tiny_model: Path, prompt: bool) -> None:
    ours = BenchmarkLM(Recorder(256), tiny_model)
    theirs = harness_lm(tiny_model, 256)
    history = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Which planet?"},
        {"role": "assistant", "content": "Mars"},
    ]
    found = ours.apply_chat_template(history, add_generation_prompt=prompt)
    assert found == theirs.apply_chat_template(history, add_generation_prompt=prompt)
    assert found.startswith(f"{BOS}system\nBe brief.")
    assert ours.chat_template(True) == theirs.chat_template(True)


def test_a_template_that_refuses_a_system_message_gets_none(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "refusing"))
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    )
    ours, theirs = BenchmarkLM(Recorder(256), folder), harness_lm(folder, 256)
    history = [{"role": role, "content": role.upper()} for role in ("system", "user")]
    assert ours.apply_chat_template(history) == "user: USER\n"
    assert ours.apply_chat_template(history) == theirs.apply_chat_template(history)


# --- the whole engine ---------------------------------------------------------------------------


def test_both_engines_agree_on_the_same_requests(
    tiny_model: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    """Same tokens from the base tokenizer; only the weights are rounded to Q4_1."""
    folder = tmp_path / "gguf"
    folder.mkdir()
    (folder / tiny_gguf.name).symlink_to(tiny_gguf)
    settings = Settings(256, 2, dtype="float32")
    base = load_engine("transformers", tiny_model, tiny_model, settings)
    gguf = load_engine("llama.cpp", folder, tiny_model, settings)
    for engine, name in ((base, "transformers"), (gguf, "llama.cpp")):
        assert engine.identity["name"] == name
        assert engine.identity["threads"] == 2
        assert engine.identity["kernel"]
        assert str(CHUNK) in engine.identity["schedule"]
    asked = requests("loglikelihood", PAIRS)
    found = np.array([score for score, _ in base.lm.loglikelihood(asked)])
    other = np.array([score for score, _ in gguf.lm.loglikelihood(asked)])
    lengths = np.array([len(base.lm.tok_encode(continuation)) for _, continuation in PAIRS])
    assert np.corrcoef(found / lengths, other / lengths)[0, 1] > 0.9
    asked = requests("generate_until", [("Which planet?", {"until": [], "max_gen_toks": 5})])
    assert gguf.lm.generate_until(asked)[0]
