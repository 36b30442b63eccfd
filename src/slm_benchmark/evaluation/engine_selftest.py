"""``slm-benchmark check-engine``: a self-test of the engines on any model, without a dataset.

The engines share prefixes, batch and reuse caches. This module scores the same texts in the
plainest way there is, one forward over the whole sequence from nothing, and looks at what the
engines promise: bitwise identical numbers for any batch composition.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from slm_benchmark.catalog.catalog import VARIANTS
from slm_benchmark.catalog.model_cards import load_registry
from slm_benchmark.common.errors import RunEnvironmentError, UserError, suggestion
from slm_benchmark.common.paths import MODELS, ROOT, relative
from slm_benchmark.download.context import window_of
from slm_benchmark.download.weights import weight_file
from slm_benchmark.engines.identity import engine_name
from slm_benchmark.evaluation.runner import engine_environment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from slm_benchmark.engines.identity import Name

    Logits = NDArray[np.float32]

WINDOW_TOKENS = 256
"""Longest text of the check: short, so that one long text shows how the engines cut."""

NEW_TOKENS = 12
"""Tokens of each generation."""

BOUNDS_NATS_PER_TOKEN = {"plain": 0.001, "16-bit": 0.05, "quantized": 0.5}
"""Most by which a score may differ from the plain forward's, by the format of the weights.

Other shapes of a forward round otherwise. On a model of 135 million parameters that moved a score
by up to 2e-5 nats a token in float32, 0.003 with F16 weights, and 0.16 with Q4_K_M, where llama.cpp
rounds the activations to 8 bits.
"""

_EXAMPLES = (
    "Question: Which of these floats on water?\nA. a brick\nB. a cork\nC. a spoon\nAnswer: B\n\n"
    "Question: What do bees make?\nA. honey\nB. milk\nC. bread\nAnswer: A\n\n"
    "Question: How many legs has a spider?\nA. six\nB. four\nC. eight\nAnswer: C\n\n"
)

DOCUMENTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("The kettle stood on the stove, and the water", (" began to boil.", " ran", " sang a song.")),
    ("", ("It rained all night.", " It rained all night.", "雨")),
    (f"{_EXAMPLES}Question: Where do fish live?\nA. in nests\nB. in water\nAnswer:", (" A", " B")),
    (f"{_EXAMPLES}Question: What is frozen water?\nA. ice\nB. steam\nAnswer:", (" A", " B", " C")),
    (
        "Zürich, Kraków and São Paulo are",
        (" cities.", " 城市。", " πόλεις", " villes 🙂", " e\u0301"),
    ),
    ("def add(first, second):\n    return", (" first + second\n", "\tfirst", " 0")),
    ("She opened the door and saw ", ("nothing", " nothing", "\nnothing", "  two  spaces")),
    ("1 + 1 =", (" 2", " 3")),
    ("The train was late again. " * 60 + "So she", (" walked home.", " waited.")),
)
"""Contexts and continuations: leading and trailing spaces, no context, other scripts, a shared
beginning, and a context that is longer than the window."""

PROMPTS = (
    "The kettle stood on the stove, and",
    "Question: What do bees make?\nAnswer:",
    "def add(first, second):\n",
)
"""Beginnings that the model goes on from."""


@dataclass(frozen=True)
class Target:
    """Weights to check.

    Attributes:
        name: Shown to the reader.
        engine: What runs them.
        weights: A GGUF file, or a folder in Transformers format.
        tokenizer: Folder of the tokenizer.
        context_length: Longest text that the model takes, in tokens.
        trust_remote_code: Whether the model's own code may run.
    """

    name: str
    engine: Name
    weights: Path
    tokenizer: Path
    context_length: int = WINDOW_TOKENS
    trust_remote_code: bool = False

    @property
    def window(self) -> int:
        """Longest context and continuation together in this check, in tokens."""
        return min(self.context_length, WINDOW_TOKENS)


@dataclass(frozen=True)
class Finding:
    """One line of the answer."""

    check: str
    ok: bool
    detail: str


def find_targets(
    model: str, variants: Sequence[str] | None = None, tokenizer: Path | None = None
) -> list[Target]:
    """What a person means by ``model``.

    Args:
        model: Id of a card whose variants lie in resources/models, a GGUF file, or a folder in
            Transformers format.
        variants: Of a card, the variants to check; None means all that are there.
        tokenizer: Folder of the tokenizer; required for a GGUF file.

    Raises:
        UserError: when there is nothing of that name, with what to do.
    """
    path = Path(model)
    if path.suffix == ".gguf" or (path / "config.json").is_file():
        return [_target_at(path, variants, tokenizer)]
    known = load_registry(MODELS)
    if model not in known:
        raise UserError(
            "no model card, no GGUF file and no folder in Transformers format has this name",
            field="MODEL",
            value=model,
            fix=suggestion(model, list(known)),
        )
    if tokenizer is not None:
        raise UserError(
            "a card's variants use the tokenizer of its base",
            field="--tokenizer",
            value=str(tokenizer),
            fix="leave it out",
        )
    card, folder = known[model], ROOT / "resources" / "models" / model
    there = [v for v in VARIANTS if (folder / v / "weights.json").is_file()]
    chosen = there if variants is None else list(variants)
    # Without the base there is no tokenizer.
    missing = [v for v in dict.fromkeys(["base", *chosen]) if v not in there]
    if missing:
        files = " ".join(relative(folder / v / "weights.json") for v in missing)
        raise UserError(
            "not on this machine",
            file=relative(folder),
            field="variant",
            value=", ".join(missing),
            fix=f"snakemake --profile local {files}",
        )
    return [
        Target(
            name=f"{model} {variant}",
            engine=engine_name(variant),
            weights=weight_file(folder / variant)
            if engine_name(variant) == "llama.cpp"
            else folder / variant,
            tokenizer=folder / "base",
            context_length=window_of(card, folder / "base"),
            trust_remote_code=card.trust_remote_code,
        )
        for variant in chosen
    ]


def _target_at(path: Path, variants: Sequence[str] | None, tokenizer: Path | None) -> Target:
    if variants is not None:
        raise UserError(
            "a path is one variant", field="--variants", value=list(variants), fix="leave it out"
        )
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError("there is no such file", file=path, fix="check the path")
        if tokenizer is None:
            raise UserError(
                "a GGUF file is scored with the tokenizer of its base model",
                file=path,
                field="--tokenizer",
                fix="add --tokenizer FOLDER, the folder with its tokenizer.json",
            )
    chosen = path if tokenizer is None else tokenizer
    if not (chosen / "tokenizer_config.json").is_file():
        raise UserError(
            "this folder has no tokenizer",
            file=chosen,
            field="tokenizer_config.json",
            fix="name the folder of the base model with --tokenizer",
        )
    engine: Name = "llama.cpp" if path.suffix == ".gguf" else "transformers"
    return Target(path.name, engine, path, chosen)


def check_engine(targets: Iterable[Target], threads: int) -> Iterator[tuple[str, bool]]:
    """Check each target.

    Args:
        targets: From `find_targets`.
        threads: CPU threads.

    Returns:
        For each target, a table for the terminal and whether all of it is well.

    Raises:
        RunEnvironmentError: when memory or the disk gave out.
    """
    for target in targets:
        findings = check_target(target, threads)
        yield render(target, findings), all(finding.ok for finding in findings)


def render(target: Target, findings: Sequence[Finding]) -> str:
    """The findings as an aligned table."""
    width = max(len(finding.check) for finding in findings)
    lines = [f"{target.name} ({target.engine})"]
    for finding in findings:
        result = "ok" if finding.ok else "FAILED"
        lines.append(f"  {finding.check:<{width}}  {result:<6}  {finding.detail}")
    return "\n".join(lines)


# ── the engine ──


@dataclass(frozen=True)
class Pair:
    """Token ids of a context and its continuation, and the engine's score of it.

    Attributes:
        context: Before any cut.
        continuation: Not empty.
        nats: Log-probability.
        greedy: Whether each token is the top-1 token.
    """

    context: list[int]
    continuation: list[int]
    nats: float
    greedy: bool


@dataclass(frozen=True)
class EngineOutputs:
    """Scores and texts of the engine, which plain forwards check once it is freed.

    Attributes:
        pairs: All continuations of `DOCUMENTS`.
        prompts: Token ids of `PROMPTS`, cut to leave room for the new tokens.
        texts: Generations, one for each prompt.
        findings: Results of the checks that need the engine alone.
    """

    pairs: list[Pair]
    prompts: list[list[int]]
    texts: list[str]
    findings: list[Finding]


def check_target(target: Target, threads: int) -> list[Finding]:
    """All findings about one target.

    The engine is freed before the plain model is loaded, so that memory holds one of them.
    """
    # Some libraries greet on standard output, which belongs to the table.
    with engine_environment(threads), contextlib.redirect_stdout(sys.stderr):
        try:
            outputs = run_engine(target, threads)
            plain = plain_model(target, threads)
            try:
                return [*outputs.findings, *compare(target, outputs, plain)]
            finally:
                plain.close()
        except RunEnvironmentError:
            raise
        except Exception as error:
            words = " ".join(str(error).split())
            return [Finding("load and run", False, f"{type(error).__name__}: {words}")]


def run_engine(target: Target, threads: int) -> EngineOutputs:
    """Load the engine, run all requests on it, and free it again."""
    from slm_benchmark.engines.load import load_engine
    from slm_benchmark.engines.settings import Settings

    settings = Settings(
        max_length=target.window, threads=threads, trust_remote_code=target.trust_remote_code
    )
    engine = load_engine(target.engine, target.weights, target.tokenizer, settings)
    try:
        lm = engine.lm
        everything = list(range(len(DOCUMENTS)))
        scored = score(lm, everything)
        findings = [
            Finding("path", True, engine.identity["schedule"]),
            token_ids(lm),
            *batch_invariance(lm, scored),
        ]
        texts = generate(lm, PROMPTS)
        findings.append(same("scores after generating", scored, score(lm, everything)))
        findings.append(generations(lm, texts))
        encoded = [lm.encode(c, t) for c, choices in DOCUMENTS for t in choices]
        flat = [value for document in everything for value in scored[document]]
        room = target.window - NEW_TOKENS
        return EngineOutputs(
            pairs=[
                Pair(list(context), list(continuation), *value)
                for (context, continuation), value in zip(encoded, flat, strict=True)
            ],
            prompts=[lm.tok_encode(prompt)[-room:] for prompt in PROMPTS],
            texts=texts,
            findings=findings,
        )
    finally:
        engine.close()


Scores = dict[int, list[tuple[float, bool]]]
"""Number of a document → log-probability and greedy flag of each of its continuations."""


def score(lm: Any, documents: Sequence[int]) -> Scores:
    """Score documents of `DOCUMENTS`, in this order, in one call."""
    from lm_eval.api.instance import Instance

    requests = [
        Instance("loglikelihood", {}, (DOCUMENTS[n][0], choice), i, ("check", n, 1))
        for n in documents
        for i, choice in enumerate(DOCUMENTS[n][1])
    ]
    results = iter(lm.loglikelihood(requests, disable_tqdm=True))
    return {n: [next(results) for _ in DOCUMENTS[n][1]] for n in documents}


def generate(lm: Any, prompts: Sequence[str]) -> list[str]:
    """Greedy generations for prompts, in one call."""
    from lm_eval.api.instance import Instance

    settings = {"until": [], "max_gen_toks": NEW_TOKENS, "do_sample": False}
    requests = [
        Instance("generate_until", {}, (prompt, dict(settings)), 0, ("check", n, 1))
        for n, prompt in enumerate(prompts)
    ]
    return [str(text) for text in lm.generate_until(requests, disable_tqdm=True)]


def batch_invariance(lm: Any, scored: Scores) -> list[Finding]:
    """Check batch invariance: bitwise identical alone, in a subset, shuffled and after others."""
    everything = list(scored)
    alone: Scores = {}
    for document in everything:
        alone |= score(lm, [document])
    shuffled = random.Random(1).sample(everything, len(everything))
    score(lm, everything[-3:])
    after = score(lm, everything[:3])
    return [
        same("scores alone", scored, alone),
        same("scores in a subset", scored, score(lm, everything[1::3])),
        same("scores shuffled", scored, score(lm, shuffled)),
        same("scores after others", scored, after),
    ]


def same(check: str, expected: Scores, actual: Scores) -> Finding:
    """Check that scores are bitwise identical."""
    pairs = [
        (ours, theirs)
        for document, scores in actual.items()
        for ours, theirs in zip(expected[document], scores, strict=True)
    ]
    differences = [abs(ours[0] - theirs[0]) for ours, theirs in pairs if ours != theirs]
    if differences:
        detail = f"{len(differences)} of {len(pairs)} differ, by up to {max(differences):.3g} nats"
        return Finding(check, False, detail)
    return Finding(check, True, f"{len(pairs)} log-probabilities bitwise identical")


def generations(lm: Any, together: Sequence[str]) -> Finding:
    """Check that prompts generated as a batch give the same texts alone."""
    alone = [generate(lm, [prompt])[0] for prompt in PROMPTS]
    differing = sum(a != b for a, b in zip(together, alone, strict=True))
    detail = f"{differing} of {len(PROMPTS)} differ" if differing else f"{len(PROMPTS)} texts equal"
    return Finding("generation alone", not differing, detail)


def token_ids(lm: Any) -> Finding:
    """Whether pairs are encoded as lm_eval's own backend for Transformers encodes them."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    class Encoder(HFLM):  # type: ignore[misc]
        """The backend without a model: its requests end as token ids."""

        def __init__(self) -> None:
            self.tokenizer = lm.tokenizer
            self.backend = "causal"
            self.add_bos_token = None
            self.custom_prefix_token_id = self.enable_thinking = None

        def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
            return requests

    pairs = [(context, choice) for context, choices in DOCUMENTS for choice in choices]
    requests = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
    theirs = Encoder().loglikelihood(requests, disable_tqdm=True)
    for pair, (_, context, continuation) in zip(pairs, theirs, strict=True):
        ours = lm.encode(*pair)
        if (list(ours[0]), list(ours[1])) != (list(context), list(continuation)):
            return Finding("token ids", False, f"{pair[1]!r} after {pair[0][-40:]!r} differs")
    return Finding("token ids", True, f"{len(pairs)} pairs encoded as lm_eval's hf backend does")


# ── plain forwards ──


class Plain(Protocol):
    """A model that is forwarded whole sequences, from nothing.

    Attributes:
        format: A key of `BOUNDS_NATS_PER_TOKEN`.
    """

    format: str

    def logits(self, tokens: Sequence[int]) -> Logits:
        """Logits after each token, shape (tokens, vocabulary)."""

    def close(self) -> None:
        """Give the memory back."""


def plain_model(target: Target, threads: int) -> Plain:
    """Load a target once more, without any engine of ours."""
    if target.engine == "llama.cpp":
        return PlainLlamaCpp(target.weights, target.window, threads)
    return PlainTransformers(target)


class PlainLlamaCpp:
    """One decode of the whole sequence from an empty cache.

    Args:
        file: The GGUF file.
        window: Most tokens.
        threads: CPU threads.
    """

    def __init__(self, file: Path, window: int, threads: int) -> None:
        from llama_cpp import llama_cpp as api

        self._api = api
        self._model = api.llama_model_load_from_file(
            str(file).encode(), api.llama_model_default_params()
        )
        parameters = api.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = window
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.no_perf = True
        self._context = api.llama_init_from_model(self._model, parameters)
        self._batch = api.llama_batch_init(window, 0, 1)
        self._vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))
        name = api.llama_ftype_name(api.llama_model_ftype(self._model)).decode()
        # Matrix products round the activations too, to the format that the weights ask for.
        self.format = "16-bit" if any(n in name for n in ("F32", "F16", "BF16")) else "quantized"

    def logits(self, tokens: Sequence[int]) -> Logits:
        """See `Plain.logits`."""
        import numpy as np

        api, batch = self._api, self._batch
        api.llama_memory_clear(api.llama_get_memory(self._context), True)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = token, i, True
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        batch.n_tokens = len(tokens)
        code = api.llama_decode(self._context, batch)
        if code != 0:
            raise RuntimeError(f"llama_decode answered with code {code}")
        pointer = api.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, (len(tokens), self._vocabulary)).copy()

    def close(self) -> None:
        """See `Plain.close`."""
        self._api.llama_batch_free(self._batch)
        self._api.llama_free(self._context)
        self._api.llama_model_free(self._model)


class PlainTransformers:
    """One forward of the whole sequence without a cache."""

    def __init__(self, target: Target) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._model: Any = AutoModelForCausalLM.from_pretrained(
            target.weights, dtype=torch.float32, trust_remote_code=target.trust_remote_code
        ).eval()
        config = json.loads((target.weights / "config.json").read_text(encoding="utf-8"))
        self.format = "quantized" if "quantization_config" in config else "plain"

    def logits(self, tokens: Sequence[int]) -> Logits:
        """See `Plain.logits`."""
        import torch

        with torch.inference_mode():
            output = self._model(input_ids=torch.tensor([list(tokens)]), use_cache=False)
        logits: Logits = output.logits[0].float().numpy()
        return logits

    def close(self) -> None:
        """See `Plain.close`."""
        self._model = None


def compare(target: Target, outputs: EngineOutputs, plain: Plain) -> list[Finding]:
    """Whether the engine's scores and texts are those of plain forwards."""
    bound = BOUNDS_NATS_PER_TOKEN[plain.format]
    return [
        plain_scores(outputs.pairs, plain, target.window, bound),
        plain_texts(outputs, plain, target.tokenizer, bound),
    ]


def plain_scores(pairs: Sequence[Pair], plain: Plain, window: int, bound: float) -> Finding:
    """Whether log-probabilities are within ``bound`` nats a token, and greedy flags fit them."""
    import numpy as np

    worst, wrong_flags = 0.0, 0
    for pair in pairs:
        # Cut from the left as the harness does; the last token is scored, not read.
        tokens = [*pair.context, *pair.continuation][-(window + 1) :][:-1]
        logits = plain.logits(tokens)[-len(pair.continuation) :].astype(np.float64)
        chosen = logits[np.arange(len(logits)), pair.continuation]
        top = logits.max(axis=1)
        total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
        difference = abs(float((chosen - total).sum()) - pair.nats) / len(pair.continuation)
        # Not `max`: it passes over what is no number.
        worst = difference if not difference <= worst else worst
        lead = float((chosen - top).min())
        wrong_flags += pair.greedy if lead < -bound else False
        wrong_flags += not pair.greedy if _leads(logits, pair.continuation, bound) else False
    detail = f"|Δ| at most {worst:.3g} nats a token in {len(pairs)} (bound {bound})"
    if wrong_flags:
        detail += f"; {wrong_flags} wrong greedy flags"
    return Finding("scores as plain forwards", worst <= bound and not wrong_flags, detail)


def _leads(logits: NDArray[np.float64], tokens: Sequence[int], bound: float) -> bool:
    """Whether every token leads all others by more than ``bound``."""
    import numpy as np

    others = logits.copy()
    others[np.arange(len(logits)), tokens] = -np.inf
    chosen = logits[np.arange(len(logits)), tokens]
    return bool((chosen - others.max(axis=1) > bound).all())


def plain_texts(outputs: EngineOutputs, plain: Plain, tokenizer: Path, bound: float) -> Finding:
    """Check that each generated text follows the top-1 tokens of plain forwards.

    Tokens within ``bound`` of the top-1 token count as top-1 too: rounding may decide between them.
    The text's own token ids are not known, so every way that spells the text is tried.
    """
    import numpy as np

    from slm_benchmark.download.tokenizer import load_tokenizer

    check = "greedy text as argmax"
    decoder = load_tokenizer(tokenizer)

    def decoded(tokens: Sequence[int]) -> str:
        return str(decoder.decode(tokens, skip_special_tokens=True))

    generated = zip(outputs.prompts, outputs.texts, strict=True)
    for number, (prompt, text) in enumerate(generated, start=1):
        furthest = 0
        open_ends: list[list[int]] = [[]]  # several tokens may begin as the text goes on
        while open_ends:
            new = open_ends.pop()
            furthest = max(furthest, len(new))
            ended = len(new) == NEW_TOKENS or (new and new[-1] in decoder.all_special_ids)
            if ended and decoded(new) == text:
                break
            if len(new) < NEW_TOKENS:
                last = plain.logits([*prompt, *new])[-1]
                near = np.flatnonzero(last >= last.max() - bound)
                ways = [[*new, int(token)] for token in near[np.argsort(last[near])]]
                # A character may be cut between its bytes.
                open_ends += [w for w in ways if text.startswith(decoded(w).rstrip("\ufffd"))]
        else:
            detail = f"prompt {number} leaves the top-1 token at token {furthest + 1}"
            return Finding(check, False, detail)
    return Finding(check, True, f"{len(outputs.texts)} texts of up to {NEW_TOKENS} tokens")
