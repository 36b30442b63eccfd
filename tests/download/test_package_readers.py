"""Benchmarks whose real rows a package carries: their readers, and the harness's tasks on the rows.

A failed comparison of GPQA's rows must not print them: they are compared as yes or no.
"""

from __future__ import annotations

import ast
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from slm_benchmark.catalog.catalog import load_catalogue
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import digest, read_json, sha256_file
from slm_benchmark.download import nltk_data
from slm_benchmark.download.datasets import prepare_dataset
from slm_benchmark.download.nltk_data import nltk_environment, prepare_punkt
from slm_benchmark.download.readers import READERS
from slm_benchmark.sandbox import Outcome
from slm_benchmark.tasks.code_eval import CodeEval, code_eval_metric
from slm_benchmark.tasks.loader import TaskPart, load_parts
from slm_benchmark.tasks.requests import build_requests, score_documents
from tests.download.test_download import package_index, wheel

__all__ = ["package_index"]

TASKS = ("gpqa_diamond", "humaneval", "mbpp", "ifeval")


def test_gpqa_puts_the_options_back() -> None:
    read = READERS["benchkit_gpqa"]
    generator = random.Random(0)
    rows = []
    for number in range(40):
        wrong = [f"{number} plus {extra} apples" for extra in (2, 3, 4)]
        options = [*wrong, f"{number} plus 1 apples"]
        generator.shuffle(options)
        key = "ABCD"[options.index(f"{number} plus 1 apples")]
        row = {
            "task_id": f"GPQA/{number}",
            "question": "How many apples?",
            "choices": options,
            "labels": [*"ABCD"],
            "answer": key,
            "domain": "Fruit",
            "subdomain": "Apples",
        }
        rows.append(row)
        assert read(row) == {
            "Question": "How many apples?",
            "Correct Answer": f"{number} plus 1 apples",
            "Incorrect Answer 1": wrong[0],
            "Incorrect Answer 2": wrong[1],
            "Incorrect Answer 3": wrong[2],
            "High-level domain": "Fruit",
            "Subdomain": "Apples",
        }
    assert len({row["answer"] for row in rows}) == 4
    other = next(key for key in "ABCD" if key != rows[7]["answer"])
    with pytest.raises(ValueError, match="GPQA/7"):
        read({**rows[7], "answer": other})
    with pytest.raises(ValueError, match="GPQA/7"):
        read({**rows[7], "choices": [*rows[7]["choices"], "a fifth"]})


def test_ifeval_fills_the_arguments() -> None:
    read = READERS["benchkit_ifeval"]
    row = {
        "task_id": "IFEval/1000",
        "prompt": "Write two words, without commas.",
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [{}, {"relation": "at least", "num_words": 2}],
    }
    found = read(row)
    assert found["key"] == 1000
    assert [len(arguments) for arguments in found["kwargs"]] == [24, 24]
    given = [{k: v for k, v in each.items() if v is not None} for each in found["kwargs"]]
    assert given == row["kwargs"]
    unfit: list[list[dict[str, int]]] = [[{}], [{}, {"number_of_words": 2}]]
    for kwargs in unfit:
        with pytest.raises(ValueError, match="IFEval/1000"):
            read({**row, "kwargs": kwargs})


def test_code_rows() -> None:
    read = READERS["benchkit_humaneval"]
    row = {
        "task_id": "HumanEval/3",
        "prompt": "def one():\n",
        "canonical_solution": "    return 1\n",
        "test": "def check(candidate):\n    assert candidate() == 1\n",
        "entry_point": "one",
    }
    assert read(row) == row
    with pytest.raises(ValueError, match="HumanEval/3"):
        read({**row, "test": "assert one() == 1"})

    read = READERS["benchkit_mbpp"]
    tests = [f'assert add({n}, 1) == {n + 1}, "{n}"' for n in range(3)]
    row = {"task_id": "MBPP/11", "prompt": "Add.", "test": "\n".join(tests)}
    found = {"task_id": 11, "text": "Add.", "test_list": tests, "test_setup_code": ""}
    assert read(row) == found
    setup = "root = 1\r\nleaf = 2"
    assert read({**row, "test": f"{setup}\n{row['test']}"}) == {**found, "test_setup_code": setup}
    for short in ("\n".join(tests[:2]), row["test"] + "\nprint()"):
        with pytest.raises(ValueError, match="MBPP/11"):
            read({**row, "test": short})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Prepared dataset of each task, from the real package."""
    entries = load_catalogue().datasets
    root = tmp_path_factory.mktemp("datasets")
    for task in TASKS:
        prepare_dataset(task, entries[f"{task}-benchkit"], root / task)
    return {task: root / task for task in TASKS}


def load(task_id: str, folders: dict[str, Path], seed: int = 0) -> TaskPart:
    entry = load_catalogue().tasks[task_id]
    (part,) = load_parts(task_id, entry, folders[task_id], "first_n", seed=seed)
    return part


Response = Callable[[dict[str, Any], list[Any]], Sequence[Any]]
"""(document, its requests) → the responses of a made-up model."""


def scores(
    part: TaskPart, response: Response, documents: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """Values of documents (default all), scored by the harness, for a made-up model's answers."""
    chosen = {part.name: documents or range(len(part.task.eval_docs))}
    build_requests([part], chosen, seed=0)
    by_document: dict[int, list[Any]] = {}
    for request in part.task.instances:
        by_document.setdefault(request.doc_id, []).append(request)
    for requests in by_document.values():
        requests.sort(key=lambda request: request.idx)
        for request, said in zip(requests, response(requests[0].doc, requests), strict=True):
            request.resps.append(said)
    return [sample["values"] for sample in score_documents([part], chosen)]


def prefer(choose: Callable[[dict[str, Any], int], int]) -> Response:
    """A model that finds one choice likelier than the others."""

    def response(doc: dict[str, Any], requests: list[Any]) -> list[tuple[float, bool]]:
        best = choose(doc, len(requests))
        return [(-1.0 if place == best else -1e6, False) for place in range(len(requests))]

    return response


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.slow
def test_gpqa_oracle_twin_and_guesser(folders: dict[str, Path]) -> None:
    part = load("gpqa_diamond", folders)
    assert len(part.task.eval_docs) == 198

    def right(doc: dict[str, Any], options: int) -> int:
        (place,) = (n for n in range(options) if doc["answer"] == f"({'ABCD'[n]})")
        return place

    oracle = scores(part, prefer(right))
    twin = scores(part, prefer(lambda doc, options: (right(doc, options) + 1) % options))
    generator = random.Random(1)
    guess = scores(part, prefer(lambda doc, options: generator.randrange(options)))
    assert {value["acc"] for value in oracle} == {value["acc_norm"] for value in oracle} == {1}
    assert {value["acc"] for value in twin} == {value["acc_norm"] for value in twin} == {0}
    assert mean([value["acc"] for value in guess]) == pytest.approx(0.25, abs=0.1)

    # The option that the task calls right is the right one of the row.
    docs = part.task.eval_docs.to_list()
    named = [doc["choice" + str(right(doc, 4) + 1)] == doc["Correct Answer"] for doc in docs]
    assert mean(named) > 0.98  # the harness tidies white space inside a few of the options
    # The order of the options follows from the seed.
    answers = [doc["answer"] for doc in docs]
    again = [doc["answer"] for doc in load("gpqa_diamond", folders).task.eval_docs.to_list()]
    other = [doc["answer"] for doc in load("gpqa_diamond", folders, 1).task.eval_docs.to_list()]
    assert answers == again
    assert answers != other


class Asked:
    """Keeps what the code tasks would run, and runs nothing."""

    def __init__(self) -> None:
        self.programs: list[tuple[str, str]] = []

    def run(self, candidate: str, tests: str) -> Outcome:
        self.programs.append((tests, candidate))
        return Outcome("passed", None, wall_s=0.0, cpu_s=0.0)


@contextmanager
def code_metric() -> Iterator[Asked]:
    """The harness's code tasks over a metric that runs nothing."""
    asked = Asked()
    with code_eval_metric(CodeEval(asked.run)):
        yield asked


@pytest.mark.slow
def test_humaneval_would_run_its_programs(folders: dict[str, Path]) -> None:
    with code_metric() as asked:
        part = load("humaneval", folders)
        scores(part, lambda doc, requests: [doc["canonical_solution"]])
    assert len(asked.programs) == len(part.task.eval_docs) == 164
    for (test, program), doc in zip(asked.programs, part.task.eval_docs, strict=True):
        assert program == doc["prompt"] + doc["canonical_solution"]
        assert test.endswith(f"\ncheck({doc['entry_point']})")
        assert f"def {doc['entry_point']}(" in program
        ast.parse(f"{program}\n{test}")


@pytest.mark.slow
def test_mbpp_would_run_its_programs(folders: dict[str, Path]) -> None:
    with code_metric() as asked:
        part = load("mbpp", folders)
        scores(part, lambda doc, requests: ["def nothing():\n    pass\n"])
        prompt = part.task.instances[0].args[0]
    assert len(asked.programs) == len(part.task.eval_docs) == 500
    for (test, program), doc in zip(asked.programs, part.task.eval_docs, strict=True):
        assert program == "def nothing():\n    pass\n"
        assert test == "\n".join(doc["test_list"])
        ast.parse(test)
    assert [doc["task_id"] for doc in part.task.eval_docs if doc["test_setup_code"]] == [367]
    # The few-shot examples are the task's own, and none of the rows.
    assert prompt.count("[BEGIN]\n") == 4
    assert prompt.count("\n[DONE]") == 3
    assert not any(doc["text"] in prompt for doc in part.task.eval_docs.to_list()[1:])


@pytest.mark.slow
def test_ifeval_checks_real_answers(folders: dict[str, Path], tmp_path: Path) -> None:
    prepare_punkt(tmp_path / "nltk")
    with nltk_environment(tmp_path / "nltk"):
        part = load("ifeval", folders)
        from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

        docs = part.task.eval_docs.to_list()
        silence = scores(part, lambda doc, requests: [""])
        obeyed = scores(part, lambda doc, requests: [obey(doc)])
        defied = scores(part, lambda doc, requests: [defy(doc)])
        # For two documents that ask for "#" or "!" the harness draws a letter instead.
        drawn = [place for place, doc in enumerate(docs) if doc["key"] in (1122, 1129)]
        half = "abcdefghijklm" * 9
        together = scores(part, lambda doc, requests: [half], drawn)
        alone = [scores(part, lambda doc, requests: [half], [place])[0] for place in drawn]
    assert len(drawn) == 2
    assert together == alone
    assert len(docs) == 541
    used = {name for doc in docs for name in doc["instruction_id_list"]}
    assert used == set(INSTRUCTION_DICT)
    for value in silence:
        assert not any([value["prompt_level_loose_acc"], *value["inst_level_loose_acc"]])
    mine = [place for place, doc in enumerate(docs) if only_instruction(doc) in OBEDIENT]
    assert len(mine) > 100
    assert {only_instruction(docs[place]) for place in mine} == set(OBEDIENT)
    for place in mine:
        assert obeyed[place]["prompt_level_strict_acc"], docs[place]["key"]
        assert obeyed[place]["inst_level_loose_acc"] == [True], docs[place]["key"]
        assert not defied[place]["prompt_level_loose_acc"], docs[place]["key"]


def only_instruction(doc: dict[str, Any]) -> str | None:
    """The instruction of a document that has no other."""
    names = doc["instruction_id_list"]
    return str(names[0]) if len(names) == 1 else None


def _sentences(arguments: dict[str, Any]) -> str:
    few = arguments["relation"] == "less than"
    count = 1 if few else arguments["num_sentences"]
    return " ".join(f"Mr. Small reads book {n} at home." for n in range(count))


OBEDIENT: dict[str, tuple[Callable[[dict[str, Any]], str], Callable[[dict[str, Any]], str]]] = {
    "punctuation:no_comma": (lambda _: "No comma here.", lambda _: "One, two."),
    "change_case:english_lowercase": (
        lambda _: "the small dog reads a long book in the garden.",
        lambda _: "The small dog reads a long book in the garden.",
    ),
    "change_case:english_capital": (
        lambda _: "THE SMALL DOG READS A LONG BOOK IN THE GARDEN.",
        lambda _: "the small dog reads a long book in the garden.",
    ),
    "length_constraints:number_sentences": (
        _sentences,
        lambda a: "Go. " * (a["num_sentences"] * (a["relation"] == "less than")) + "Go.",
    ),
    "length_constraints:number_words": (
        lambda a: "word " * (a["num_words"] - (a["relation"] == "less than")),
        lambda a: "word " * (a["num_words"] - (a["relation"] == "at least")),
    ),
    "startend:quotation": (lambda _: '"A quotation."', lambda _: "No quotation."),
    "startend:end_checker": (lambda a: f"Well. {a['end_phrase']}", lambda _: "Nothing of it."),
    "keywords:existence": (lambda a: " ".join(a["keywords"]), lambda _: "none of them"),
    "detectable_format:title": (lambda _: "<<A title>>\nText.", lambda _: "Text."),
    "combination:repeat_prompt": (
        lambda a: f"{a['prompt_to_repeat']}\nText.",
        lambda _: "Text.",
    ),
}
"""Instruction → an answer that follows it, and one that does not, from its arguments."""


def obey(doc: dict[str, Any]) -> str:
    """An answer that follows the document's only instruction, where it is one of the table."""
    return _answer(doc, 0)


def defy(doc: dict[str, Any]) -> str:
    """An answer that breaks it."""
    return _answer(doc, 1)


def _answer(doc: dict[str, Any], which: int) -> str:
    name = only_instruction(doc)
    return "" if name not in OBEDIENT else OBEDIENT[name][which](doc["kwargs"][0])


# ── what IFEval's checks need beside the rows ──

PUNKT = "llama_index/core/_static/nltk_cache/tokenizers/punkt_tab"
MODEL = {
    # A model of the project's own: it knows one abbreviation, and no more.
    "abbrev_types.txt": b"zk",
    "collocations.tab": b"",
    "ortho_context.tab": b"",
    "sent_starters.txt": b"",
}


@pytest.fixture
def punkt(package_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a small sentence model, made by `prepare_punkt` from a wheel."""
    files = {f"{PUNKT}/english/{name}": data for name, data in MODEL.items()}
    path = wheel(package_index, {**files, "llama_index/core/other.txt": b"of no use here"})
    monkeypatch.setattr(nltk_data, "PACKAGE", "tiny-pack")
    monkeypatch.setattr(nltk_data, "VERSION", "1.0")
    monkeypatch.setattr(nltk_data, "SHA256", sha256_file(path))
    before = os.umask(0o002)  # as many machines have it; NLTK refuses what it makes
    try:
        prepare_punkt(tmp_path / "nltk", tmp_path / "downloads")
    finally:
        os.umask(before)
    return tmp_path / "nltk"


def test_the_models_are_prepared_whole(punkt: Path) -> None:
    models = punkt / "tokenizers" / "punkt_tab"
    assert {path.name: path.read_bytes() for path in (models / "english").iterdir()} == MODEL
    manifest = read_json(punkt / "manifest.json")
    assert set(manifest["files"]) == {f"tokenizers/punkt_tab/english/{name}" for name in MODEL}
    assert manifest["sha256"] == digest(manifest["files"])
    assert not list(punkt.parent.glob(".nltk*"))


def test_another_wheel_is_refused(
    punkt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nltk_data, "SHA256", "0" * 64)
    with pytest.raises(UserError, match="wrong checksum"):
        prepare_punkt(tmp_path / "again", tmp_path / "downloads")
    assert not (tmp_path / "again").exists()
    with pytest.raises(UserError, match="not those that were prepared"), nltk_environment(punkt):
        pass


def test_nltk_reads_this_folder_alone(punkt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import langdetect
    import nltk.data

    monkeypatch.setenv("NLTK_DATA", "elsewhere")
    before = list(nltk.data.path)
    with nltk_environment(punkt, seed=3) as sha256:
        assert sha256 == read_json(punkt / "manifest.json")["sha256"]
        assert nltk.data.path == [os.environ["NLTK_DATA"]] == [str(punkt)]
        assert langdetect.DetectorFactory.seed == 3
        assert Path(nltk.data.find("tokenizers/punkt_tab")) == punkt / "tokenizers" / "punkt_tab"
    assert nltk.data.path == before
    assert os.environ["NLTK_DATA"] == "elsewhere"
    assert langdetect.DetectorFactory.seed is None


def test_unfit_folders_are_named(punkt: Path, tmp_path: Path) -> None:
    def enter(folder: Path) -> None:
        with nltk_environment(folder):
            pass

    with pytest.raises(
        UserError, match=r"absent/manifest\.json: NLTK's sentence models are missing"
    ):
        enter(tmp_path / "absent")
    english = punkt / "tokenizers" / "punkt_tab" / "english"
    english.chmod(0o775)
    with (
        pytest.warns(RuntimeWarning, match="will not read"),
        pytest.raises(UserError, match="NLTK refuses this folder"),
    ):
        enter(punkt)
    english.chmod(0o755)
    enter(punkt)
    (english / "abbrev_types.txt").write_text("dr")
    with pytest.raises(UserError, match="not those that were prepared"):
        enter(punkt)


CHECKS = """
import json, socket, sys
from pathlib import Path

def refuse(*_):
    raise AssertionError("the network was asked")

socket.socket.connect = socket.getaddrinfo = refuse

from slm_benchmark.sandbox import Outcome
from slm_benchmark.download import nltk_data
from slm_benchmark.tasks.code_eval import CodeEval, code_eval_metric

nltk_data.SHA256 = sys.argv[2]
with nltk_data.nltk_environment(Path(sys.argv[1]), seed=5):
    import langdetect
    from lm_eval.tasks.ifeval.instructions_util import count_sentences

    sentences = count_sentences("See zk. Two. And three.")
    # Near the border of two languages, as a short answer often is.
    border = "tal vez por el mar"
    probabilities = str(langdetect.detect_langs(border))
    seeded = {langdetect.detect(border) for _ in range(20)}
    langdetect.DetectorFactory.seed = None
    free = {langdetect.detect(border) for _ in range(60)}
print(json.dumps({
    "sentences": sentences,
    "probabilities": probabilities,
    "seeded": len(seeded),
    "free": len(free),
}))
"""


def test_two_processes_agree_without_a_network(punkt: Path) -> None:
    """The harness's checks read this folder, ask no network, and give the same in every process."""
    found = []
    for _ in range(2):
        made = subprocess.run(
            [sys.executable, "-c", CHECKS, str(punkt), nltk_data.SHA256],
            capture_output=True,
            text=True,
        )
        assert made.returncode == 0, made.stderr
        assert "Downloaded" not in made.stdout
        found.append(json.loads(made.stdout))
    assert found[0] == found[1]
    # "zk." ends no sentence for this model alone; unseeded, the language would vary.
    assert found[0]["sentences"] == 2
    assert found[0]["seeded"] == 1 < found[0]["free"]
