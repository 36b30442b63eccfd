"""Tokenizers with the habits of real ones: the same tokens and texts for every engine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from lm_eval.api.instance import Instance

from slm_benchmark.common.errors import UserError
from slm_benchmark.engines.base_tokenizer import BaseTokenizer
from slm_benchmark.engines.identity import Name
from slm_benchmark.engines.load import load_engine
from slm_benchmark.engines.settings import Settings
from tests.support.members import member
from tests.support.models import write_gguf
from tests.support.tokenizers import TURNS, byte_level, llama2, scripted, words

END, TURN = 2, 3
ENGINES: tuple[Name, ...] = ("transformers", "llama.cpp")


@contextmanager
def opened(folder: Path, engine: Name) -> Iterator[Any]:
    """The harness's model over a folder, on an engine."""
    weights = folder
    if engine == "llama.cpp":
        weights = write_gguf(folder / "tiny.gguf", folder, linear="F16", embedding="F16")
    running = load_engine(engine, weights, folder, Settings(max_length=256, threads=1))
    yield running.lm
    running.close()


def write(lm: Any, prompt: str, until: Sequence[str] = (), limit: int = 24, **more: Any) -> str:
    """What a model answers, cut at the first stop string."""
    settings = {"until": list(until), "max_gen_toks": limit, "do_sample": False, **more}
    request = Instance("generate_until", {}, (prompt, settings), 0, ("test", 0, 1))
    (text,) = lm.generate_until([request])
    return str(text)


def scripted_for(folder: Path, hub: Any, prompt: str, answer: Sequence[int], **named: Any) -> None:
    """Save a model that answers a prompt with these tokens; ``rows`` are as many as tokens."""
    last = hub.encode(prompt, add_special_tokens=False)[-1]
    scripted(folder, named.pop("rows", len(hub)), [last, *answer], **named)


def pieces(tokenizer: Any, *names: str) -> list[int]:
    return [int(i) for i in tokenizer.convert_tokens_to_ids(list(names))]


# --- what is put around a text -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "around"),
    [
        pytest.param(
            byte_level,
            "$A </s>",
            marks=member("tokenizers", "EOS behind every text", "prompts and options hold no EOS"),
        ),
        pytest.param(
            byte_level,
            "<s> $A </s>",
            marks=member("tokenizers", "BOS before and EOS behind", "BOS stays, EOS goes"),
        ),
        pytest.param(
            llama2,
            "<s> $A </s> <|turn_end|>",
            marks=member("tokenizers", "two tokens behind every text", "both go"),
        ),
    ],
)
def test_nothing_is_put_behind(
    make: Callable[..., Any],
    around: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub = make(tmp_path, around=around)
    ours = BaseTokenizer(tmp_path)
    text = "Question: A or B?\nAnswer: A"
    begins = [1] if around.startswith("<s>") else []
    assert ours.encode(text) == [*begins, *hub.encode(text, add_special_tokens=False)]
    assert "behind every text" in capsys.readouterr().err
    # One that stands in the text itself is part of it.
    assert ours.encode(text + "</s>")[-1] == END


@member("tokenizers", "SEP and CLS around every text", "SEP goes: options A and B differ")
def test_options_of_a_bert_like_tokenizer(tmp_path: Path) -> None:
    words(tmp_path)
    ours = BaseTokenizer(tmp_path)
    context = ours.encode("Answer:")
    options = [ours.encode(f"Answer: {letter}")[len(context) :] for letter in "AB"]
    assert [ours.hub.convert_ids_to_tokens(option) for option in options] == [["A"], ["B"]]


@member("tokenizers", "a BOS in the template and another from the tokenizer", "one BOS")
@pytest.mark.parametrize("text", ["<s>user\nA", "<s> user\nA", "user\nA"])
@pytest.mark.parametrize("make", [byte_level, llama2])
def test_there_is_one_bos(make: Callable[..., Any], text: str, tmp_path: Path) -> None:
    make(tmp_path, around="<s> $A")
    assert BaseTokenizer(tmp_path).encode(text).count(1) == 1


@member("tokenizers", "a BOS that decodes to nothing", "one BOS before every text")
def test_a_silent_bos_is_put_before(tmp_path: Path) -> None:
    byte_level(tmp_path, around="<s> $A", silent=["<s>"])
    ours = BaseTokenizer(tmp_path)
    assert ours.encode("A")[0] == 1
    assert ours.encode("<s>A") == ours.encode("A")


@pytest.mark.parametrize(
    ("around", "promised", "says"),
    [
        pytest.param(
            "<s> $A",
            False,
            True,
            marks=member(
                "tokenizers",
                "add_bos_token: false, and a BOS from tokenizer.json",
                "tokenizer.json is followed, as in Transformers; one line says so",
            ),
        ),
        pytest.param(
            "$A",
            True,
            True,
            marks=member(
                "tokenizers",
                "add_bos_token: true, and no BOS from tokenizer.json",
                "tokenizer.json is followed, as in Transformers; one line says so",
            ),
        ),
        ("<s> $A", True, False),
        ("$A", None, False),
    ],
)
def test_add_bos_token(
    around: str,
    promised: bool | None,
    says: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    byte_level(tmp_path, around=around)
    file = tmp_path / "tokenizer_config.json"
    described = json.loads(file.read_text())
    file.write_text(json.dumps({**described, "add_bos_token": promised}))
    ours = BaseTokenizer(tmp_path)
    assert (ours.encode("A")[0] == 1) == around.startswith("<s>")
    assert ("add_bos_token" in capsys.readouterr().err) == says


@member("tokenizers", "a BOS before a text whose perplexity is asked for", "BOS is not scored")
def test_bos_is_not_scored(tmp_path: Path) -> None:
    hub = byte_level(tmp_path, around="<s> $A")
    ours = BaseTokenizer(tmp_path)
    assert ours.encode_behind_prefix("A B") == hub.encode("A B", add_special_tokens=False)


# --- texts of answers ----------------------------------------------------------------------------


@member("tokenizers", "decoder that strips the first space (Llama 2)", "code keeps its indent")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("beams", [1, 2])
def test_the_first_line_keeps_its_indent(engine: Name, beams: int, tmp_path: Path) -> None:
    hub = llama2(tmp_path)
    answer = pieces(hub, "▁▁▁▁", "ret", "u", "r", "n", "▁a")
    prompt = "def add(a):\n"
    scripted_for(tmp_path, hub, prompt, [*answer, END])
    with opened(tmp_path, engine) as lm:
        assert write(lm, prompt, num_beams=beams) == "    return a"[:12]
        # The same text is what stop strings are looked for in.
        assert write(lm, prompt, ["    ret"], num_beams=beams) == ""
        assert not lm.unfinished


@member("tokenizers", "an answer behind a special token (Phi-3)", "no space before its first word")
def test_an_answer_behind_a_special_token(tmp_path: Path) -> None:
    llama2(tmp_path)
    ours = BaseTokenizer(tmp_path)
    prompt = ours.encode("question<|turn_end|>")
    new = ours.encode("question<|turn_end|>ab")[len(prompt) :]
    assert ours.hub.convert_ids_to_tokens(new)[0] == "▁a"
    assert ours.answer(prompt, new) == "ab"


@member("tokenizers", "byte pieces cut in the middle of a character", "what is whole stays")
@pytest.mark.parametrize("make", [byte_level, llama2])
def test_a_cut_character(make: Callable[..., Any], tmp_path: Path) -> None:
    make(tmp_path)
    ours = BaseTokenizer(tmp_path)
    prompt = ours.encode("A:\n")
    new = ours.encode("A:\n\u4f60\u597d")[len(prompt) :]
    assert len(new) == 6
    assert ours.answer(prompt, new) == "\u4f60\u597d"
    assert ours.answer(prompt, new[:5]) == "\u4f60\ufffd"
    assert ours.answer(prompt, new[:3]) == "\u4f60"


@member("tokenizers", "a stop string across byte pieces", "ends the answer once it is whole")
@pytest.mark.parametrize("engine", ENGINES)
def test_a_stop_string_across_bytes(engine: Name, tmp_path: Path) -> None:
    hub = llama2(tmp_path)
    answer = pieces(hub, "<0xE4>", "<0xBD>", "<0xA0>", "<0xE5>", "<0xA5>", "b", "c")
    scripted_for(tmp_path, hub, "A:", answer)
    with opened(tmp_path, engine) as lm:
        assert write(lm, "A:", ["\u4f60"]) == ""
        assert lm.tokens()["generated_tokens"] == 3
        assert write(lm, "A:", limit=4) == "\u4f60\ufffd"


@member("tokenizers", "clean_up_tokenization_spaces: true", "spaces of an answer stay")
def test_spaces_are_not_cleaned_up(tmp_path: Path) -> None:
    words(tmp_path, clean_up_tokenization_spaces=True)
    ours = BaseTokenizer(tmp_path)
    new = pieces(ours.hub, "print", "(", "x", ",", "y", ")", ".")
    assert ours.hub.decode(new) == "print ( x, y )."
    assert ours.answer(ours.encode("A"), new) == " print ( x , y ) ."


# --- ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("silent", "until"),
    [
        pytest.param(
            ["</s>"],
            [],
            marks=member("tokenizers", "end token that decodes to nothing", "ends by its number"),
        ),
        pytest.param(
            [],
            ["", "\n"],
            marks=member("tokenizers", "an empty stop string", "it is left out"),
        ),
    ],
)
def test_nothing_is_no_stop_string(
    engine: Name, silent: Sequence[str], until: Sequence[str], tmp_path: Path
) -> None:
    hub = byte_level(tmp_path, silent=silent)
    scripted_for(tmp_path, hub, "Q", [*hub.encode("fox 12;"), END])
    with opened(tmp_path, engine) as lm:
        assert write(lm, "Q", until) == "fox 12;"
        assert not lm.unfinished


def end_tokens(folder: Path, **files: Any) -> frozenset[int]:
    for name, ids in files.items():
        (folder / f"{name}.json").write_text(json.dumps({"eos_token_id": ids}))
    return BaseTokenizer(folder).end_tokens


@pytest.mark.parametrize(
    ("template", "files", "expected"),
    [
        pytest.param(
            None,
            {"generation_config": None, "config": [END, TURN]},
            {END, TURN},
            marks=member(
                "tokenizers", "end tokens in config.json alone", "all end an answer; one line"
            ),
        ),
        pytest.param(
            None,
            {"generation_config": END, "config": [END, TURN]},
            {END, TURN},
            marks=member(
                "tokenizers", "one end token of two in generation_config.json", "both; one line"
            ),
        ),
        pytest.param(
            TURNS,
            {"config": END},
            {END, TURN},
            marks=member(
                "tokenizers", "a turn's end that only the template knows", "both; one line"
            ),
        ),
        pytest.param(
            None,
            {"generation_config": [TURN], "config": 7},
            {END, TURN},
            marks=member(
                "tokenizers",
                "a word as eos_token_id of config.json, beside generation_config.json",
                "the word ends nothing",
            ),
        ),
    ],
)
def test_end_tokens_are_those_of_all_files(
    template: str | None,
    files: dict[str, Any],
    expected: set[int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    byte_level(tmp_path, chat_template=template)
    assert end_tokens(tmp_path, **files) == expected
    assert capsys.readouterr().err.count("end tokens differ") == 1


def test_end_tokens_that_agree_are_not_worth_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    byte_level(tmp_path, chat_template=TURNS.replace("<|turn_end|>", "</s>"))
    assert end_tokens(tmp_path, generation_config=[END], config=END) == {END}
    assert capsys.readouterr().err == ""


@member("tokenizers", "an eos_token_id that is a word", "refused: file, field and value")
def test_an_end_token_by_its_text(tmp_path: Path) -> None:
    byte_level(tmp_path)
    with pytest.raises(UserError, match=r"config\.json: eos_token_id: .*'</s>'.*Fix: "):
        end_tokens(tmp_path, config="</s>")


@member("tokenizers", "an eos_token_id of -1", "it stands for none")
def test_an_end_token_that_is_none(tmp_path: Path) -> None:
    byte_level(tmp_path)
    assert end_tokens(tmp_path, config=-1) == {2}
    assert end_tokens(tmp_path, config=[-1, 3]) == {2, 3}


@member("tokenizers", "no BOS, EOS or pad token", "one line; answers end at stop strings or limits")
@pytest.mark.parametrize("engine", ENGINES)
def test_without_any_named_token(
    engine: Name, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = byte_level(tmp_path, bos_token=None, eos_token=None)
    answer = hub.encode("fox 12;\n")
    scripted_for(tmp_path, hub, "Q", answer, bos_token_id=None, eos_token_id=None)
    with opened(tmp_path, engine) as lm:
        assert capsys.readouterr().err.count("no end token") == 1
        assert write(lm, "Q", ["\n"]) == "fox 12;"
        assert write(lm, "Q", limit=2) == hub.decode(answer[:2])
        (score,) = lm.loglikelihood([Instance("loglikelihood", {}, ("Q", " A"), 0, ("test", 0, 1))])
        assert score[0] < 0
        with pytest.raises(UserError, match=r"bos_token: .*no BOS and no EOS.*Fix: "):
            lm.encode("", "A")


# --- rows ----------------------------------------------------------------------------------------


@member("tokenizers", "a token beyond the embeddings", "refused where a text holds it: its name")
@pytest.mark.parametrize("engine", ENGINES)
def test_a_token_beyond_the_embeddings(engine: Name, tmp_path: Path) -> None:
    hub = byte_level(tmp_path / "model")
    scripted_for(tmp_path / "model", hub, "Q", [*hub.encode("fox"), END])
    with opened(tmp_path / "model", engine) as lm:
        larger = byte_level(tmp_path / "larger", extra_special_tokens=["<|new|>"])
        assert len(larger) == len(hub) + 1
        lm.text = BaseTokenizer(tmp_path / "larger", rows=lm.model.vocabulary)
        assert lm.text.encode("A")
        with pytest.raises(UserError, match=r"<\|new\|>.* rows of embeddings.*Fix: "):
            lm.text.encode("A<|new|>")


@member("tokenizers", "the tokenizer of another, larger model", "refused when it is loaded")
def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    byte_level(tmp_path)
    with pytest.raises(UserError, match=r"tokenizer\.json: .*rows of embeddings.*Fix: "):
        BaseTokenizer(tmp_path, rows=200)


@member("tokenizers", "more rows than tokens", "rows without a token are never picked")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("more", [{}, {"num_beams": 2}, {"do_sample": True, "temperature": 0.5}])
def test_rows_without_a_token(engine: Name, more: dict[str, Any], tmp_path: Path) -> None:
    hub = byte_level(tmp_path)
    (first,) = hub.encode("f")
    scripted_for(tmp_path, hub, "Q", [len(hub) + 3], rows=len(hub) + 16)
    with opened(tmp_path, engine) as lm:
        assert lm.text.undecodable == list(range(len(hub), len(hub) + 16))
        asked = Instance(
            "generate_until", {}, ("Q", {"max_gen_toks": 1, "until": [], **more}), 0, ("t", 0, 1)
        )
        lm.generate_until([asked])
        kept = lm.text.decodable(lambda logits: int(logits.argmax()))
        import numpy as np

        logits = np.zeros(len(hub) + 16, dtype=np.float32)
        logits[len(hub) + 3], logits[first] = 9, 1
        assert kept(logits) == first


# --- the command ---------------------------------------------------------------------------------


@member("tokenizers", "EOS behind every text, by `lm_eval`", "four options, four likelihoods")
def test_the_command_scores_each_option(tmp_path: Path) -> None:
    hub = byte_level(tmp_path / "model", around="<s> $A </s>")
    (letter,) = hub.encode(" C", add_special_tokens=False)[-1:]
    scripted_for(tmp_path / "model", hub, ":", [letter])
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question": "Q", "choices": list("ABCD"), "answer": 2}) + "\n")
    task = {
        "task": "letters",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "letters.yaml").write_text(yaml.safe_dump(task))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "lm_eval", "--model", "slm-transformers"),
            *("--model_args", f"pretrained={tmp_path / 'model'},dtype=float32,threads=1"),
            *("--tasks", "letters", "--include_path", str(tmp_path)),
            *("--output_path", str(tmp_path / "out"), "--log_samples"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "the tokenizer puts </s> behind every text" in done.stderr
    (samples,) = (tmp_path / "out").rglob("samples_letters_*")
    (sample,) = [json.loads(line) for line in samples.open()]
    assert sample["acc"] == 1.0
    assert len({float(response[0]) for response in sample["filtered_resps"]}) > 1
