"""Published scores follow from published documents: computed again they are the same numbers."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from slm_benchmark.catalog.catalog import load_catalogue
from slm_benchmark.common.files import read_json
from slm_benchmark.common.schemas import schema
from slm_benchmark.evaluation.scores import Truncated, summarize
from slm_benchmark.publishing.recompute import STATISTICS, CannotRecompute, recompute
from slm_benchmark.records.store import documents_file, published_records
from slm_benchmark.statistics.estimates import Sample, by_method, estimate

Record = Any

CATALOGUE = load_catalogue()
PUBLISHED = [path for path in published_records() if read_json(path)["kind"] == "score"]


def test_there_are_published_scores() -> None:
    assert len(PUBLISHED) >= 60


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_published_record_follows_from_its_documents(path: Any) -> None:
    """Also under the names that earlier records gave their intervals."""
    record, documents = read_json(path), read_json(documents_file(path))
    again: list[Any] = list(recompute(record, documents))
    for told, found in zip(record["scores"], again, strict=True):
        assert told.keys() == found.keys()
        for key, value in told.items():
            assert found[key] == (pytest.approx(value, rel=1e-9) if _numeric(value) else value)


def _numeric(value: Any) -> bool:
    return isinstance(value, float | list)


def measured(
    task: str,
    values: dict[str, list[Any]],
    docs: dict[str, list[Any]] | None = None,
    **changes: Any,
) -> tuple[Record, list[Record]]:
    """A record's part that scores are in, and its documents, as scoring makes them.

    Args:
        task: Id in config/tasks.yaml.
        values: Part → values by metric, for each document.
        docs: Part → the documents.
        changes: Of the task's entry.
    """
    entry = {**CATALOGUE.tasks[task], **changes}
    samples = [
        {
            "part": part,
            "doc_id": place,
            "doc": docs[part][place] if docs else {},
            "target": "gold",
            "arguments": [("a", "b")] * 4,
            "resps": [['["a text"]']],
            "filtered_resps": ["text"],
            "filter": entry.get("filter", "none"),
            "doc_hash": f"{part}{place}",
            "values": given,
        }
        for part, rows in values.items()
        for place, given in enumerate(rows)
    ]

    def aggregation() -> Any:
        return {m: f for (name, m), f in STATISTICS.items() if name == entry["harness_task"]}

    parts: list[Any] = [
        SimpleNamespace(name=part, task=SimpleNamespace(aggregation=aggregation)) for part in values
    ]
    found = summarize(cast(Any, samples), cast(Any, entry), parts, Truncated())
    record = {
        "scores": found.scores,
        "dataset": {"documents_total": len(samples)},
        "task": {"id": task, "harness_task": entry["harness_task"]}
        | ({"unit": entry["unit"]} if "unit" in entry else {}),
    }
    # As they come back from disk.
    back: tuple[Record, list[Record]] = json.loads(json.dumps([record, found.documents]))
    return back[0], back[1]


def draws(n: int, seed: int = 0) -> np.random.Generator:
    return np.random.default_rng([n, seed])


def right(n: int, share: float, metric: str = "acc") -> list[Any]:
    return [{metric: float(hit)} for hit in draws(n).random(n) < share]


def counts(n: int) -> list[Any]:
    random = draws(n)
    return [
        {
            "chrf": [x for _ in range(6) for x in (9, 8, int(random.integers(0, 8)))],
            "bleu": [9, 8, *sorted(random.integers(0, 6, 4).tolist(), reverse=True), 9, 8, 7, 6],
        }
        for _ in range(n)
    ]


SENTENCES = {"eng_Latn-deu_Latn": counts(30), "deu_Latn-eng_Latn": counts(31)[:30]}
SCENARIOS: dict[str, tuple[tuple[Record, list[Record]], str | None]] = {
    "few right": (measured("arc_challenge", {"": right(60, 0.05, "acc_norm")}), "clopper-pearson"),
    "many": (measured("arc_challenge", {"": right(200, 0.4, "acc_norm")}), "wilson"),
    "subjects": (
        measured(
            "mmlu_pro",
            {"": right(300, 0.5)},
            {"": [{"category": f"subject {place % 14}"} for place in range(300)]},
        ),
        "cluster wilson",
    ),
    "three subjects": (
        measured(
            "mmlu_pro",
            {"": right(300, 0.5)},
            {"": [{"category": f"subject {place % 3}"} for place in range(300)]},
        ),
        None,
    ),
    "passages in languages": (
        measured(
            "belebele",
            {"eng_Latn": right(80, 0.5), "deu_Latn": right(80, 0.4)},
            {
                part: [{"link": f"p{p // 2}"} for p in range(80)]
                for part in ("eng_Latn", "deu_Latn")
            },
        ),
        "cluster wilson over parts",
    ),
    "languages without groups": (
        measured("belebele", {"eng_Latn": right(80, 0.5), "deu_Latn": right(90, 0.4)}),
        "wilson over parts",
    ),
    "sets": (
        measured("bbh", {f"set {p}": right(20 + p, 0.4, "acc_norm") for p in range(8)}),
        "cluster wilson",
    ),
    "translations": (
        measured("flores_200", SENTENCES, {p: [{"id": i} for i in range(30)] for p in SENTENCES}),
        "cluster expanded bootstrap over parts",
    ),
    "points of repositories": (
        measured(
            "codexglue",
            {
                part: [{"smoothed_bleu_4": v} for v in draws(50, 2).random(50) * 30]
                for part in ("go", "php")
            },
            {part: [{"repo": f"{part}{i // 3}"} for i in range(50)] for part in ("go", "php")},
        ),
        "cluster t over parts",
    ),
    "instructions": (
        measured(
            "ifeval",
            {
                "": [
                    {
                        "prompt_level_strict_acc": float(p % 3 == 0),
                        "inst_level_strict_acc": [1, p % 2],
                    }
                    for p in range(40)
                ]
            },
        ),
        "wilson",
    ),
    "ratings": (
        measured(
            "mt_bench",
            {"": [{"judge_score": None if p == 3 else p % 7 + 1.5} for p in range(24)]},
            {"": [{"category": f"c{p % 4}"} for p in range(24)]},
        ),
        "t",
    ),
    "groups of people": (
        measured(
            "bold",
            {"": [{"profanity": None if p == 3 else float(p % 5 == 0)} for p in range(60)]},
            {
                "": [
                    {"domain": "d", "category": f"g{p % 3}", "name": f"n{p // 2}"}
                    for p in range(60)
                ]
            },
        ),
        "cluster wilson",
    ),
    "one document": (measured("arc_challenge", {"": [{"acc_norm": 1.0}]}), "clopper-pearson"),
    "all the same": (
        measured("codexglue", {"go": [{"smoothed_bleu_4": 3.5}] * 9}),
        None,
    ),
    "a part without a value": (
        measured("belebele", {"eng_Latn": right(9, 0.5), "deu_Latn": [{"acc": None}] * 9}),
        None,
    ),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_scoring_writes_follows_from_the_documents(name: str) -> None:
    (record, documents), method = SCENARIOS[name]
    (headline,) = [row for row in record["scores"] if row["headline"]]
    assert headline["ci_method"] == method
    assert recompute(record, documents) == record["scores"]
    assert {key for row in record["scores"] for key in row} <= set(
        schema("cell")["properties"]["scores"]["items"]["properties"]
    )
    for row in record["scores"]:
        if row["value"] is not None:
            assert (row["ci95"] is None) == ("reason" in row), row


def test_scores_by_group_are_among_them() -> None:
    rows = SCENARIOS["groups of people"][0][0]["scores"]
    assert [row.get("part") for row in rows] == [None, "d", "d/g0", "d/g1", "d/g2", "d"]
    assert rows[-1]["ci_method"] == "bootstrap_range"
    assert rows[0]["clusters"] == 30
    ratings = SCENARIOS["ratings"][0][0]["scores"]
    assert {row.get("part") for row in ratings} == {None, "c0", "c1", "c2", "c3"}


def test_no_text_of_a_group_is_written() -> None:
    record, documents = SCENARIOS["passages in languages"][0]
    assert len({document["cluster"] for document in documents}) == 40
    assert all(len(document["cluster"]) == 12 for document in documents)
    assert "link" not in json.dumps(documents)
    (headline,) = [row for row in record["scores"] if row["headline"]]
    assert (headline["clusters"], headline["combine"]) == (40, "parts")


@pytest.mark.model
@pytest.mark.parametrize("key", ["value", "stderr", "ci95", "n", "missing"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_an_edit_of_a_number_is_seen(name: str, key: str) -> None:
    (record, documents), _ = SCENARIOS[name]
    for place, row in enumerate(record["scores"]):
        if row.get(key) is None:
            continue
        edited = copy.deepcopy(record)
        number = row[key]
        edited["scores"][place][key] = [0.1, 0.2] if key == "ci95" else number + 1
        again: Any = recompute(edited, documents)[place]
        assert again[key] == number


def test_an_edit_of_a_document_is_seen() -> None:
    (record, documents), _ = SCENARIOS["many"]
    edited = copy.deepcopy(documents)
    edited[5]["values"]["acc_norm"] = 1 - edited[5]["values"]["acc_norm"]
    assert recompute(record, edited) != record["scores"]
    assert recompute(record, documents[1:]) != record["scores"]


def test_a_row_that_was_taken_away_is_given_back() -> None:
    (record, documents), _ = SCENARIOS["languages without groups"]
    rows = record["scores"]
    assert len(rows) == 3
    for place in range(3):
        less: Record = {**record, "scores": [row for i, row in enumerate(rows) if i != place]}
        found = recompute(less, documents)
        assert len(found) == 3
        assert found[-1].get("part") == rows[place].get("part")
        assert found[-1]["n"] == rows[place]["n"]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("wald", "no interval is called 'wald'"),
        ("cluster wilson", "needs the groups"),
        ("wilson over parts", "needs the parts"),
    ],
)
def test_a_name_that_does_not_fit_is_refused(method: str, message: str) -> None:
    (record, documents), _ = SCENARIOS["many"]
    edited = copy.deepcopy(record)
    edited["scores"][0]["ci_method"] = method
    with pytest.raises(CannotRecompute, match=message):
        recompute(edited, documents)


def test_lists_without_a_known_statistic_are_refused() -> None:
    (record, documents), _ = SCENARIOS["translations"]
    edited = copy.deepcopy(record)
    edited["task"]["harness_task"] = "another"
    with pytest.raises(CannotRecompute, match="nothing says how they make a score"):
        recompute(edited, documents)


def test_earlier_names_mean_what_they_did() -> None:
    values = [0.5, 0.25, 1.0, 0.0, 0.75, 0.5]
    parts = ["a", "a", "a", "b", "b", "b"]
    normal = by_method(Sample(values), "normal")
    error = np.std(values, ddof=1) / np.sqrt(6)
    assert normal.ci95 == pytest.approx((0.5 - 1.959964 * error, 0.5 + 1.959964 * error))
    over = by_method(Sample(values, parts=parts), "normal over parts")
    spread = [np.var(values[:3], ddof=1) / 3, np.var(values[3:], ddof=1) / 3]
    assert over.value == pytest.approx((np.mean(values[:3]) + np.mean(values[3:])) / 2)
    assert over.stderr == pytest.approx(np.sqrt(sum(spread)) / 2)
    assert estimate(Sample(values)).method == "t"


def test_the_key_changes_no_digest_of_what_is_asked() -> None:
    """Records from before it stay comparable with records that have it."""
    for task, entry in CATALOGUE.tasks.items():
        if "cluster" in entry:
            protocol = next(iter(CATALOGUE.protocols))
            choices: Any = CATALOGUE.scoring_choices(task, protocol)
            assert "cluster" not in choices["task"]
