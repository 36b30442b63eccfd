"""FLORES+: from the hub to a score, the two corpus metrics, and their counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_benchmark.common.errors import UserError
from slm_benchmark.download.datasets import load_splits, prepare_dataset
from slm_benchmark.download.readers import flores_plus
from slm_benchmark.statistics.bootstrap import bootstrap_interval
from slm_benchmark.tasks.corpus_metrics import (
    bleu,
    bleu_statistics,
    bleu_tokenizer,
    chrf,
    chrf_statistics,
    signatures,
)
from slm_benchmark.tasks.extra.flores.flores import documents
from slm_benchmark.tasks.extra.flores.languages import LANGUAGES
from slm_benchmark.tasks.loader import load_parts
from tests.support.hub import Hub

SENTENCES = {
    "eng_Latn": [
        "The ferry leaves the harbour at seven every morning.",
        "Two bakers share one oven behind the town hall.",
        "Snow closed the mountain road for three days.",
        "The old bridge was painted green last spring.",
        "Nobody knows who planted the apple trees.",
        "Our train waited an hour in the valley.",
        "The museum shows maps that sailors drew by hand.",
        "Rain is expected in the north on Thursday.",
        "She repaired the clock with a spring from a toy.",
        "The library lends tools as well as books.",
        "Bees returned to the garden after the drought.",
        "Four students measured the height of the tower.",
    ],
    "deu_Latn": [
        "Die Fähre verlässt den Hafen jeden Morgen um sieben.",
        "Zwei Bäcker teilen sich einen Ofen hinter dem Rathaus.",
        "Schnee sperrte die Bergstraße drei Tage lang.",
        "Die alte Brücke wurde im letzten Frühjahr grün gestrichen.",
        "Niemand weiß, wer die Apfelbäume gepflanzt hat.",
        "Unser Zug wartete eine Stunde im Tal.",
        "Das Museum zeigt Karten, die Seeleute von Hand zeichneten.",
        "Am Donnerstag wird im Norden Regen erwartet.",
        "Sie reparierte die Uhr mit einer Feder aus einem Spielzeug.",
        "Die Bibliothek verleiht Werkzeug ebenso wie Bücher.",
        "Nach der Dürre kehrten die Bienen in den Garten zurück.",
        "Vier Studenten maßen die Höhe des Turms.",
    ],
    "cmn_Hans": [
        "渡轮每天早上七点离开港口。",
        "两位面包师共用市政厅后面的一个烤炉。",
        "大雪把山路封了三天。",
        "那座旧桥去年春天被漆成了绿色。",
        "没有人知道是谁种下了这些苹果树。",
        "我们的火车在山谷里等了一个小时。",
        "博物馆展出水手们手绘的地图。",
        "预计周四北部有雨。",
        "她用玩具里的弹簧修好了钟。",
        "图书馆既借书也借工具。",
        "旱灾过后,蜜蜂回到了花园。",
        "四名学生测量了塔的高度。",
    ],
}
DEV = 6
REPO = "openlanguagedata/flores_plus"

TEXTS = st.text(alphabet="abcdeé ,.!?\n\u3000种下了树。0123456789", max_size=30)
CORPORA = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6)


def language_rows(code: str, column: str = "text") -> list[dict[str, Any]]:
    """All sentences of a language, as the hub has them."""
    language, script = code.split("_")[:2]
    return [
        {"id": place, "iso_639_3": language, "iso_15924": script, column: text, "topic": "town"}
        for place, text in enumerate(SENTENCES[code])
    ]


@pytest.fixture
def prepared(hub: Hub, tmp_path: Path) -> Path:
    """The three languages through the hub's stand-in: a configuration each, files by split."""
    folder = hub.root / REPO
    configs = []
    for code in SENTENCES:
        rows = language_rows(code)
        files = []
        # Languages in another order of rows: they belong together by id.
        for split, chosen in (("dev", rows[:DEV]), ("devtest", rows[DEV:][::-1])):
            path = folder / split / f"{code}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            chosen = chosen if code == "eng_Latn" else chosen[::-1]
            path.write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")
            files.append({"split": split, "path": f"{split}/{code}.jsonl"})
        configs.append({"config_name": code, "data_files": files})
    (folder / "README.md").write_text(f"---\n{json.dumps({'configs': configs})}\n---\n")
    entry: Any = {
        "source": "hub",
        "repo": REPO,
        "config": "{part}",
        "parts": list(SENTENCES),
        "reader": "flores_plus",
        "revision": hub.commit(REPO),
        "splits": ["devtest", "dev"],
        "gated": True,
        "license": "CC-BY-SA-4.0",
    }
    target = tmp_path / "flores_plus"
    prepare_dataset("flores_plus", entry, target, tmp_path / "downloads")
    return target


def test_languages_are_joined_by_id(prepared: Path) -> None:
    splits = load_splits(prepared, "eng_Latn-deu_Latn")
    columns = ["id", *(f"sentence_{code}" for code in SENTENCES)]
    assert splits["dev"].column_names == columns
    for split, first, end in (("dev", 0, DEV), ("devtest", DEV, 12)):
        assert splits[split].to_list() == [
            dict(zip(columns, [place, *(SENTENCES[c][place] for c in SENTENCES)], strict=True))
            for place in range(first, end)
        ]


def test_older_forms_of_the_set_are_read() -> None:
    plain = {"eng_Latn": language_rows("eng_Latn"), "deu_Latn": language_rows("deu_Latn")}
    older = {code: language_rows(code, "sentence") for code in plain}
    oldest = {code: language_rows(code, f"sentence_{code}") for code in plain}
    for rows in oldest["eng_Latn"]:
        del rows["iso_639_3"], rows["iso_15924"]
    assert flores_plus(plain) == flores_plus(older) == flores_plus(oldest)
    assert flores_plus(plain)[0]["sentence_deu_Latn"] == SENTENCES["deu_Latn"][0]


def missing(rows: list[dict[str, Any]]) -> None:
    del rows[3]


def shifted(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        row["id"] += 1


def repeated(rows: list[dict[str, Any]]) -> None:
    rows[4]["id"] = 3


def unnamed(rows: list[dict[str, Any]]) -> None:
    rows[5]["translation"] = rows[5].pop("text")


def foreign(rows: list[dict[str, Any]]) -> None:
    rows[5]["iso_639_3"] = "nld"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (missing, "deu_Latn: 1 ids are not in all languages, the first is 3"),
        (shifted, "deu_Latn: 2 ids are not in all languages, the first is 0"),
        (repeated, "deu_Latn: the id 3 comes twice"),
        (unnamed, "deu_Latn: there is none of the columns text, sentence, sentence_deu_Latn"),
        (foreign, "deu_Latn: the row 5 is marked nld_Latn"),
    ],
)
def test_rows_that_do_not_fit_are_refused(change: Any, message: str) -> None:
    languages = {"eng_Latn": language_rows("eng_Latn"), "deu_Latn": language_rows("deu_Latn")}
    change(languages["deu_Latn"])
    with pytest.raises(ValueError, match=message):
        flores_plus(languages)


def table() -> dict[str, Dataset]:
    """The prepared splits, without the hub."""
    rows = flores_plus({code: language_rows(code) for code in SENTENCES})
    return {"dev": Dataset.from_list(rows[:DEV]), "devtest": Dataset.from_list(rows[DEV:])}


@pytest.mark.parametrize(
    ("direction", "message"),
    [
        ("eng_Latn-fra_Latn", r"'fra_Latn'\)\. Fix: add the language to config/datasets\.yaml"),
        ("eng_Latn-deu_Grek", r"'deu_Grek'\)\. Fix: use a code of FLORES\+"),
        ("eng_Latn-eng_Latn", r"write two codes"),
        ("eng_Latn", r"write two codes"),
    ],
)
def test_a_direction_that_is_none_is_refused(direction: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        documents(table(), direction)


def test_every_language_has_a_name_and_every_code_a_script() -> None:
    assert len(LANGUAGES) > 200
    for code, name in LANGUAGES.items():
        language, script, *_ = code.split("_")
        assert (len(language), len(script)) == (3, 4)
        assert name == name.strip() != ""
    # A prompt could not tell two languages of one name apart; these are old and new codes of one.
    named: dict[str, set[str]] = {}
    for code, name in LANGUAGES.items():
        named.setdefault(name, set()).add(code)
    shared = {frozenset(codes) for codes in named.values() if len(codes) > 1}
    assert shared == {
        frozenset({"ajp_Arab", "apc_Arab_sout3123"}),
        frozenset({"apc_Arab", "apc_Arab_nort3139"}),
        frozenset({"cmn_Hans", "zho_Hans"}),
        frozenset({"cmn_Hant", "zho_Hant"}),
        frozenset({"ekk_Latn", "est_Latn"}),
        frozenset({"fil_Latn", "tgl_Latn"}),
        frozenset({"grn_Latn", "gug_Latn"}),
    }


# ── through the harness ──


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared dataset, made from a file instead of the hub."""
    root = tmp_path_factory.mktemp("flores")
    files = {}
    for split, rows in table().items():
        rows.to_json(root / f"{split}.jsonl", force_ascii=False)
        files[split] = str(root / f"{split}.jsonl")
    entry: Any = {"source": "local", "files": files, "license": "CC-BY-SA-4.0"}
    prepare_dataset("flores_plus", entry, root / "prepared")
    return root / "prepared"


def run(
    folder: Path, direction: str, answer: Any
) -> tuple[dict[str, float], list[dict[str, Any]], Any]:
    """Scores, samples and task of a direction, answered by ``answer(document)``."""
    import lm_eval
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

    class Answers(LM):  # type: ignore[misc]
        def generate_until(self, requests: Any, **_: Any) -> list[str]:
            return [answer(request.doc) for request in requests]

        def loglikelihood(self, requests: Any, **_: Any) -> Any:
            raise NotImplementedError

        loglikelihood_rolling = loglikelihood

    entry: Any = {"harness_task": "flores", "num_fewshot": 5}
    (part,) = load_parts("flores_200", entry, folder, "first_n", [direction])
    found = lm_eval.simple_evaluate(
        model=Answers(),
        tasks=[part.task],
        log_samples=True,
        bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False),
    )
    name = f"flores_{direction}"
    scores = found["results"][name]
    samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
    return {name: scores[f"{name},none"] for name in ("chrf", "bleu")}, samples, part.task


@pytest.mark.parametrize(
    "direction", ["eng_Latn-deu_Latn", "deu_Latn-eng_Latn", "deu_Latn-cmn_Hans"]
)
def test_oracle_copy_and_nonsense(folder: Path, direction: str) -> None:
    """The reference itself gets 100, the source somewhat, and what shares nothing gets nothing."""
    source, target = direction.split("-")
    oracle, samples, _ = run(folder, direction, lambda doc: doc["target"])
    assert oracle == pytest.approx({"chrf": 100, "bleu": 100})
    assert [sample["target"] for sample in samples] == SENTENCES[target][DEV:]
    assert [sample["doc"]["source"] for sample in samples] == SENTENCES[source][DEV:]

    wrong, _, _ = run(folder, direction, lambda doc: "0123456789" * 4)
    assert wrong["chrf"] < 2
    assert wrong["bleu"] < 2

    copied, _, _ = run(folder, direction, lambda doc: doc["source"])
    assert copied["chrf"] < 40
    if target != "cmn_Hans":  # Chinese shares no character with German
        assert wrong["chrf"] + 5 < copied["chrf"]


def test_scores_are_those_of_sacrebleu(folder: Path) -> None:
    """Answers that are partly right, one of them with white space around it."""
    answers = [
        " Das Museum zeigt Karten von Seeleuten.  ",
        "Am Donnerstag regnet es im Norden.",
        "",
        "Die Bibliothek verleiht Werkzeug und Bücher.",
        "Bienen",
        "Vier Studenten maßen die Höhe des Turms.",
    ]
    wanted = SENTENCES["deu_Latn"][DEV:]
    by_target = dict(zip(wanted, answers, strict=True))
    found, samples, _ = run(folder, "eng_Latn-deu_Latn", lambda doc: by_target[doc["target"]])
    stripped = [answer.strip() for answer in answers]
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(stripped, [wanted]).score, abs=1e-9)
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(stripped, [wanted]).score, abs=1e-9)
    # The empty answer is kept and lowers the score: dropping it would raise it.
    kept = [sample["chrf"] for sample in samples]
    assert len(kept) == 6
    assert chrf([kept[2]]) == 0.0
    assert chrf(kept[:2] + kept[3:]) > found["chrf"] + 1
    # What is recorded of a document are whole numbers.
    for sample in samples:
        assert all(type(count) is int for name in ("chrf", "bleu") for count in sample[name])


def test_the_prompt(folder: Path) -> None:
    _, samples, task = run(folder, "eng_Latn-deu_Latn", lambda doc: "")
    prompt, settings = samples[0]["arguments"][0]
    english, german = SENTENCES["eng_Latn"], SENTENCES["deu_Latn"]
    examples = [f"English: {english[i]}\nGerman: {german[i]}\n\n" for i in range(5)]
    assert prompt == (
        "Translate from English into German.\n\n"
        + "".join(examples)
        + f"English: {english[DEV]}\nGerman:"
    )
    assert settings["until"] == ["\n"]
    assert settings["max_gen_toks"] == 256
    assert settings["do_sample"] is False
    # The definition must read the same in every process: a printed object shows its address.
    definition = json.dumps(task.dump_config(), default=str)
    assert "def chrf" in definition
    assert " at 0x" not in definition


def test_an_interval_of_a_corpus_metric() -> None:
    answers = [
        "Das Museum zeigt Karten.",
        "Regen im Norden",
        "Sie reparierte die Uhr",
        "Die",
        "",
        "Vier",
    ]
    pairs = list(zip(answers, SENTENCES["deu_Latn"][DEV:], strict=True))
    counts = [chrf_statistics(written, wanted) for written, wanted in pairs]
    found = bootstrap_interval(counts, chrf)
    assert found is not None
    assert found.low < chrf(counts) < found.high
    # The same from texts, drawn anew each time.
    slow = bootstrap_interval(pairs, corpus_chrf_of_pairs)
    assert slow is not None
    assert found.stderr == pytest.approx(slow.stderr, rel=0.15)


def corpus_chrf_of_pairs(pairs: Any) -> float:
    return float(sacrebleu.corpus_chrf([w for w, _ in pairs], [[r for _, r in pairs]]).score)


# ── the metrics ──


@given(CORPORA)
@settings(max_examples=200)
def test_chrf_is_sacrebleu_s(corpus: list[tuple[str, str]]) -> None:
    found = chrf([chrf_statistics(written, wanted) for written, wanted in corpus])
    assert found == pytest.approx(corpus_chrf_of_pairs(corpus), abs=1e-9)
    assert 0 <= found <= 100


@pytest.mark.parametrize("tokenizer", ["13a", "zh", "char"])
@given(corpus=CORPORA)
@settings(max_examples=60)
def test_bleu_is_sacrebleu_s(tokenizer: str, corpus: list[tuple[str, str]]) -> None:
    found = bleu([bleu_statistics(written, wanted, tokenizer) for written, wanted in corpus])
    expected = sacrebleu.corpus_bleu(
        [written for written, _ in corpus],
        [[wanted for _, wanted in corpus]],
        tokenize=tokenizer,
        force=True,
    )
    assert found == pytest.approx(expected.score, abs=1e-9)
    assert 0 <= found <= 100


@given(TEXTS, TEXTS)
def test_counts_are_counts(written: str, wanted: str) -> None:
    counts = chrf_statistics(written, wanted)
    assert len(counts) == 18
    for hypothesis, reference, common in zip(counts[::3], counts[1::3], counts[2::3], strict=True):
        assert 0 <= common <= min(hypothesis, reference)
    if "".join(wanted.split()):
        assert chrf([chrf_statistics(wanted, wanted)]) == pytest.approx(100)
    assert chrf([chrf_statistics("", wanted)]) == 0


def test_tokenizers_need_no_download() -> None:
    assert bleu_tokenizer("cmn_Hans") == bleu_tokenizer("zho_Hant") == "zh"
    assert bleu_tokenizer("jpn_Jpan") == bleu_tokenizer("kor_Hang") == "char"
    assert bleu_tokenizer("deu_Latn") == bleu_tokenizer("arb_Arab") == "13a"
    for code in LANGUAGES:
        assert len(bleu_statistics("a b", "a b", bleu_tokenizer(code))) == 10


def test_signatures_say_how_it_was_counted() -> None:
    version = sacrebleu.__version__
    assert signatures("deu_Latn") == {
        "chrf": f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{version}",
        "bleu": f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{version}",
    }
    assert "tok:zh" in signatures("cmn_Hans")["bleu"]
