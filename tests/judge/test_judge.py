"""Judges: what they are asked, how they answer and fail, and what becomes of a score."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from slm_benchmark.common.errors import RunEnvironmentError, UserError
from slm_benchmark.common.paths import CONFIG
from slm_benchmark.common.schemas import read_config, validate
from slm_benchmark.download.datasets import load_splits, prepare_dataset
from slm_benchmark.engines.load import load_engine
from slm_benchmark.engines.settings import Settings
from slm_benchmark.judge.active import active_judge, use_judge
from slm_benchmark.judge.grading import TEMPLATES, Grader, Template, load_templates, read_rating
from slm_benchmark.judge.load import load_judge
from slm_benchmark.judge.protocol import Chat, Judge, Verdict
from slm_benchmark.tasks.conversation import ConversationLM
from slm_benchmark.tasks.extra.mt_bench.mt_bench import category_scores
from slm_benchmark.tasks.loader import load_parts
from slm_benchmark.tasks.requests import ScoredDocument, ask, build_requests, score_documents
from tests.support.members import member

# ── documents and prompts of the shape of the published ones, in our own words ──

CATEGORIES = ("writing", "roleplay", "extraction", "stem", "math", "reasoning", "coding")
DOCS: list[dict[str, Any]] = [
    {
        "category": category,
        "prompt": [f"Ask {number} of {category}?", f"More of {number}, {{as}} said?"],
        "reference": [f"gold {number} a", f"gold {number} b"] if number > 3 else [],
        "prompt_id": number,
    }
    for number, category in enumerate(CATEGORIES)
]
PROMPTS = {
    "single-v1": Template("Be fair.", "Rate, please.\nQ: {question}\nA: {answer}"),
    "single-math-v1": Template("Be fair.", "Q: {question}\nGold: {ref_answer_1}\nA: {answer}"),
    "single-v1-multi-turn": Template(
        "Rate the second.\n\n", "U: {question_1}\nB: {answer_1}\nU: {question_2}\nB: {answer_2}"
    ),
    "single-math-v1-multi-turn": Template(
        "Rate the second beside gold.\n\n",
        "G: {ref_answer_1} / {ref_answer_2}\nU: {question_1}\nB: {answer_1}\n"
        "U: {question_2}\nB: {answer_2}",
    ),
}


def prepare(folder: Path, name: str, split: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    source = folder / f"{name}.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    entry: Any = {"source": "local", "files": {split: str(source)}, "license": "own"}
    prepare_dataset(name, entry, folder / name)
    return folder / name


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("questions"), "mt_bench", "train", DOCS)


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Template]:
    rows = [
        {"name": name, "system_prompt": prompt.system, "prompt_template": prompt.user}
        for name, prompt in PROMPTS.items()
    ]
    return load_templates(prepare(tmp_path_factory.mktemp("prompts"), "prompts", "prompts", rows))


# ── an endpoint on this machine ──

Reply = tuple[int, Any]
"""A status with a verdict (text), a body (bytes) or JSON (a mapping)."""


@dataclass
class Endpoint:
    url: str
    reply: Callable[[dict[str, Any]], Reply]
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    busy: int = 0
    most_busy: int = 0


@contextlib.contextmanager
def serving() -> Iterator[Endpoint]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                running.busy += 1
                running.most_busy = max(running.most_busy, running.busy)
                running.asked.append({"path": self.path, **body})
                running.keys.append(self.headers.get("Authorization"))
                status, said = running.reply(body)
            time.sleep(0.02)
            if isinstance(said, str):
                message = {"role": "assistant", "content": said}
                said = {
                    "model": "judge-2026-01-01",
                    "system_fingerprint": "fp_1",
                    "choices": [{"message": message}],
                }
            data = said if isinstance(said, bytes) else json.dumps(said).encode()
            with lock:
                running.busy -= 1
            self.send_response(status)
            for name, value in running.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with contextlib.suppress(OSError):  # who waited may be gone
                self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running = Endpoint(f"http://127.0.0.1:{server.server_port}/v1", lambda _: (200, "[[5]]"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield running
    server.shutdown()
    server.server_close()


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr("slm_benchmark.judge.endpoint.BACKOFF_S", 0.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as running:
        yield running


def remote(endpoint: Endpoint, **changed: Any) -> Judge:
    entry: Any = {
        "kind": "endpoint",
        "url": endpoint.url,
        "model": "judge",
        "api_key_env": None,
        "timeout_s": 10,
        "retries": 2,
        "parallel": 1,
        "seed": 7,
        "max_tokens": 100,
        **changed,
    }
    validate({"stand-in": entry}, "judges", "config/judges.yaml")
    return load_judge("stand-in", entry, threads=1)


def in_turn(*replies: Reply) -> Callable[[dict[str, Any]], Reply]:
    """Each reply once; the last one for ever."""
    left = list(replies)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


CHAT: Chat = [{"role": "system", "content": "Be fair."}, {"role": "user", "content": "Rate: x"}]


def one(judge: Judge, chat: Chat = CHAT) -> Verdict:
    ((index, verdict),) = judge.ask([chat])
    assert index == 0
    return verdict


def test_an_endpoint_is_asked_at_temperature_0_with_seed_and_key(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", "sk-secret")
    judge = remote(endpoint, api_key_env="MY_JUDGE_KEY")
    assert one(judge) == Verdict("[[5]]", "judge-2026-01-01", "fp_1")
    assert endpoint.keys == ["Bearer sk-secret"]
    assert endpoint.asked == [
        {
            "path": "/v1/chat/completions",
            "model": "judge",
            "messages": CHAT,
            "temperature": 0,
            "seed": 7,
            "max_tokens": 100,
        }
    ]
    assert "sk-secret" not in json.dumps(judge.identity)


@member("prompts", "a judge at an endpoint that thinks", "graded by what it says behind that")
def test_a_rating_that_was_only_weighed_counts_for_nothing(endpoint: Endpoint) -> None:
    endpoint.reply = lambda _: (200, "<think>[[9]]? No.</think>\n\nShort. [[4]]")
    assert one(remote(endpoint)).text == "Short. [[4]]"
    # Cut within its reasoning, the judge said nothing.
    endpoint.reply = lambda _: (200, "<think>[[9]], or")
    assert one(remote(endpoint)).text == ""


def test_without_a_key_none_is_sent(endpoint: Endpoint) -> None:
    one(remote(endpoint))
    assert endpoint.keys == [None]


@pytest.mark.parametrize("parallel", [1, 4])
def test_as_many_requests_run_at_once_as_the_entry_says(endpoint: Endpoint, parallel: int) -> None:
    endpoint.reply = lambda body: (200, body["messages"][0]["content"])
    chats = [[{"role": "user", "content": f"chat {number}"}] for number in range(12)]
    found = dict(remote(endpoint, parallel=parallel).ask(chats))
    assert {index: verdict.text for index, verdict in found.items()} == {
        number: f"chat {number}" for number in range(12)
    }
    assert endpoint.most_busy <= parallel
    assert parallel == 1 or endpoint.most_busy > 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_fault_is_tried_again(endpoint: Endpoint, status: int) -> None:
    endpoint.reply = in_turn((status, {"error": "busy"}), (status, b""), (200, "[[6]]"))
    assert one(remote(endpoint)).text == "[[6]]"
    assert len(endpoint.asked) == 3


def test_a_wait_that_the_endpoint_asks_for_is_kept(endpoint: Endpoint) -> None:
    endpoint.headers = {"Retry-After": "1"}
    endpoint.reply = in_turn((429, {}), (200, "[[6]]"))
    began = time.monotonic()
    assert one(remote(endpoint)).text == "[[6]]"
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize("status", [429, 500])
def test_an_endpoint_that_never_recovers_is_an_environment_error(
    endpoint: Endpoint, status: int
) -> None:
    endpoint.reply = lambda _: (status, {"error": {"message": "out of order"}})
    with pytest.raises(
        RunEnvironmentError, match=f"HTTP {status}.*out of order.*stand-in|stand-in"
    ):
        one(remote(endpoint, retries=3))
    assert len(endpoint.asked) == 4


def test_a_hang_ends_at_the_timeout(endpoint: Endpoint) -> None:
    def hang(_: Any) -> Reply:
        time.sleep(0.6)
        return 200, "[[5]]"

    endpoint.reply = hang
    began = time.monotonic()
    with pytest.raises(RunEnvironmentError, match="gives no answer"):
        one(remote(endpoint, timeout_s=0.2, retries=1))
    assert time.monotonic() - began < 3


def test_nobody_there_is_an_environment_error(endpoint: Endpoint) -> None:
    with serving() as gone:
        pass
    with pytest.raises(RunEnvironmentError, match="gives no answer"):
        one(remote(endpoint, url=gone.url, retries=0))


@pytest.mark.parametrize(
    "body",
    [b"<html>hello</html>", b'{"choices": [{"mess', b"[]", b'{"choices": []}', b"null",
     b'{"choices": [{"message": {"content": 5}}]}'],
)  # fmt: skip
def test_what_is_no_chat_answer_is_an_environment_error(endpoint: Endpoint, body: bytes) -> None:
    endpoint.reply = lambda _: (200, body)
    with pytest.raises(RunEnvironmentError, match="does not answer as a chat endpoint does"):
        one(remote(endpoint))


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_is_one_clear_error(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", "sk-wrong")
    endpoint.reply = lambda _: (status, {"error": "Incorrect API key: sk-wrong"})
    with pytest.raises(UserError, match="refuses the key") as caught:
        one(remote(endpoint, api_key_env="MY_JUDGE_KEY"))
    assert not isinstance(caught.value, RunEnvironmentError)
    assert "stand-in.api_key_env" in str(caught.value)
    assert "MY_JUDGE_KEY" in str(caught.value)
    assert "sk-wrong" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(endpoint.asked) == 1


def test_a_missing_key_is_told_before_anything_is_asked(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_JUDGE_KEY", raising=False)
    with pytest.raises(UserError, match=r"api_key_env.*not set.*MY_JUDGE_KEY"):
        remote(endpoint, api_key_env="MY_JUDGE_KEY")
    assert not endpoint.asked


@pytest.mark.parametrize(("status", "name"), [(400, "url"), (404, "model"), (301, "url")])
def test_a_refused_request_is_one_clear_error(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, status: int, name: str
) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", "sk-mine")
    endpoint.reply = lambda _: (status, {"error": "no such\nmodel for sk-mine"})
    with pytest.raises(UserError, match=f"stand-in.{name}.*HTTP {status}.*no such") as caught:
        one(remote(endpoint, api_key_env="MY_JUDGE_KEY"))
    assert not isinstance(caught.value, RunEnvironmentError)
    assert "sk-mine" not in str(caught.value)
    assert len(endpoint.asked) == 1


# ── the catalogue ──


JUDGES = read_config(CONFIG / "judges.yaml", "judges")


def test_the_catalogue_has_both_kinds_of_judges() -> None:
    assert {entry["kind"] for entry in JUDGES.values()} == {"endpoint", "gguf"}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"url": "https://user:secret@example.org/v1"}, "url"),
        ({"url": "https://example.org/v1?key=secret"}, "url"),
        ({"api_key_env": "sk-abc"}, "api_key_env"),
        ({"api_key": "sk-abc"}, "api_key"),
        ({"parallel": 0}, "parallel"),
    ],
)
def test_an_entry_that_would_hold_a_secret_or_makes_no_sense_is_refused(
    changed: dict[str, Any], named: str
) -> None:
    entry = {**JUDGES["gpt-4"], **changed}
    with pytest.raises(UserError, match=f"judges.yaml: mine.{named}"):
        validate({"mine": entry}, "judges", "config/judges.yaml")


# ── ratings ──


@pytest.mark.parametrize(
    ("verdict", "rating"),
    [
        ("Good. Rating: [[7]]", 7),
        ("Rating: [[7.5]]", 7.5),
        ("[3] is wrong, so [[2]]", 2),
        ("Rating: [8]", 8),
        ("[[10]] or [[1]]", 10),
        ("[[1]]", 1),
        ("[[0]]", None),
        ("[[11]]", None),
        ("[[0.5]]", None),
        ("Rating: [0]", None),
        ("Rating: 7", None),
        ("[[seven]]", None),
        ("[[rating]]", None),
        ("[[-3]]", None),
        ("", None),
    ],
)
def test_a_rating_is_read_as_published_and_nothing_else_is_one(
    verdict: str, rating: float | None
) -> None:
    assert read_rating(verdict) == rating


# ── through the harness's task ──


class Speaker:
    """A language model whose answers are given, beside what it was asked."""

    truncated: frozenset[Any] = frozenset()
    unfinished: frozenset[Any] = frozenset()

    def __init__(self, answer: Callable[[Mapping[str, Any], int], str]) -> None:
        self.answer = answer
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def chat_template(self, _: Any) -> str:
        return "some template"

    def apply_chat_template(self, history: Sequence[Mapping[str, str]], *_: Any) -> str:
        return json.dumps([said["content"] for said in history])

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        self.asked += [request.args for request in requests]
        turns = [len(json.loads(request.args[0])) // 2 for request in requests]
        return [self.answer(r.doc, turn) for r, turn in zip(requests, turns, strict=True)]


def gold(doc: Mapping[str, Any], turn: int) -> str:
    answer: str = doc["reference"][turn] if doc["reference"] else f"fine {turn}"
    return answer


def entry_of(name: str) -> Any:
    return {"harness_task": name, "num_fewshot": 0}


def scored(
    name: str, questions: Path, lm: Any, grader: Grader | None = None
) -> list[ScoredDocument]:
    parts = load_parts(name, entry_of(name), questions, "first_n")
    chosen = {"": range(len(parts[0].task.eval_docs))}
    build_requests(parts, chosen, seed=0)
    ask(ConversationLM(lm), parts)
    with use_judge(grader):
        return score_documents(parts, chosen)


@pytest.mark.model
def test_each_category_is_asked_at_its_published_temperature(questions: Path) -> None:
    speaker = Speaker(gold)
    scored("mt_bench_reference", questions, speaker)
    wanted = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1}
    assert len(speaker.asked) == 2 * len(DOCS)
    for doc, (first, settings), (second, later) in zip(
        DOCS, speaker.asked[: len(DOCS)], speaker.asked[len(DOCS) :], strict=True
    ):
        temperature = wanted.get(str(doc["category"]), 0.0)
        assert settings == later
        assert settings["max_gen_toks"] == 1024
        assert settings["until"] == []
        assert settings["do_sample"] is (temperature > 0)
        assert settings.get("temperature", 0.0) == temperature
        assert json.loads(first) == doc["prompt"][:1]
        assert json.loads(second) == [doc["prompt"][0], gold(doc, 0), doc["prompt"][1]]


def test_the_judge_is_asked_the_published_prompts_with_the_right_references(
    questions: Path, templates: dict[str, Template], endpoint: Endpoint
) -> None:
    scored("mt_bench", questions, Speaker(gold), Grader(remote(endpoint), templates))
    asked = iter(endpoint.asked)
    for doc in DOCS:
        (one_, two), reference = doc["prompt"], doc["reference"]
        math = "-math" if doc["category"] in ("math", "reasoning", "coding") else ""
        for name in (f"single{math}-v1", f"single{math}-v1-multi-turn"):
            prompt = PROMPTS[name]
            text = prompt.user
            for place, filler in {
                "question": one_, "question_1": one_, "question_2": two,
                "answer": gold(doc, 0), "answer_1": gold(doc, 0), "answer_2": gold(doc, 1),
                **{f"ref_answer_{turn}": told for turn, told in enumerate(reference, 1)},
            }.items():  # fmt: skip
                text = text.replace(f"{{{place}}}", filler)
            assert next(asked)["messages"] == [
                {"role": "system", "content": prompt.system},
                {"role": "user", "content": text},
            ]
    assert next(asked, None) is None


def strict(body: dict[str, Any]) -> Reply:
    """Ten for gold, one for anything else; answers to the second turn decide the second."""
    text: str = body["messages"][1]["content"]
    right = text.split("B: ")[-1] if "B: " in text else text.split("A: ")[-1]
    return 200, "Rating: [[10]]" if right.startswith(("gold", "fine")) else "Rating: [[1]]"


def test_an_oracle_gets_the_maximum_and_its_wrong_twin_the_minimum(
    questions: Path, templates: dict[str, Template], endpoint: Endpoint
) -> None:
    endpoint.reply = strict
    for answer, rating, chrf in ((gold, 10.0, 100.0), (lambda *_: "zzz", 1.0, 0.0)):
        grader = Grader(remote(endpoint), templates)
        samples = scored("mt_bench", questions, Speaker(answer), grader)
        assert len(samples) == len(DOCS)
        for sample in samples:
            assert sample["filter"] == "judge"
            assert sample["values"] == {
                "judge_score": rating,
                "judge_score_turn_1": rating,
                "judge_score_turn_2": rating,
            }
        samples = scored("mt_bench_reference", questions, Speaker(answer))
        referenced = [sample["values"] for sample in samples if sample["values"]]
        assert referenced == [{"reference_chrf": pytest.approx(chrf)}] * 3


def test_the_answers_come_through_the_filter_unchanged(
    questions: Path, templates: dict[str, Template], endpoint: Endpoint
) -> None:
    grader = Grader(remote(endpoint), templates)
    for sample in scored("mt_bench", questions, Speaker(gold), grader):
        assert json.loads(sample["resps"][0][0]) == [gold(sample["doc"], turn) for turn in (0, 1)]
        assert json.loads(sample["filtered_resps"][0]) == {
            "ratings": [5.0, 5.0],
            "verdicts": ["[[5]]", "[[5]]"],
        }


@pytest.mark.parametrize("verdict", ["I cannot say.", "[[0]]", "[[99]]", None])
def test_a_verdict_without_a_rating_is_missing_and_never_0(
    questions: Path, templates: dict[str, Template], endpoint: Endpoint, verdict: str | None
) -> None:
    said: Any = {"choices": [{"message": {"content": None}}]} if verdict is None else verdict
    endpoint.reply = lambda body: (
        (200, said) if "second" in body["messages"][0]["content"] else (200, "[[4]]")
    )
    for sample in scored("mt_bench", questions, Speaker(gold), Grader(remote(endpoint), templates)):
        assert sample["values"] == {
            "judge_score": None,
            "judge_score_turn_1": 4.0,
            "judge_score_turn_2": None,
        }


def test_categories_have_rows_of_their_own_and_count_what_is_missing() -> None:
    from slm_benchmark.common.schemas import schema

    def sample(category: str, score: float | None) -> Any:
        values = {"judge_score": score}
        return {"filter": "judge", "doc": {"category": category}, "values": values}

    given = [
        ("math", 4.0),
        ("math", None),
        ("math", 8.0),
        ("stem", 1.0),
        ("stem", 1.0),
        ("coding", None),
    ]
    maths, stem = category_scores([sample(*one) for one in given])
    assert (maths["part"], maths["value"], maths["n"], maths["missing"]) == ("math", 6.0, 2, 1)
    assert (stem["part"], stem["value"], stem["n"], stem["ci95"]) == ("stem", 1.0, 2, None)
    assert stem["reason"] == "all documents have the same value"
    assert "missing" not in stem
    known = schema("cell")["properties"]["scores"]["items"]["properties"]
    assert set(maths) <= set(known)


def test_without_its_reference_a_turn_is_not_graded(
    tmp_path: Path, templates: dict[str, Template], endpoint: Endpoint
) -> None:
    docs = [{**DOCS[4], "reference": told} for told in (["a", "b"], ["a", ""], ["", "b"], [])]
    folder = prepare(tmp_path, "mt_bench", "train", docs)
    samples = scored(
        "mt_bench", folder, Speaker(lambda *_: "x"), Grader(remote(endpoint), templates)
    )
    ratings = [
        (s["values"]["judge_score_turn_1"], s["values"]["judge_score_turn_2"]) for s in samples
    ]
    assert ratings == [(5.0, 5.0), (5.0, None), (None, None), (None, None)]
    samples = scored("mt_bench_reference", folder, Speaker(lambda *_: "b"))
    assert [s["values"].get("reference_chrf") for s in samples] == [50.0, 0.0, 100.0, None]


def test_without_a_judge_nothing_is_graded(questions: Path) -> None:
    with pytest.raises(UserError, match="no judge is configured"):
        scored("mt_bench", questions, Speaker(gold))


def test_a_judge_is_active_inside_its_context_only(
    templates: dict[str, Template], endpoint: Endpoint
) -> None:
    grader = Grader(remote(endpoint), templates)
    assert active_judge() is None
    with use_judge(grader):
        assert active_judge() is grader
        with use_judge(None):
            assert active_judge() is None
        assert active_judge() is grader
    assert active_judge() is None


def test_a_prompt_that_the_dataset_lacks_is_named(tmp_path: Path) -> None:
    rows = [
        {"name": name, "system_prompt": "s", "prompt_template": "t"}
        for name in TEMPLATES
        if name != "single-math-v1"
    ]
    with pytest.raises(UserError, match="'single-math-v1'"):
        load_templates(prepare(tmp_path, "prompts", "prompts", rows))


# ── what is kept ──


def test_a_killed_grading_asks_nothing_twice(
    questions: Path, templates: dict[str, Template], endpoint: Endpoint, tmp_path: Path
) -> None:
    cache = tmp_path / "deep" / "mt_bench.judge.jsonl"

    def values() -> list[Any]:
        grader = Grader(remote(endpoint, retries=0), templates, cache)
        return [s["values"] for s in scored("mt_bench", questions, Speaker(gold), grader)]

    endpoint.reply = in_turn((200, "[[3]]"), (200, "no"), (200, "[[3]]"), (500, {}))
    with pytest.raises(RunEnvironmentError):
        values()
    before = len(endpoint.asked)
    assert before in (4, 5)  # one more may be under way when the failure is seen

    endpoint.reply = lambda _: (200, "[[3]]")
    resumed = values()
    assert len(endpoint.asked) == before + 2 * len(DOCS) - 3
    assert resumed[0]["judge_score_turn_2"] is None  # the verdict without a rating is kept too
    assert {value["judge_score_turn_1"] for value in resumed} == {3.0}
    assert values() == resumed
    assert len(endpoint.asked) == before + 2 * len(DOCS) - 3


def test_what_was_under_way_at_a_failure_is_kept(endpoint: Endpoint) -> None:
    def reply(body: dict[str, Any]) -> Reply:
        return (400, {}) if body["messages"][0]["content"] == "chat 0" else (200, "[[5]]")

    endpoint.reply = reply
    chats = [[{"role": "user", "content": f"chat {number}"}] for number in range(50)]
    given: list[int] = []
    verdicts = remote(endpoint, parallel=4).ask(chats)
    with pytest.raises(UserError, match="HTTP 400"):
        given.extend(index for index, _ in verdicts)
    answered = {body["messages"][0]["content"] for body in endpoint.asked} - {"chat 0"}
    assert {f"chat {index}" for index in given} == answered
    assert 3 <= len(given) < 40


def test_another_judge_prompt_or_answer_is_asked_anew(
    templates: dict[str, Template], endpoint: Endpoint, tmp_path: Path
) -> None:
    cache = tmp_path / "judge.jsonl"

    def new_requests(answers: list[str], prompts: dict[str, Template], **judge: Any) -> int:
        before = len(endpoint.asked)
        Grader(remote(endpoint, **judge), prompts, cache).grade(DOCS[:1], [answers])
        return len(endpoint.asked) - before

    other = {**templates, "single-v1": Template("Be kind.", templates["single-v1"].user)}
    assert new_requests(["a", "b"], templates) == 2
    assert new_requests(["a", "b"], templates) == 0
    assert new_requests(["a", "c"], templates) == 1
    assert new_requests(["a", "b"], other) == 1
    assert new_requests(["a", "b"], templates, seed=8) == 2


def test_the_record_says_who_judged(
    templates: dict[str, Template], endpoint: Endpoint, tmp_path: Path
) -> None:
    cache = tmp_path / "judge.jsonl"
    fingerprints = iter(("fp_1", "fp_2"))

    def changing(_: Any) -> Reply:
        choices = [{"message": {"content": "[[5]]"}}]
        served = {"model": "judge-2026", "system_fingerprint": next(fingerprints)}
        return 200, {"choices": choices, **served}

    endpoint.reply = changing
    grader = Grader(remote(endpoint), templates, cache)
    grader.grade(DOCS[:1], [["a", "b"]])
    again = Grader(remote(endpoint), templates, cache)  # from the cache
    again.grade(DOCS[:1], [["a", "b"]])
    identity = grader.identity
    assert again.identity == identity
    assert identity["kind"] == "endpoint"
    assert identity["model"] == "judge"
    assert identity["url"] == endpoint.url
    assert identity["temperature"] == 0
    assert identity["max_tokens"] == 100
    assert identity["served"] == [
        {"model": "judge-2026", "system_fingerprint": "fp_1"},
        {"model": "judge-2026", "system_fingerprint": "fp_2"},
    ]
    assert list(identity["templates_sha256"]) == list(TEMPLATES)
    assert len(set(identity["templates_sha256"].values())) == 4


# ── a judge in a GGUF file ──


def local(gguf: Path, model: Path, **changed: Any) -> Any:
    entry: Any = {
        "kind": "gguf",
        "weights": str(gguf),
        "tokenizer": str(model),
        "max_context_tokens": 256,
        "max_tokens": 6,
        **changed,
    }
    validate({"tiny": entry}, "judges", "config/judges.yaml")
    return load_judge("tiny", entry, threads=1)


def test_a_local_judge_that_says_nothing_readable_leaves_scores_missing(
    questions: Path,
    templates: dict[str, Template],
    tiny_gguf: Path,
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    judge = local(tiny_gguf, tiny_model)
    cache = tmp_path / "judge.jsonl"
    grader = Grader(judge, templates, cache)
    engine = load_engine("llama.cpp", tiny_gguf, tiny_model, Settings(256, 1))
    entry: Any = {**entry_of("mt_bench"), "generation": {"max_gen_toks": 4}}
    parts = load_parts("mt_bench", entry, questions, "first_n")
    chosen = {"": [1, 4]}
    build_requests(parts, chosen, seed=0)
    ask(ConversationLM(engine.lm), parts)
    engine.close()
    with use_judge(grader):
        samples = score_documents(parts, chosen)
        forwarded = judge.engine.lm.model.forwarded_tokens
        assert forwarded
        assert score_documents(parts, chosen) == samples  # from the cache
    assert judge.engine.lm.model.forwarded_tokens == forwarded
    assert [sample["doc_id"] for sample in samples] == [1, 4]
    for sample in samples:
        assert set(sample["values"].values()) == {None}
        verdicts = json.loads(sample["filtered_resps"][0])["verdicts"]
        assert all(isinstance(verdict, str) for verdict in verdicts)
    assert len(cache.read_text().splitlines()) == 1 + 4
    identity = grader.identity
    assert identity["kind"] == "gguf"
    assert identity["model"] == tiny_gguf.name
    assert len(identity["weights_sha256"]) == 64
    assert identity["engine"]["name"] == "llama.cpp"
    assert identity["served"] == [{"model": None, "system_fingerprint": None}]
    judge.close()


def test_a_question_that_does_not_fit_is_missing(tiny_gguf: Path, tiny_model: Path) -> None:
    judge = local(tiny_gguf, tiny_model)
    long = [{"role": "user", "content": "Why? " * 100}]
    found = dict(judge.ask([CHAT, long, CHAT]))
    assert found[0].text is not None
    assert found[1].text is None
    assert found[2] == found[0]
    judge.close()


ROW = "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
BEGIN = "<|im_start|>assistant:"
JOINED = f"<|im_start|>user\nBe fair.\n\nRate: x<|im_end|>\n{BEGIN}"


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        (
            ROW,
            f"<|im_start|>system\nBe fair.<|im_end|>\n<|im_start|>user\nRate: x<|im_end|>\n{BEGIN}",
        ),
        ("{% if message['role'] != 'system' %}" + ROW + "{% endif %}", JOINED),
        (
            "{% if message['role'] == 'system' %}{{ raise_exception('none') }}{% endif %}" + ROW,
            JOINED,
        ),
    ],
    ids=["a place for them", "left out", "refused"],
)
def test_instructions_reach_a_judge_whatever_its_template_does_with_them(
    tiny_gguf: Path, tiny_model: Path, tmp_path: Path, row: str, prompt: str
) -> None:
    tokenizer = Path(shutil.copytree(tiny_model, tmp_path / "judge"))
    template = "{% for message in messages %}" + row + "{% endfor %}" + BEGIN
    (tokenizer / "chat_template.jinja").write_text(template)
    judge = local(tiny_gguf, tokenizer)
    assert judge.prompt(CHAT) == prompt
    judge.close()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"weights": "resources/nowhere.gguf"}, "tiny.weights: there is no such file"),
        ({"tokenizer": "resources/nowhere"}, "tiny.tokenizer: there is no such file"),
        ({"max_tokens": 256}, "tiny.max_tokens: leaves no room"),
    ],
)
def test_a_local_judge_that_cannot_work_is_refused(
    tiny_gguf: Path, tiny_model: Path, changed: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError, match=named):
        local(tiny_gguf, tiny_model, **changed)


# ── the published files ──

DATASETS = read_config(CONFIG / "datasets.yaml", "datasets")


@pytest.mark.slow
def test_the_published_prompts_are_read_and_filled(tmp_path: Path) -> None:
    name = "mt_bench_judge_prompts"
    prepare_dataset(name, DATASETS[name], tmp_path / "prompts", tmp_path)
    found = load_templates(tmp_path / "prompts")
    assert list(found) == list(TEMPLATES)
    doc = {**DOCS[4], "prompt": ["<q1>", "<q2>"], "reference": ["<r1>", "<r2>"]}

    class Deaf:
        identity: Any = None
        asked: list[Chat]

        def ask(self, chats: Sequence[Chat]) -> Iterator[tuple[int, Verdict]]:
            self.asked = list(chats)
            yield from enumerate([Verdict("")] * len(chats))

        def close(self) -> None:
            """It holds nothing."""

    judge = Deaf()
    Grader(judge, found).grade([doc, {**doc, "category": "writing"}], [["<a1>", "<a2>"]] * 2)
    texts = [chat[1]["content"] for chat in judge.asked]
    for text, holds in zip(
        texts,
        (("q1", "r1", "a1"), ("q1", "q2", "r1", "r2", "a1", "a2"), ("q1", "a1"),
         ("q1", "q2", "a1", "a2")),
        strict=True,
    ):  # fmt: skip
        assert {
            place for place in ("q1", "q2", "r1", "r2", "a1", "a2") if f"<{place}>" in text
        } == (set(holds))
        assert "{" not in text
    whole = [" ".join(said["content"] for said in chat) for chat in judge.asked]
    assert all("[[rating]]" in text and "1 to 10" in text for text in whole)


@pytest.mark.slow
def test_the_packaged_questions_have_the_hubs_fields(tmp_path: Path) -> None:
    name = "mt_bench-nvidia"
    prepare_dataset(name, DATASETS[name], tmp_path / "mt_bench", tmp_path)
    rows = load_splits(tmp_path / "mt_bench")["train"].to_list()
    assert len(rows) == 80
    assert {frozenset(row) for row in rows} == {
        frozenset(("category", "prompt", "reference", "prompt_id"))
    }
    with_reference = {row["category"] for row in rows if row["reference"]}
    assert with_reference == {"math", "reasoning", "coding"}
    assert sum(bool(row["reference"]) for row in rows) == 30
    assert all(len(row["prompt"]) == 2 for row in rows)
    assert all(len(row["reference"]) in (0, 2) and all(row["reference"]) for row in rows)
    assert len({row["prompt_id"] for row in rows}) == 80
