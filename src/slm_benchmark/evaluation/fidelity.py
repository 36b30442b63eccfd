"""How far a variant's next-token distributions lie from its base model's, on a fixed text.

A benchmark's score tells whether answers changed; this tells how far the probabilities behind them
moved, token by token, and sees changes that no score of a few hundred documents can show. The
measure is the Kullback-Leibler divergence KL(base ‖ variant) = Σ p ln(p / q), in nats: what is
lost, on average, when the variant's distribution q stands in for the base model's p.

The base model goes through the text once, and its logits are stored on disk as they are, in
float32. Each variant then goes through the same tokens, and every position is compared as soon
as its logits are there. So one model is in memory at a time, and beside it one distribution for
each row of the engine, whatever the length of the text.

Source: S. Kullback and R. A. Leibler, On Information and Sufficiency, Annals of Mathematical
Statistics 22 (1951), 79–86.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from slm_benchmark.catalog.catalog import Catalogue
from slm_benchmark.catalog.model_cards import Model
from slm_benchmark.catalog.types import CalibrationChoice, FidelityConfig, Hardware
from slm_benchmark.common import progress
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import atomic_directory, digest, read_json, sha256_file
from slm_benchmark.common.paths import CONFIG, relative
from slm_benchmark.common.schemas import read_record, write_record
from slm_benchmark.download.context import window_of
from slm_benchmark.download.weights import read_manifest, verify_files
from slm_benchmark.engines.identity import engine_name, unknown_engine
from slm_benchmark.engines.memory import declared_budget_bytes
from slm_benchmark.engines.settings import Settings
from slm_benchmark.evaluation.runner import OK, Status, engine_environment, status_of
from slm_benchmark.records.envelope import Envelope, write_sealed
from slm_benchmark.records.provenance import command_for, model_block, variant_block
from slm_benchmark.records.types import (
    DatasetManifest,
    EngineBlock,
    FidelityMetric,
    FidelityMetrics,
    FidelityRecord,
    FidelityReference,
    FidelityText,
    TextSums,
)

if TYPE_CHECKING:
    from slm_benchmark.engines.backend import Logits
    from slm_benchmark.engines.engine import Engine
    from slm_benchmark.statistics.estimates import Estimate

FILE = CONFIG / "fidelity.yaml"

SHARED_TOKENS = 32
"""Tokens in a row that make an overlap where a calibration text has them too; fewer may be a
phrase."""

LOGITS = "logits.f32"
"""The base model's logits beside reference.json: float32, little-endian, shape (texts, tokens of
each, vocabulary)."""

Take = Callable[[int, int, "Logits"], None]
"""Takes the number of a text, a position in it, and the logits that predict its token there."""


# ── the text ──


def passages(config: FidelityConfig, dataset: Path) -> list[str]:
    """The passages of the fixed text, each once, in the order of the dataset.

    Args:
        config: config/fidelity.yaml.
        dataset: Folder of the prepared dataset.

    Raises:
        UserError: when the dataset lacks them, or has others than those that are pinned.
    """
    from slm_benchmark.download.datasets import load_splits

    def refuse(message: str, key: str, value: object, fix: str) -> UserError:
        return UserError(message, file=relative(FILE), field=key, value=value, fix=fix)

    splits = load_splits(dataset)
    if config["split"] not in splits:
        fix = f"use one of: {', '.join(splits)}"
        raise refuse(f"{dataset.name} has no such split", "split", config["split"], fix)
    rows = splits[config["split"]]
    if config["field"] not in rows.column_names:
        fix = f"use one of: {', '.join(rows.column_names)}"
        raise refuse(f"{dataset.name} has no such column", "field", config["field"], fix)
    first, end = config["rows"]
    if not first < end <= len(rows):
        raise refuse(
            f"the split has {len(rows)} rows", "rows", config["rows"], "stay inside the split"
        )
    texts: list[str] = list(dict.fromkeys(rows[config["field"]][first:end]))
    if digest(texts) != config["sha256"]:
        raise refuse(
            f"the passages are others than those that are pinned: {digest(texts)}",
            "sha256",
            config["sha256"],
            "restore the dataset, or name another text: a new id, version and digest",
        )
    return texts


def encode_texts(
    config: FidelityConfig, passages: Sequence[str], tokenizer: Any
) -> list[list[int]]:
    """The first passages that are long enough, each cut to the same number of tokens.

    Args:
        config: config/fidelity.yaml.
        passages: The passages.
        tokenizer: Of the base model.

    Returns:
        Token ids, shape (texts, tokens of each).

    Raises:
        UserError: when too few passages are long enough.
    """
    texts: list[list[int]] = []
    for passage in passages:
        ids = tokenizer.encode(passage, add_special_tokens=False)
        if len(ids) >= config["tokens"]:
            texts.append([int(token) for token in ids[: config["tokens"]]])
        if len(texts) == config["texts"]:
            return texts
    raise UserError(
        f"only {len(texts)} passages have {config['tokens']} tokens in this model's encoding",
        file=relative(FILE),
        field="texts",
        value=config["texts"],
        fix="ask for fewer texts or tokens, or for more rows",
    )


def refuse_overlap(texts: Sequence[Sequence[int]], calibration: Sequence[Sequence[int]]) -> None:
    """Refuse a text that the quantizers were calibrated on: there they look better than they are.

    Args:
        texts: Token ids of the fixed text.
        calibration: Token ids of the calibration texts, by the same tokenizer.

    Raises:
        UserError: when some `SHARED_TOKENS` tokens in a row stand in both.
    """
    ours = {window for ids in texts for window in _windows(ids)}
    if any(window in ours for ids in calibration for window in _windows(ids)):
        raise UserError(
            "the fixed text and the quantizers' calibration texts overlap",
            file=relative(FILE),
            field="rows",
            fix="choose other rows or another dataset, or fewer texts in quantization.calibration",
        )


def _windows(ids: Sequence[int]) -> list[tuple[int, ...]]:
    return [
        tuple(ids[first : first + SHARED_TOKENS]) for first in range(len(ids) - SHARED_TOKENS + 1)
    ]


def read_texts(engine: Engine, texts: Sequence[Sequence[int]], take: Take, label: str) -> None:
    """Let a model go through all texts, each by itself from the token that begins a text.

    The texts are generations whose tokens are chosen beforehand. So the engine decides how many go
    together, and a position's logits have the same bits however many do. After a lack of memory a
    text is begun anew, and its positions are taken again.

    Args:
        engine: The loaded model.
        texts: Token ids.
        take: Called with the logits of every position.
        label: What is being measured, for progress.

    Raises:
        RunEnvironmentError: when there is no memory for a single text.
    """
    from slm_benchmark.engines.decoding import Job, generate

    def job(number: int) -> Job:
        positions = itertools.count()

        def choose(logits: Logits) -> int:
            position = next(positions)
            take(number, position, logits)
            return texts[number][position]

        return Job([engine.lm.prefix_token_id], len(texts[number]), choose, lambda _: False)

    report = progress.documents(label)
    generations = generate(engine.lm.model, [functools.partial(job, n) for n in range(len(texts))])
    for done, _ in enumerate(generations, start=1):
        report(done, len(texts))


# ── the base model's side ──


@dataclass(frozen=True)
class Target:
    """A variant of a model, on a machine.

    Attributes:
        model: Id of the model.
        variant: The weight format; ``base`` for the reference.
        hardware: Id of this machine in config/hardware.yaml.
    """

    model: str
    variant: str
    hardware: str


@dataclass(frozen=True)
class Inputs:
    """Inputs of a comparison on disk.

    Attributes:
        weights: Folder of the variant.
        base: Folder of the base model, for its tokenizer.
        reference: Folder that `make_reference` wrote.
    """

    weights: Path
    base: Path
    reference: Path


@dataclass(frozen=True)
class ReferenceInputs:
    """Inputs of a reference on disk.

    Attributes:
        base: Folder of the base model.
        dataset: Folder of the prepared dataset that the fixed text is taken from.
        calibration: Folder of the prepared calibration dataset.
    """

    base: Path
    dataset: Path
    calibration: Path


@dataclass
class _LogitsWriter:
    """Writes logits to a file.

    Attributes:
        stream: The file.
        texts: Token ids.
        known: Tokens of the tokenizer.
        width: Logits of the model, padding included; 0 before the first.
    """

    stream: IO[bytes]
    texts: Sequence[Sequence[int]]
    known: int
    width: int = 0

    @property
    def vocabulary(self) -> int:
        """Logits that are written of each position."""
        return min(self.known, self.width)

    def take(self, number: int, position: int, logits: Logits) -> None:
        """See `Take`."""
        self.width = len(logits)
        row = number * len(self.texts[0]) + position
        self.stream.seek(4 * row * self.vocabulary)
        self.stream.write(logits[: self.vocabulary].astype("<f4").tobytes())


def make_reference(
    target: Target,
    catalogue: Catalogue,
    calibration: CalibrationChoice,
    inputs: ReferenceInputs,
    output: Path,
    threads: int,
) -> FidelityReference:
    """Store the base model's logits at each position of the fixed text.

    Args:
        target: The base model.
        catalogue: The catalogue of the checkout.
        calibration: ``quantization.calibration`` of config/config.yaml.
        inputs: The base model and the two datasets.
        output: Folder of the reference; it appears whole or not at all.
        threads: CPU threads.

    Returns:
        The content of reference.json. A model that breaks on the text leaves one with state
        ``failed``.

    Raises:
        UserError: for bad input, such as a text that overlaps the calibration texts.
        RunEnvironmentError: when memory, the disk or the network gave out.
    """
    model, config = catalogue.models[target.model], catalogue.fidelity
    verify_files(inputs.base)
    with engine_environment(threads):
        from slm_benchmark.download.tokenizer import load_tokenizer
        from slm_benchmark.quantize.calibration import load_calibration

        tokenizer = load_tokenizer(inputs.base, model.trust_remote_code)
        texts = encode_texts(config, passages(config, inputs.dataset), tokenizer)
        seen = load_calibration(
            inputs.calibration,
            inputs.base,
            calibration["texts"],
            calibration["tokens"],
            model.trust_remote_code,
        )
        refuse_overlap(texts, seen.rows)
        with atomic_directory(output) as work:
            with open(work / LOGITS, "wb") as stream:
                writer = _LogitsWriter(stream, texts, max(tokenizer.get_vocab().values()) + 1)
                weights = Inputs(inputs.base, inputs.base, output)
                engine, status = _forward(target, catalogue, weights, texts, writer.take, threads)
            record: FidelityReference = {
                "schema_version": 1,
                "state": "ok" if status.ok else "failed",
                "error": status.error,
                "model_sha256": read_manifest(inputs.base)["sha256"],
                "text": _text_block(config, inputs.dataset, texts),
                "texts": texts,
                "vocabulary": writer.vocabulary or None,
                "width": writer.width or None,
                "engine": engine,
                "logits_sha256": sha256_file(work / LOGITS) if status.ok else None,
            }
            write_record(work / "reference.json", record, "fidelity_reference")
    return record


def engine_settings(
    model: Model, base: Path, config: FidelityConfig, hardware: Hardware, threads: int
) -> Settings:
    """How both sides are run: float32 on a CPU and float16 on CUDA, where Transformers runs them.

    Raises:
        UserError: when the model's window is shorter than a text.
    """
    window = config["tokens"] + 1
    longest = window_of(model, base)
    if window > longest:
        raise UserError(
            f"a text and the token before it do not fit the window of {model.id}",
            file=relative(FILE),
            field="tokens",
            value=config["tokens"],
            fix=f"ask for at most {longest - 1}",
        )
    return Settings(
        max_length=window,
        threads=threads,
        device=hardware["device"],
        trust_remote_code=model.trust_remote_code,
        memory_budget_bytes=declared_budget_bytes(hardware.get("memory_limit_bytes")),
    )


def _forward(
    target: Target,
    catalogue: Catalogue,
    inputs: Inputs,
    texts: Sequence[Sequence[int]],
    take: Take,
    threads: int,
) -> tuple[EngineBlock, Status]:
    """Load a model, let it go through the texts, and free it again.

    Returns:
        The records' ``engine`` block, and how it ended.
    """
    from slm_benchmark.engines.load import load_engine

    model, hardware = catalogue.models[target.model], catalogue.hardware[target.hardware]
    identity = unknown_engine(target.variant, threads)
    try:
        settings = engine_settings(model, inputs.base, catalogue.fidelity, hardware, threads)
        engine = load_engine(engine_name(target.variant), inputs.weights, inputs.base, settings)
        identity = engine.identity
        try:
            read_texts(engine, texts, take, f"fidelity {target.model} {target.variant}")
        finally:
            engine.close()
    except UserError:
        # Its record has no state for what cannot be measured.
        raise
    except Exception as raised:
        return identity, status_of(raised)
    return identity, OK


def _text_block(
    config: FidelityConfig, dataset: Path, texts: Sequence[Sequence[int]]
) -> FidelityText:
    """The records' ``text`` block."""
    manifest: DatasetManifest = read_json(dataset / "manifest.json")
    return {
        "id": config["id"],
        "version": config["version"],
        "sha256": config["sha256"],
        "dataset": {
            "id": manifest["dataset"],
            "source": manifest["source"],
            "revision": manifest["revision"],
            "sha256": manifest["sha256"],
        },
        "texts": len(texts),
        "tokens_each": len(texts[0]),
        "tokens_sha256": digest(texts),
    }


def read_reference(folder: Path) -> FidelityReference:
    """Read a reference and check that its logits are those that were stored.

    Raises:
        UserError: when they are not.
    """
    file = folder / "reference.json"
    record: FidelityReference = read_record(file, "fidelity_reference")
    if record["state"] == "ok" and sha256_file(folder / LOGITS) != record["logits_sha256"]:
        raise UserError(
            f"{LOGITS} is not the file that was stored",
            file=relative(file),
            field="logits_sha256",
            value=record["logits_sha256"],
            fix=f"delete {relative(folder)} and run the workflow again",
        )
    return record


# ── the comparison ──


@dataclass(frozen=True)
class Position:
    """One position of the text under both models.

    Attributes:
        kl_nats: KL(base ‖ variant).
        agrees: Whether both have the same top-1 token.
        base_nll_nats: Negative log-likelihood of the text's token under the base model.
        nll_nats: The same under the variant.
    """

    kl_nats: float
    agrees: bool
    base_nll_nats: float
    nll_nats: float


def compare_position(base: Logits, variant: Logits, token: int) -> Position:
    """Compare two distributions over the same tokens.

    Sums are made in float64. Rounding can put the divergence of two almost equal distributions a
    hair under zero, where it cannot be; it counts as zero then.

    Args:
        base: The base model's logits, shape (vocabulary,).
        variant: The variant's, of the same shape.
        token: The text's own token.

    Raises:
        ArithmeticError: when the variant rules out a token that the base model may say.
    """
    import numpy as np

    p, q = log_probabilities(base), log_probabilities(variant)
    possible = p > -np.inf
    if not np.isfinite(q[possible]).all():
        raise ArithmeticError("the variant gives no probability to a token that the base may say")
    kl = float(np.exp(p[possible]) @ (p[possible] - q[possible]))
    return Position(
        max(0.0, kl),
        bool(base.argmax() == variant.argmax()),
        float(-p[token]),
        float(-q[token]),
    )


def log_probabilities(logits: Logits) -> Any:
    """Logarithms of the probabilities, in nats and float64, shape (vocabulary,)."""
    import numpy as np

    shifted = logits.astype(np.float64)
    shifted -= shifted.max()
    return shifted - math.log(float(np.exp(shifted).sum()))


@dataclass
class _Comparison:
    """Compares a variant's logits with the stored ones of its base.

    Attributes:
        reference: File of the base model's logits, shape (texts, tokens of each, known).
        known: Logits that were stored of each position.
        texts: Token ids.
        width: Logits of the variant, padding included; 0 before the first.
        positions: The comparisons, by text and position.
    """

    reference: Path
    known: int
    texts: Sequence[Sequence[int]]
    width: int = 0
    positions: dict[tuple[int, int], Position] = field(default_factory=dict)

    @property
    def vocabulary(self) -> int:
        """Tokens that are compared."""
        return min(self.known, self.width)

    def take(self, number: int, position: int, logits: Logits) -> None:
        """See `Take`."""
        import numpy as np

        self.width = len(logits)
        token, count = self.texts[number][position], self.vocabulary
        if token >= count:
            raise ValueError(f"the variant has {self.width} logits, and the text the id {token}")
        row = number * len(self.texts[0]) + position
        base = np.fromfile(self.reference, "<f4", count, offset=4 * row * self.known)
        self.positions[number, position] = compare_position(base, logits[:count], token)

    def by_text(self) -> list[list[Position]]:
        """The comparisons of each text, in the order of the positions."""
        return [
            [self.positions[number, position] for position in range(len(ids))]
            for number, ids in enumerate(self.texts)
        ]


def measure_fidelity(
    target: Target, catalogue: Catalogue, inputs: Inputs, output: Path, threads: int
) -> FidelityRecord:
    """Let a variant go through the fixed text and write how far it lies from its base.

    Args:
        target: The variant; any but base.
        catalogue: The catalogue of the checkout.
        inputs: The variant, its base, and the base's logits.
        output: File of the record.
        threads: CPU threads.

    Returns:
        The record. A side that breaks leaves one with state ``failed``.

    Raises:
        UserError: for bad input, such as an input file that differs from its manifest.
        RunEnvironmentError: when memory, the disk or the network gave out.
    """
    model = catalogue.models[target.model]
    envelope = Envelope(target.hardware, catalogue.hardware[target.hardware], model.file)
    for folder in (inputs.weights, inputs.base):
        verify_files(folder)
    base = read_manifest(inputs.base)
    reference = read_reference(inputs.reference)
    if reference["model_sha256"] != base["sha256"]:
        raise UserError(
            "the reference is of another base model",
            file=relative(inputs.reference / "reference.json"),
            field="model_sha256",
            value=reference["model_sha256"],
            fix=f"delete {relative(inputs.reference)} and run the workflow again",
        )
    envelope.count()
    status, engine = Status(reference["state"], reference["error"]), None
    comparison = _Comparison(
        inputs.reference / LOGITS, reference["vocabulary"] or 0, reference["texts"]
    )
    if status.ok:
        # The libraries read these variables when they are imported.
        with engine_environment(threads):
            engine, status = _forward(
                target, catalogue, inputs, comparison.texts, comparison.take, threads
            )
    positions = comparison.by_text() if status.ok else []
    record: FidelityRecord = {
        "schema_version": 1,
        "kind": "fidelity",
        "state": "ok" if status.ok else "failed",
        "error": status.error,
        "model": model_block(model, base),
        "variant": variant_block(read_manifest(inputs.weights)),
        "text": reference["text"],
        "tokens": sum(map(len, positions)),
        "vocabulary": {
            "compared": comparison.vocabulary if positions else None,
            "base_logits": reference["width"],
            "variant_logits": comparison.width if positions else None,
        },
        "engine": engine or unknown_engine(target.variant, threads),
        "base_engine": reference["engine"],
        **envelope.provenance(),
        "metrics": metrics(positions),
        "texts": [text_sums(each) for each in positions],
        **envelope.closing(command_for([output], None, target.hardware)),
    }
    return write_sealed(output, record, "fidelity")


# ── the numbers ──


def text_sums(positions: Sequence[Position]) -> TextSums:
    """The fidelity schema's entry of one text."""
    return {
        "tokens": len(positions),
        "kl_sum_nats": math.fsum(p.kl_nats for p in positions),
        "kl_max_nats": max(p.kl_nats for p in positions),
        "agreeing": sum(p.agrees for p in positions),
        "base_nll_nats": math.fsum(p.base_nll_nats for p in positions),
        "nll_nats": math.fsum(p.nll_nats for p in positions),
    }


def metrics(positions: Sequence[Sequence[Position]]) -> FidelityMetrics:
    """The fidelity schema's ``metrics``.

    Neighboring tokens depend on each other, texts do not. So texts are the blocks that a bootstrap
    draws (`expanded_bootstrap`), and the clusters of the share of agreeing tokens. A bootstrap
    cannot tell how much larger the largest of other tokens would be: the maximum has no interval.

    Source: H. R. Künsch, The Jackknife and the Bootstrap for General Stationary Observations,
    Annals of Statistics 17 (1989), 1217–1241, for drawing blocks of neighbors.

    Args:
        positions: Of each text; without texts every value is missing.
    """
    if not positions:
        nothing = _metric(None, reason="a side broke; see error")
        return {
            "kl_mean_nats": nothing,
            "kl_median_nats": nothing,
            "kl_p99_nats": nothing,
            "kl_max_nats": nothing,
            "top_token_agreement": nothing,
            "perplexity": nothing,
            "base_perplexity": nothing,
            "perplexity_ratio": nothing,
        }
    from slm_benchmark.statistics.bootstrap import of_totals
    from slm_benchmark.statistics.estimates import Sample, estimate

    sums = [text_sums(text) for text in positions]
    kl = [[p.kl_nats for p in text] for text in positions]

    def drawn(values: Sequence[Any], statistic: Callable[[Sequence[Any]], float]) -> FidelityMetric:
        return _estimated(estimate(Sample(values, share=False, statistic=statistic)))

    def per_token(amounts: Sequence[float]) -> list[list[float]]:
        """Of each text an amount, and its tokens."""
        return [[amount, s["tokens"]] for amount, s in zip(amounts, sums, strict=True)]

    mean = of_totals(lambda total, _: float(total[0] / total[1]))
    exponential = of_totals(lambda total, _: math.exp(total[0] / total[1]))
    agreeing = Sample(
        values=[float(p.agrees) for text in positions for p in text],
        clusters=[number for number, text in enumerate(positions) for _ in text],
    )
    return {
        "kl_mean_nats": drawn(per_token([s["kl_sum_nats"] for s in sums]), mean),
        "kl_median_nats": drawn(kl, functools.partial(_quantile, share=0.5)),
        "kl_p99_nats": drawn(kl, functools.partial(_quantile, share=0.99)),
        "kl_max_nats": _metric(
            max(s["kl_max_nats"] for s in sums),
            reason="a maximum has no bootstrap interval: other tokens may lie beyond any of these",
        ),
        "top_token_agreement": _estimated(estimate(agreeing)),
        "perplexity": drawn(per_token([s["nll_nats"] for s in sums]), exponential),
        "base_perplexity": drawn(per_token([s["base_nll_nats"] for s in sums]), exponential),
        "perplexity_ratio": drawn(
            per_token([s["nll_nats"] - s["base_nll_nats"] for s in sums]), exponential
        ),
    }


def _quantile(texts: Sequence[Sequence[float]], share: float) -> float:
    import numpy as np

    return float(np.quantile(np.concatenate(texts), share))


def _metric(
    value: float | None,
    ci95: Sequence[float] | None = None,
    ci_method: str | None = None,
    reason: str | None = None,
) -> FidelityMetric:
    return {
        "value": value,
        "ci95": None if ci95 is None else list(ci95),
        "ci_method": ci_method,
        "reason": reason,
    }


def _estimated(score: Estimate) -> FidelityMetric:
    return _metric(score.value, score.ci95, score.method, score.reason)


def describe_fidelity(record: FidelityRecord) -> str:
    """A sentence about a record."""
    name = f"{record['model']['id']} {record['variant']['id']}"
    if record["state"] != "ok":
        error = record["error"]["type"] if record["error"] else "unknown"
        return f"{name}: fidelity {record['state']}: {error}"
    measures = record["metrics"]

    def value(metric: FidelityMetric) -> float:
        return math.nan if metric["value"] is None else metric["value"]

    return (
        f"{name}: KL {value(measures['kl_mean_nats']):.3g} nats a token "
        f"(p99 {value(measures['kl_p99_nats']):.3g}), "
        f"{100 * value(measures['top_token_agreement']):.1f} % of {record['tokens']} top-1 tokens "
        f"agree, perplexity {value(measures['perplexity']):.2f} against "
        f"{value(measures['base_perplexity']):.2f}"
    )
