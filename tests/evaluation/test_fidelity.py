"""How far a variant lies from its base: against plain sums in float64 and llama.cpp itself."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from slm_benchmark.catalog.catalog import Catalogue, load_catalogue
from slm_benchmark.catalog.model_cards import load_model
from slm_benchmark.catalog.run_config import RunConfig
from slm_benchmark.catalog.types import CalibrationChoice, FidelityConfig, Hardware
from slm_benchmark.common.errors import RunEnvironmentError, UserError
from slm_benchmark.common.files import digest, read_yaml
from slm_benchmark.common.paths import CONFIG
from slm_benchmark.download.datasets import load_splits, prepare_dataset
from slm_benchmark.engines.identity import VERSIONS
from slm_benchmark.evaluation.fidelity import (
    LOGITS,
    Inputs,
    Position,
    ReferenceInputs,
    Target,
    compare_position,
    describe_fidelity,
    make_reference,
    measure_fidelity,
    metrics,
    passages,
)
from slm_benchmark.records.store import read_run
from slm_benchmark.workflow.rule_inputs import RuleInputs
from slm_benchmark.workflow.rule_params import RuleParams
from tests.evaluation.test_loglikelihood import CARD
from tests.support.models import add_manifest

Record = Any

TEXTS, TOKENS = 7, 40
CALIBRATION: CalibrationChoice = {"dataset": "calibration", "texts": 2, "tokens": 64}


def passage(number: int, topic: str) -> str:
    """A passage that no other number or topic gives."""
    draw = np.random.default_rng([number, len(topic)])
    words = ["the", topic, "of", "a", "small", "river", "runs", "over", "quick", "stones", "and"]
    return " ".join(words[place] for place in draw.integers(len(words), size=40)) + f" {number}."


PASSAGES = [passage(number, "water") for number in range(20)]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The prepared datasets of the fixed text and of the calibration."""
    folder = tmp_path_factory.mktemp("datasets")
    prepared = {}
    for name, rows in {
        # The third passage stands there twice.
        "text": [*PASSAGES[:3], PASSAGES[2], *PASSAGES[3:]],
        "calibration": [passage(number, "mountain") for number in range(20)],
    }.items():
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
        entry: Any = {"source": "local", "files": {"train": str(file)}, "license": "CC0-1.0"}
        prepared[name] = folder / name
        prepare_dataset(name, entry, prepared[name])
    return prepared


CONFIGURED: FidelityConfig = {
    "version": 1,
    "id": "rivers",
    "dataset": "text",
    "split": "train",
    "field": "text",
    "rows": [1, 18],
    "sha256": digest(PASSAGES[1:17]),
    "texts": TEXTS,
    "tokens": TOKENS,
}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    card = tmp_path_factory.mktemp("cards") / "tiny.yaml"
    formats = ["gptq-4bit", "gguf-f16", "gguf-q8_0", "gguf-q4_k_m"]
    card.write_text(yaml.safe_dump({**CARD, "quantizations": formats}))
    shipped = load_catalogue()
    return dataclasses.replace(
        shipped, models={**shipped.models, "tiny": load_model(card)}, fidelity=CONFIGURED
    )


@dataclasses.dataclass
class Bench:
    """Measures variants of one base."""

    folder: Path
    base: Path
    datasets: dict[str, Path]
    catalogue: Catalogue

    @property
    def reference(self) -> Path:
        return self.folder / "reference"

    def keep(self, config: FidelityConfig = CONFIGURED, **inputs: Path) -> Record:
        found = {
            "base": self.base,
            "dataset": self.datasets["text"],
            "calibration": self.datasets["calibration"],
            **inputs,
        }
        return make_reference(
            Target("tiny", "base", "local"),
            dataclasses.replace(self.catalogue, fidelity=config),
            CALIBRATION,
            ReferenceInputs(**found),
            self.reference,
            threads=1,
        )

    def measure(self, weights: Path, variant: str = "gptq-4bit") -> Record:
        output = self.folder / f"{variant}.json"
        measure_fidelity(
            Target("tiny", variant, "local"),
            self.catalogue,
            Inputs(weights, self.base, self.reference),
            output,
            threads=1,
        )
        return read_run(output)

    def logits(self) -> Any:
        """The base's kept logits, shape (texts, tokens, vocabulary)."""
        kept = np.fromfile(self.reference / LOGITS, "<f4")
        return kept.reshape(TEXTS, TOKENS, -1)


@pytest.fixture(autouse=True)
def own_counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slm_benchmark.records.envelope.SEQUENCE_COUNTER", tmp_path / ".sequence")


def described(folder: Path, variant: str) -> Path:
    """Describe a folder anew as a variant."""
    for name in ("manifest.json", "weights.json"):
        (folder / name).unlink(missing_ok=True)
    return add_manifest(folder, variant)


@pytest.fixture(scope="module")
def kept(
    tiny_model: Path,
    datasets: dict[str, Path],
    catalogue: Catalogue,
    tmp_path_factory: pytest.TempPathFactory,
) -> Bench:
    """A bench whose base model went through the text."""
    folder = tmp_path_factory.mktemp("bench")
    shutil.copytree(tiny_model, folder / "base")
    bench = Bench(folder, described(folder / "base", "base"), datasets, catalogue)
    bench.keep()
    return bench


@pytest.fixture
def bench(kept: Bench, tmp_path: Path) -> Bench:
    """The same, with records in a folder of its own."""
    shutil.copytree(kept.reference, tmp_path / "reference")
    return dataclasses.replace(kept, folder=tmp_path)


def changed(bench: Bench, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of the base with other tensors, as a variant."""
    folder = bench.folder / "changed"
    shutil.copytree(bench.base, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return described(folder, "gptq-4bit")


def scale_logits(tensors: dict[str, Any]) -> None:
    """Multiply every logit by 1.25: the last norm is linear."""
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * np.float16(1.25)


def add_noise(tensors: dict[str, Any]) -> None:
    draw = np.random.default_rng(3)
    for name, tensor in tensors.items():
        tensors[name] = (tensor * (1 + 0.05 * draw.normal(size=tensor.shape))).astype(tensor.dtype)


# ── the measure ──


def values(record: Record) -> dict[str, float]:
    return {name: metric["value"] for name, metric in record["metrics"].items()}


def test_a_base_equals_itself_exactly(bench: Bench) -> None:
    folder = bench.folder / "same"
    shutil.copytree(bench.base, folder)
    record = bench.measure(described(folder, "gptq-4bit"))
    found = values(record)
    assert (record["state"], record["tokens"]) == ("ok", TEXTS * TOKENS)
    assert [found[name] for name in found if name.startswith("kl_")] == [0.0] * 4
    assert (found["top_token_agreement"], found["perplexity_ratio"]) == (1.0, 1.0)
    assert found["perplexity"] == found["base_perplexity"] > 1
    # All agree, but so few tokens do not show that all others would.
    assert record["metrics"]["top_token_agreement"]["ci95"][0] < 0.99


def plain_log_probabilities(folder: Path, texts: list[list[int]]) -> Any:
    """Of one forward for each text in float64, shape (texts, tokens, vocabulary)."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    with torch.inference_mode():
        ids = torch.tensor([[1, *text[:-1]] for text in texts])
        return model(ids).logits.log_softmax(-1).numpy()


def test_it_is_what_plain_sums_in_float64_give(bench: Bench) -> None:
    weights = changed(bench, add_noise)
    record = bench.measure(weights)
    texts = json.loads((bench.reference / "reference.json").read_text())["texts"]
    p, q = (plain_log_probabilities(folder, texts) for folder in (bench.base, weights))
    kl = (np.exp(p) * (p - q)).sum(-1)
    assert kl.mean() > 0.001  # or the comparison would show nothing
    found = values(record)
    assert found["kl_mean_nats"] == pytest.approx(kl.mean(), rel=1e-4)
    assert found["kl_median_nats"] == pytest.approx(np.median(kl), rel=1e-3)
    assert found["kl_p99_nats"] == pytest.approx(np.quantile(kl, 0.99), rel=1e-3)
    assert found["kl_max_nats"] == pytest.approx(kl.max(), rel=1e-3)
    assert found["top_token_agreement"] == (p.argmax(-1) == q.argmax(-1)).mean() < 1
    ids = np.array(texts)[:, :, None]
    for name, side in (("base_perplexity", p), ("perplexity", q)):
        own = np.take_along_axis(side, ids, 2)
        assert found[name] == pytest.approx(math.exp(-own.mean()), rel=1e-5)
    assert found["perplexity_ratio"] == pytest.approx(
        found["perplexity"] / found["base_perplexity"], rel=1e-9
    )


def test_scaled_logits_have_the_divergence_of_the_formula(bench: Bench) -> None:
    found = values(bench.measure(changed(bench, scale_logits)))
    logits = bench.logits().astype(np.float64)
    p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    # q ∝ p^1.25, so KL = Σ p ln p − 1.25 Σ p ln p + ln Σ p^1.25.
    kl = -0.25 * (np.exp(p) * p).sum(-1) + np.log(np.exp(1.25 * p).sum(-1))
    assert found["kl_mean_nats"] == pytest.approx(kl.mean(), rel=1e-5)
    assert found["kl_max_nats"] == pytest.approx(kl.max(), rel=1e-4)
    assert found["top_token_agreement"] == 1


def gguf_folder(bench: Bench, file: Path, variant: str) -> Path:
    folder = bench.folder / variant
    folder.mkdir()
    shutil.copy(file, folder)
    return add_manifest(folder, variant)


def test_gguf_files_are_compared_as_llama_cpp_sees_them(
    bench: Bench, tiny_gguf: Path, tiny_gguf_f16: Path
) -> None:
    from llama_cpp import Llama

    weights = gguf_folder(bench, tiny_gguf, "gguf-q8_0")
    record = bench.measure(weights, "gguf-q8_0")
    assert record["engine"]["name"] == "llama.cpp"
    assert record["base_engine"]["name"] == "transformers"
    said = json.loads((bench.reference / "reference.json").read_text())
    llama = Llama(str(tiny_gguf), n_ctx=256, logits_all=True, n_threads=1, verbose=False)
    for number, ids in enumerate(said["texts"]):
        llama.reset()
        llama.eval([1, *ids[:-1]])
        raw = llama.scores[: len(ids), : said["vocabulary"]].astype(np.float64)
        q = raw - np.log(np.exp(raw).sum(-1, keepdims=True))
        base = bench.logits()[number].astype(np.float64)
        p = base - np.log(np.exp(base).sum(-1, keepdims=True))
        kl = (np.exp(p) * (p - q)).sum()
        # llama.cpp quantizes activations too, so that another batch rounds a little otherwise.
        assert record["texts"][number]["kl_sum_nats"] == pytest.approx(kl, rel=0.02)
    near = bench.measure(gguf_folder(bench, tiny_gguf_f16, "gguf-f16"), "gguf-f16")
    assert 0 < values(near)["kl_mean_nats"] < values(record)["kl_mean_nats"] / 20


@pytest.mark.parametrize("form", ["transformers", "gguf"])
def test_how_many_texts_go_together_changes_nothing(
    bench: Bench, tiny_gguf: Path, form: str
) -> None:
    if form == "gguf":
        weights, variant = gguf_folder(bench, tiny_gguf, "gguf-q8_0"), "gguf-q8_0"
    else:
        weights, variant = changed(bench, add_noise), "gptq-4bit"
    many = bench.measure(weights, variant)
    local: Hardware = {**bench.catalogue.hardware["local"], "memory_limit_bytes": 1}
    bench.catalogue = dataclasses.replace(
        bench.catalogue, hardware={**bench.catalogue.hardware, "local": local}
    )
    alone = bench.measure(weights, variant)
    assert alone["texts"] == many["texts"]
    assert alone["metrics"] == many["metrics"]
    before = (bench.reference / LOGITS).read_bytes()
    bench.keep()
    assert (bench.reference / LOGITS).read_bytes() == before


def test_padding_of_the_vocabulary_is_left_out(bench: Bench) -> None:
    folder = bench.folder / "padded"
    shutil.copytree(bench.base, folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16)
    width = int(model.config.vocab_size)
    model.resize_token_embeddings(width + 24, mean_resizing=False)
    with torch.no_grad():  # padding that would take most of the probability
        model.get_input_embeddings().weight[width:] = model.get_input_embeddings().weight[:24] * 3
    model.save_pretrained(folder)
    record = bench.measure(described(folder, "gptq-4bit"))
    assert record["vocabulary"] == {
        "compared": width,
        "base_logits": width,
        "variant_logits": width + 24,
    }
    assert values(record)["kl_max_nats"] < 1e-9
    # And as the base.
    padded = dataclasses.replace(bench, base=described(folder, "base"))
    said = padded.keep()
    assert (said["vocabulary"], said["width"]) == (width, width + 24)


def test_texts_are_passages_cut_to_one_length(bench: Bench) -> None:
    from transformers import AutoTokenizer

    said = json.loads((bench.reference / "reference.json").read_text())
    assert [len(ids) for ids in said["texts"]] == [TOKENS] * TEXTS
    tokenizer = AutoTokenizer.from_pretrained(bench.base)
    decoded = [tokenizer.decode(ids) for ids in said["texts"]]
    # Each passage once, from the first row on.
    assert all(any(text.startswith(part) for text in PASSAGES[1:17]) for part in decoded), decoded
    assert len(set(decoded)) == TEXTS
    assert said["text"]["tokens_sha256"] == digest(said["texts"])


# ── what goes wrong ──


def no_numbers(tensors: dict[str, Any]) -> None:
    tensors["model.norm.weight"][:] = np.nan


def test_a_variant_that_breaks_is_a_record(bench: Bench) -> None:
    record = bench.measure(changed(bench, no_numbers))
    assert (record["state"], record["tokens"], record["texts"]) == ("failed", 0, [])
    assert record["error"]["type"] == "ArithmeticError"
    assert set(values(record).values()) == {None}
    assert all(metric["reason"] for metric in record["metrics"].values())
    assert record["base_engine"]["version"] != "unknown"
    assert "failed: ArithmeticError" in describe_fidelity(record)


def test_a_base_that_breaks_is_a_record_of_every_variant(bench: Bench) -> None:
    broken = dataclasses.replace(bench, base=described(changed(bench, no_numbers), "base"))
    assert broken.keep()["state"] == "failed"
    record = broken.measure(described(changed_copy(bench), "gptq-4bit"))
    assert (record["state"], record["error"]["type"]) == ("failed", "ArithmeticError")
    assert record["engine"]["version"] == "unknown"


def changed_copy(bench: Bench) -> Path:
    folder = bench.folder / "copy"
    shutil.copytree(bench.base, folder)
    return folder


def test_environment_errors_are_raised(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    shutil.rmtree(bench.reference)
    monkeypatch.setattr("slm_benchmark.evaluation.fidelity._LogitsWriter.take", full)
    with pytest.raises(RunEnvironmentError):
        bench.keep()
    assert not bench.reference.exists()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"split": "test"}, "split"),
        ({"field": "passage"}, "field"),
        ({"rows": [1, 99]}, "rows"),
        ({"rows": [2, 18]}, "sha256"),
        ({"texts": 17}, "texts"),
        ({"tokens": 300}, "texts"),
    ],
)
def test_a_bad_text_is_one_clear_line(bench: Bench, change: Record, field: str) -> None:
    with pytest.raises(UserError) as refusal:
        bench.keep({**CONFIGURED, **change})
    assert refusal.value.field == field
    assert refusal.value.fix


def test_a_text_that_the_quantizers_saw_is_refused(bench: Bench) -> None:
    with pytest.raises(UserError, match="overlap"):
        bench.keep(calibration=bench.datasets["text"])


def test_other_logits_or_another_base_are_noticed(bench: Bench) -> None:
    weights = described(changed_copy(bench), "gptq-4bit")
    other = dataclasses.replace(bench, base=described(changed(bench, add_noise), "base"))
    with pytest.raises(UserError, match="another base"):
        other.measure(weights)
    content = bytearray((bench.reference / LOGITS).read_bytes())
    content[100] ^= 1
    (bench.reference / LOGITS).write_bytes(bytes(content))
    with pytest.raises(UserError, match="not the file that was stored"):
        bench.measure(weights)


# ── the sums ──

distributions = arrays(np.float32, 12, elements=st.floats(-30, 30, width=32))


@settings(deadline=None)
@given(distributions, distributions, st.integers(0, 11), st.floats(-50, 50))
def test_a_divergence_is_that_of_scipy_and_never_negative(
    base: Any, variant: Any, token: int, shift: float
) -> None:
    from scipy.special import log_softmax, rel_entr, softmax

    found = compare_position(base, variant, token)
    p, q = softmax(base.astype(np.float64)), softmax(variant.astype(np.float64))
    assert found.kl_nats >= 0
    assert found.kl_nats == pytest.approx(rel_entr(p, q).sum(), rel=1e-6, abs=1e-9)
    assert found.nll_nats == pytest.approx(-log_softmax(variant.astype(np.float64))[token])
    assert compare_position(base, base, token).kl_nats == 0
    moved = compare_position(base, (variant + np.float32(shift)).astype(np.float32), token)
    assert moved.kl_nats == pytest.approx(found.kl_nats, abs=1e-3)


def test_a_ruled_out_token_is_an_error_unless_the_base_rules_it_out_too() -> None:
    masked = np.array([0.0, 1.0, -np.inf], np.float32)
    assert compare_position(masked, masked, 0).kl_nats == 0
    with pytest.raises(ArithmeticError):
        compare_position(np.zeros(3, np.float32), masked, 0)


def test_intervals_allow_for_tokens_that_depend_on_their_neighbors() -> None:
    draw = np.random.default_rng(0)
    # All tokens of a text are alike: 20 texts of 100 tokens say as much as 20 tokens.
    levels = draw.uniform(0.1, 0.3, 20)
    positions = [[Position(float(kl), kl > 0.15, 2.0, 2.0 + float(kl))] * 100 for kl in levels]
    made: Record = metrics(positions)
    low, high = made["kl_mean_nats"]["ci95"]
    error = levels.std(ddof=1) / math.sqrt(20)
    assert low < levels.mean() < high
    assert high - low == pytest.approx(2 * 2.09 * error, rel=0.2)  # Student's quantile
    low, high = made["top_token_agreement"]["ci95"]
    assert high - low > 0.2
    # Both sides move together, so their ratio is known better than either would tell.
    low, high = made["perplexity_ratio"]["ci95"]
    assert low < math.exp(levels.mean()) < high < 1.3
    assert made["kl_max_nats"]["ci95"] is None
    assert made["kl_max_nats"]["reason"]


@settings(deadline=None, max_examples=10)
@given(
    st.lists(
        st.lists(st.floats(0, 9), min_size=3, max_size=3), min_size=2, max_size=6, unique_by=tuple
    )
)
def test_the_tail_is_above_the_middle(kl: list[list[float]]) -> None:
    found = values(
        {"metrics": metrics([[Position(v, True, 1.0, 1.0) for v in text] for text in kl])}
    )
    assert found["kl_max_nats"] >= found["kl_p99_nats"] >= found["kl_median_nats"] >= 0
    assert found["kl_max_nats"] >= found["kl_mean_nats"] * (1 - 1e-12)


def test_the_record_s_sums_give_its_metrics(bench: Bench) -> None:
    record = bench.measure(changed(bench, add_noise))
    found, sums = values(record), record["texts"]
    tokens = sum(text["tokens"] for text in sums)
    assert tokens == record["tokens"]
    total = math.fsum(text["kl_sum_nats"] for text in sums)
    assert found["kl_mean_nats"] == pytest.approx(total / tokens)
    assert found["kl_max_nats"] == max(text["kl_max_nats"] for text in sums)
    agreeing = sum(text["agreeing"] for text in sums)
    assert found["top_token_agreement"] == pytest.approx(agreeing / tokens)
    nll = math.fsum(text["nll_nats"] for text in sums)
    assert found["perplexity"] == pytest.approx(math.exp(nll / tokens))


# ── the plan and the shipped text ──


def planned(catalogue: Catalogue, **changes: Any) -> RunConfig:
    choices = {**read_yaml(CONFIG / "config.yaml"), "models": ["tiny"], **changes}
    return RunConfig.from_config(choices, catalogue)


def test_every_planned_variant_but_the_base_is_compared(catalogue: Catalogue) -> None:
    rules = RuleInputs(planned(catalogue, variants=["base", "gptq-4bit", "gguf-q8_0"]))
    assert rules.fidelity() == [
        "runs/tiny/gptq-4bit/fidelity.json",
        "runs/tiny/gguf-q8_0/fidelity.json",
    ]
    assert RuleInputs(planned(catalogue, variants=["base"])).fidelity() == []
    shipped = dataclasses.replace(catalogue, fidelity=load_catalogue().fidelity)
    text = RuleInputs(planned(shipped)).fidelity_text()
    assert text == "resources/datasets/calibration-boolq/manifest.json"


def test_what_makes_it_run_again(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    def choices(**changes: Any) -> tuple[Record, Record, Record]:
        rules = RuleParams(planned(catalogue, **changes))
        return (
            rules.fidelity_reference("tiny"),
            rules.fidelity("tiny", "gptq-4bit"),
            rules.fidelity("tiny", "gguf-q8_0"),
        )

    before = choices()
    assert choices(protocol="demo", variants=["base", "gguf-q8_0"]) == before
    monkeypatch.setitem(VERSIONS, "llama.cpp", 99)
    after = choices()
    assert after[:2] == before[:2]
    assert after[2] != before[2]
    catalogue = dataclasses.replace(catalogue, fidelity={**catalogue.fidelity, "version": 99})
    assert all(new != old for new, old in zip(choices(), after, strict=True))


@pytest.mark.slow
def test_the_shipped_text_is_pinned_and_not_among_the_calibration_texts(tmp_path: Path) -> None:
    catalogue = load_catalogue()
    config = catalogue.fidelity
    choice = read_yaml(CONFIG / "config.yaml")["quantization"]["calibration"]
    for name in {config["dataset"], choice["dataset"]}:
        prepare_dataset(name, catalogue.datasets[name], tmp_path / name)
    ours = passages(config, tmp_path / config["dataset"])
    assert len(ours) > config["texts"]
    seen: list[str] = []
    for row in load_splits(tmp_path / choice["dataset"])["train"]:
        seen += row["text"].split()
        if len(seen) > choice["texts"] * choice["tokens"]:  # a word has a token or more
            break

    def windows(words: list[str]) -> set[tuple[str, ...]]:
        return {tuple(words[first : first + 20]) for first in range(len(words) - 19)}

    assert not windows(seen) & set().union(*(windows(text.split()) for text in ours))
