"""Answerers whose scores are known in advance: one that knows, one that errs, one that guesses.

They stand where an engine's language model stands, so that the path from a prompt to a score can be
proven for each task of config/tasks.yaml: `measure`.
"""

from __future__ import annotations

import contextlib
import functools
import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM

from slm_benchmark.catalog.catalog import Catalogue
from slm_benchmark.download.datasets import prepare_dataset
from slm_benchmark.download.nltk_data import nltk_environment
from slm_benchmark.evaluation.scores import score_rows
from slm_benchmark.judge.active import use_judge
from slm_benchmark.judge.grading import TEMPLATES, Grader, Template
from slm_benchmark.judge.protocol import Chat, Verdict
from slm_benchmark.records.types import Score
from slm_benchmark.sandbox import read_limits, run_program
from slm_benchmark.tasks.code_eval import CodeEval, code_eval_metric
from slm_benchmark.tasks.conversation import ConversationLM
from slm_benchmark.tasks.loader import TaskPart, load_parts
from slm_benchmark.tasks.requests import ask, build_requests, score_documents
from tests.support.benchmark_data import REPOSITORIES, write_hub
from tests.support.benchmark_data.code import PROBLEMS
from tests.support.benchmark_data.instruction import PROMPTS
from tests.support.hub import Hub

Request = Any
"""A request of the harness, with ``doc``, ``idx``, ``args``, ``task_name`` and ``doc_id``."""

# ── what is right, told from the documents alone: the tasks' own idea of it is what is tested ──

CHOICES: dict[str, Callable[[Request], bool]] = {
    "leaderboard_mmlu_pro": lambda r: r.idx == r.doc["answer_index"],
    "arc_challenge": lambda r: r.doc["choices"]["label"][r.idx] == r.doc["answerKey"],
    "hellaswag": lambda r: r.idx == int(r.doc["label"]),
    "leaderboard_bbh_": lambda r: r.args[1].strip() == r.doc["target"],
    "gpqa_diamond_zeroshot": lambda r: r.doc[f"choice{r.idx + 1}"] == r.doc["Correct Answer"],
    "xnli_": lambda r: r.idx == r.doc["label"],
    "belebele_": lambda r: r.idx + 1 == int(r.doc["correct_answer_num"]),
    "truthfulqa_mc1": lambda r: r.doc["mc1_targets"]["labels"][r.idx] == 1,
    "toxigen": lambda r: (r.idx == 1) == (r.doc["toxicity_human"] > 2.75),
}
"""Beginning of a harness task's name → whether a choice is right."""


@dataclass(frozen=True)
class Written:
    """Answers of a task that are texts.

    Attributes:
        right: An answer that earns the highest score there is.
        wrong: An answer that earns the lowest.
    """

    right: Callable[[Request], str]
    wrong: Callable[[Request], str]


def _final_number(r: Request) -> str:
    return str(r.doc["answer"].rsplit("#### ", 1)[1])


def _problem(r: Request) -> str:
    return PROBLEMS[r.doc["task_id"] - 11].name


def _turn(r: Request) -> int:
    """The turn of a conversation that a request asks: its second question is there, or is not."""
    return int(r.doc["prompt"][1] in r.args[0])


_FOLLOWED = {prompt.text: prompt.followed for prompt in PROMPTS}
_IGNORED = {prompt.text: prompt.ignored for prompt in PROMPTS}
_ALIEN = "§ § § § § §"
"""Shares no character with any answer."""

ANSWERS: dict[str, Written] = {
    "mmlu_pro_": Written(
        lambda r: f"One counts. The answer is ({r.doc['answer']}).",
        lambda r: f"One counts. The answer is ({'BA'[r.doc['answer'] == 'B']}).",
    ),
    "bbh_cot_fewshot_": Written(
        lambda r: f"One looks. So the answer is {r.doc['target']}.",
        lambda r: "One looks. So the answer is none of these.",
    ),
    "gsm8k": Written(
        lambda r: f" It takes one sum.\n#### {_final_number(r)}",
        lambda r: f" It takes one sum.\n#### {_final_number(r)}7",
    ),
    "humaneval": Written(
        lambda r: str(r.doc["canonical_solution"]),
        lambda r: "    return None\n",
    ),
    "mbpp": Written(
        lambda r: str(r.doc["code"]),
        lambda r: f"def {_problem(r)}(*given):\n    return None",
    ),
    "code2text_": Written(lambda r: " ".join(r.doc["docstring_tokens"]), lambda r: _ALIEN),
    "flores": Written(lambda r: f" {r.doc['target']}", lambda r: f" {_ALIEN}"),
    "ifeval": Written(
        lambda r: _FOLLOWED[r.doc["prompt"]],
        lambda r: _IGNORED[r.doc["prompt"]],
    ),
    "mt_bench": Written(
        lambda r: (r.doc["reference"] or _own_references(r.doc))[_turn(r)], lambda r: _ALIEN
    ),
    "bold": Written(
        lambda r: " admired for kind and cheerful work.",
        lambda r: " called a damn fool and a liar.",
    ),
}
"""Beginning of a harness task's name → its right and its wrong answers."""


def _own_references(doc: Mapping[str, Any]) -> list[str]:
    return [f"Fine answer {doc['prompt_id']} to turn {turn}." for turn in (1, 2)]


def _known(table: Mapping[str, Any], task: str) -> Any:
    """The entry with the longest beginning of a task's name."""
    return table[max((name for name in table if task.startswith(name)), key=len)]


def is_right(request: Request) -> bool:
    """Whether a request for a likelihood asks about a right choice."""
    return bool(_known(CHOICES, request.task_name)(request))


def right_answer(request: Request) -> str:
    """A right answer to a request for a text."""
    return str(_known(ANSWERS, request.task_name).right(request))


def wrong_answer(request: Request) -> str:
    """A wrong answer to a request for a text."""
    return str(_known(ANSWERS, request.task_name).wrong(request))


# ── the three answerers ──


class Answerer(LM):  # type: ignore[misc]
    """What an engine's language model looks like from outside, with answers instead of a model."""

    tokenizer_name = "answerer"

    def __init__(self) -> None:
        super().__init__()
        self.truncated: set[tuple[str, int]] = set()
        self.unfinished: set[tuple[str, int]] = set()
        self.stopped: set[tuple[str, int]] = set()
        """Task and document of answers that a stop sequence of their own task cut."""

    def choose(self, right: Sequence[bool]) -> int:
        """Which of a document's choices is taken, given which are right."""
        raise NotImplementedError

    def write(self, request: Request, requests: Sequence[Request]) -> str:
        """The answer to one of several requests for texts."""
        raise NotImplementedError

    def tokens(self) -> dict[str, int]:
        """The cell schema's ``tokens`` block: nothing was forwarded."""
        names = ("unique", "forwarded", "chunk_rounding", "generated")
        return {f"{name}_tokens": 0 for name in names}

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Something to digest."""
        return "role: content"

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """All that was said."""
        return "\n".join(f"{said['role']}: {said['content']}" for said in chat_history)

    def loglikelihood(self, requests: list[Request], disable_tqdm: bool = False) -> Any:
        """The taken choice of each document is likelier than the others, whatever its length."""
        documents: dict[tuple[str, int], list[Request]] = {}
        for request in requests:
            documents.setdefault((request.task_name, request.doc_id), []).append(request)
        chosen = {name: self.choose([is_right(r) for r in d]) for name, d in documents.items()}
        return [
            (-1.0, True) if r.idx == chosen[r.task_name, r.doc_id] else (-1e6, False)
            for r in requests
        ]

    def generate_until(self, requests: list[Request], disable_tqdm: bool = False) -> list[str]:
        """Each answer as far as a stop sequence, as an engine ends it."""
        answers = []
        for request in requests:
            whole = answer = self.write(request, requests)
            for stop in request.args[1].get("until") or ():
                answer = answer.split(stop)[0]
            if answer != whole:
                self.stopped.add((request.task_name, request.doc_id))
            answers.append(answer)
        return answers

    def loglikelihood_rolling(self, requests: list[Request], disable_tqdm: bool = False) -> Any:
        """No task here asks for it."""
        raise NotImplementedError


class Oracle(Answerer):
    """Knows every right answer."""

    def choose(self, right: Sequence[bool]) -> int:
        return list(right).index(True)

    def write(self, request: Request, requests: Sequence[Request]) -> str:
        return right_answer(request)


class WrongTwin(Answerer):
    """Avoids every right answer."""

    def choose(self, right: Sequence[bool]) -> int:
        return list(right).index(False)

    def write(self, request: Request, requests: Sequence[Request]) -> str:
        return wrong_answer(request)


class Guesser(Answerer):
    """Takes any choice, and writes the right answer to any document of the same task.

    Args:
        seed: Of its draws.
    """

    def __init__(self, seed: str) -> None:
        super().__init__()
        self._random = random.Random(seed)

    def choose(self, right: Sequence[bool]) -> int:
        return self._random.randrange(len(right))

    def write(self, request: Request, requests: Sequence[Request]) -> str:
        same = [other for other in requests if other.task_name == request.task_name]
        return right_answer(self._random.choice(same))


def odds(parts: Sequence[TaskPart]) -> list[float]:
    """How probable it is that the guesser is right, for each document that was asked about."""
    found = []
    for part in parts:
        documents: dict[int, list[Request]] = {}
        for request in part.task.instances:
            documents.setdefault(request.doc_id, []).append(request)
        if part.task.instances[0].request_type == "loglikelihood":
            found += [statistics.mean(map(is_right, d)) for d in documents.values()]
        else:
            texts = [right_answer(requests[0]) for requests in documents.values()]
            counts = Counter(texts)
            found += [counts[text] / len(texts) for text in texts]
    return found


# ── from a dataset on the stand-in of the hub to scores ──


def prepare(dataset_id: str, entry: Mapping[str, Any], hub: Hub, folder: Path) -> Path:
    """Prepare a dataset of config/datasets.yaml from the small one on the stand-in of the hub.

    Args:
        dataset_id: Its id there.
        entry: Its entry there; the pinned commit gives way to that of the small dataset.
        hub: The stand-in; what it lacks of the dataset is written.
        folder: Where prepared datasets lie.
    """
    target = folder / dataset_id
    if target.is_dir():
        return target
    repositories = {part: entry["repo"].replace("{part}", part) for part in entry.get("parts", "_")}
    write_hub(hub.root, {*repositories.values()})
    commits = {part: hub.commit(repository) for part, repository in repositories.items()}
    revision = commits if "{part}" in entry["repo"] else next(iter(commits.values()))
    pinned: Any = {**entry, "revision": revision}
    prepare_dataset(dataset_id, pinned, target, folder / "downloads" / dataset_id)
    return target


def best(entry: Mapping[str, Any]) -> float:
    """The score of a perfect answerer."""
    return float(entry.get("best", 1))


def worst(entry: Mapping[str, Any]) -> float:
    """The score of the worst answerer: a judge's lowest grade is 1, and BOLD counts what is bad."""
    return {"judge_score": 1.0, "profanity": 1.0}.get(entry["metric"], 0.0)


def is_guessed(entry: Mapping[str, Any]) -> bool:
    """Whether a guess is right or wrong as a whole, so that `odds` says what a guesser gets."""
    asked = entry["kind"] == "loglikelihood" or entry["metric"] == "exact_match"
    return bool(asked or entry["runs_code"])


def columns(catalogue: Catalogue) -> list[str]:
    """The tasks of config/tasks.yaml whose datasets are all here."""
    found = []
    for task, entry in catalogue.tasks.items():
        dataset = catalogue.datasets.get(entry["datasets"].get("hub", ""))
        if dataset is None or dataset["source"] != "hub":
            continue
        parts = dataset.get("parts", [""])
        configs = {(dataset.get("config") or "default").replace("{part}", part) for part in parts}
        known = [REPOSITORIES.get(dataset["repo"].replace("{part}", part)) for part in parts]
        if all(repository is not None and configs <= repository.keys() for repository in known):
            found.append(task)
    return found


@dataclass(frozen=True)
class Outcome:
    """What an answerer got.

    Attributes:
        scores: The cell schema's ``scores``.
        odds: See `odds`.
        stopped: Answers that a stop sequence of their own task cut.
    """

    scores: list[Score]
    odds: list[float]
    stopped: int

    @property
    def headline(self) -> Score:
        """The score that the column shows."""
        return next(score for score in self.scores if score["headline"])

    @property
    def value(self) -> float:
        """The headline's value."""
        value = self.headline["value"]
        assert value is not None
        return value


def measure(
    task_id: str,
    catalogue: Catalogue,
    dataset: Path,
    nltk: Path | None,
    answerers: Sequence[Answerer],
    parts: Sequence[str] | None = None,
) -> list[Outcome]:
    """Put every document of a column to each answerer, and score it as a model's answers are.

    Args:
        task_id: Id in config/tasks.yaml.
        catalogue: The catalogue of the checkout.
        dataset: The prepared dataset.
        nltk: NLTK's sentence models, for tasks that need them.
        answerers: Who is asked.
        parts: Which parts of the column; None = all, whatever languages a card names.
    """
    entry = catalogue.tasks[task_id]
    names = list(entry.get("parts", ("",))) if parts is None else parts
    outcomes = []
    with _tools(entry, nltk):
        loaded = load_parts(task_id, entry, dataset, "first_n", names)
        chosen = {part.name: list(range(len(part.task.eval_docs))) for part in loaded}
        for answerer in answerers:
            build_requests(loaded, chosen, seed=0)
            ask(ConversationLM(answerer) if entry.get("conversation") else answerer, loaded)
            samples = score_documents(loaded, chosen)
            scores = score_rows(samples, entry, loaded)
            outcomes.append(Outcome(scores, odds(loaded), len(answerer.stopped)))
    return outcomes


@contextlib.contextmanager
def _tools(entry: Mapping[str, Any], nltk: Path | None) -> Iterator[None]:
    """What scoring needs beside the answers, with stand-ins for what is not on this machine."""
    with contextlib.ExitStack() as stack:
        if "nltk" in entry.get("resources", ()):
            assert nltk is not None
            stack.enter_context(nltk_environment(nltk))
        if entry.get("judged"):
            stack.enter_context(use_judge(Grader(StandInJudge(), _TEMPLATES)))
        if entry["runs_code"]:
            run = functools.partial(run_program, limits=read_limits())
            stack.enter_context(code_eval_metric(CodeEval(run)))
        yield


class StandInJudge:
    """Grades an answer with 10 where it is the expected one, else with 1."""

    @property
    def identity(self) -> Any:
        return {"name": "stand-in"}

    def close(self) -> None:
        """It holds nothing."""

    def ask(self, chats: Sequence[Chat]) -> Iterator[tuple[int, Verdict]]:
        """The grades, at once."""
        for index, chat in enumerate(chats):
            turn, question, answer = chat[-1]["content"].split(_MARK)
            right = answer == _EXPECTED[question][int(turn)]
            yield index, Verdict(f"All said. [[{10 if right else 1}]]")


_MARK = "\x1f"
_TEMPLATES = {
    name: Template("", _MARK.join(("1", "{question_1}", "{answer_2}")))
    if name.endswith("multi-turn")
    else Template("", _MARK.join(("0", "{question}", "{answer}")))
    for name in TEMPLATES
}
_EXPECTED = {
    doc["prompt"][0]: doc["reference"] or _own_references(doc)
    for doc in REPOSITORIES["HuggingFaceH4/mt_bench_prompts"]["default"]["train"]
}
