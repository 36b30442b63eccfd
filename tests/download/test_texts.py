"""Tokenizers and chat templates that are refused at download, and which of several is used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slm_benchmark.common.errors import UserError
from slm_benchmark.download.at_hand import check_downloaded
from slm_benchmark.download.chat_template import ChatTemplate
from slm_benchmark.download.tokenizer import load_tokenizer
from tests.download.test_model_facts import change_json, downloaded, local, refusal, validate
from tests.support.members import member

TEMPLATE = "chat_template.jinja"


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may change."""
    return Path(shutil.copytree(tiny_model, tmp_path / "files"))


def only(name: str, text: str) -> Callable[[Path], object]:
    """Write a file of a model's folder."""
    return lambda folder: (folder / name).write_text(text)


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def with_a_class_alone(folder: Path) -> None:
    """Transformers makes a tokenizer without a vocabulary of these files."""
    without_tokenizer(folder)
    change_json(folder, "tokenizer_config.json", tokenizer_class="LlamaTokenizer")


def with_an_unknown_class(folder: Path) -> None:
    without_tokenizer(folder)
    (folder / "vocab.txt").write_text("a\nb\n")
    change_json(folder, "tokenizer_config.json", tokenizer_class="FooTokenizer")


def with_code(folder: Path) -> None:
    without_tokenizer(folder)
    change_json(
        folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["mine.MyTokenizer", None]}
    )


def of_an_unknown_kind(folder: Path) -> None:
    file = folder / "tokenizer.json"
    described = json.loads(file.read_text())
    described["model"]["type"] = "Foo"
    file.write_text(json.dumps(described))


def of_a_larger_model(folder: Path) -> None:
    file = folder / "tokenizer.json"
    described = json.loads(file.read_text())
    described["model"]["vocab"]["zzzz"] = 400
    file.write_text(json.dumps(described))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(
            only("tokenizer.json", '{"version": "1.0", "added'),
            "tokenizer.json: the file cannot be read",
            marks=member("tokenizers", "a tokenizer.json that was cut off", "refused at download"),
        ),
        pytest.param(
            only("tokenizer.json", "version https://git-lfs.github.com/spec/v1\noid sha256:ab\n"),
            "tokenizer.json: the file cannot be read",
            id="a pointer",
        ),
        pytest.param(
            only("tokenizer.json", "{}"),
            "tokenizer.json: model: no tokenizer that can be loaded",
            marks=member("tokenizers", "a tokenizer.json of another kind", "refused at download"),
        ),
        pytest.param(of_an_unknown_kind, "tokenizer.json: model: no tokenizer", id="another model"),
        pytest.param(
            only("tokenizer_config.json", "[]"), "tokenizer_config.json: the file holds no JSON"
        ),
        pytest.param(only("special_tokens_map.json", "{"), "special_tokens_map.json: the file"),
        pytest.param(
            without_tokenizer,
            "tokenizer.json: the file is missing",
            marks=member(
                "tokenizers", "no tokenizer.json, and no vocabulary", "refused at download"
            ),
        ),
        pytest.param(
            with_a_class_alone,
            "tokenizer.json: the file is missing",
            marks=member(
                "tokenizers",
                "a tokenizer class without its files",
                "refused, where Transformers makes up an empty one",
            ),
        ),
        pytest.param(
            with_an_unknown_class,
            "tokenizer_config.json: tokenizer_class: no tokenizer that can be loaded without",
            marks=member("tokenizers", "an unknown tokenizer class", "refused at download"),
        ),
        pytest.param(
            with_code,
            "tokenizer_config.json: auto_map.AutoTokenizer: the tokenizer needs its own code",
            marks=member("tokenizers", "a tokenizer with code of its own", "refused until allowed"),
        ),
        pytest.param(
            of_a_larger_model,
            "tokenizer.json: vocabulary: the token 'zzzz' has number 400, and the model has",
            marks=member("tokenizers", "a vocabulary beyond the embeddings", "refused at download"),
        ),
        pytest.param(
            only(TEMPLATE, "{{ ['Hello', 'Hi'] | random }}"),
            "chat_template.jinja: chat_template: the chat template chooses by chance",
            marks=member(
                "prompts", "a chat model whose template chooses by chance", "refused at download"
            ),
        ),
        pytest.param(
            only(TEMPLATE, "{{ ['abc', 'def'] | map('ran' ~ 'dom') | join }}"),
            "chat_template.jinja: chat_template: the chat template chooses by chance",
            id="chance in disguise",
        ),
        pytest.param(
            only(TEMPLATE, "{{ now() }}"),
            "chat_template.jinja: chat_template: the chat template fails: 'now' is undefined",
            marks=member(
                "prompts", "a chat model whose template asks for the clock", "refused at download"
            ),
        ),
        pytest.param(
            only(TEMPLATE, "{{ messages | map('upper') }}"),
            "chat_template.jinja: chat_template: the chat template prints an object's address",
            marks=member(
                "prompts", "a chat model whose template prints an address", "refused at download"
            ),
        ),
        pytest.param(
            only(TEMPLATE, "{% for m in messages %}"),
            "chat_template.jinja: chat_template: the chat template fails: Unexpected end of",
            marks=member("prompts", "a template that was cut off", "refused at download"),
        ),
        pytest.param(
            only(TEMPLATE, "{% for m in messages %}{{ m['text'] }}{% endfor %}assistant:"),
            "chat_template.jinja: chat_template: a prompt through the chat template does not hold",
            marks=member(
                "prompts", "a template that leaves the question out", "refused at download"
            ),
        ),
        pytest.param(
            only(TEMPLATE, "{{ '<|start|>assistant<|channel|>final<|message|>' }}"),
            "chat_template.jinja: chat_template: the model answers in channels",
            marks=member("prompts", "a model that answers in channels", "refused at download"),
        ),
    ],
)
def test_refused_at_download_and_by_validate(
    folder: Path, change: Callable[[Path], object], said: str
) -> None:
    change(folder)
    assert said in refusal(folder)
    assert said in validate(folder)


def test_a_template_of_no_chat_model_is_not_looked_at(folder: Path) -> None:
    (folder / TEMPLATE).write_text("{{ ['Hello', 'Hi'] | random }}")
    assert downloaded(folder, chat=False).is_dir()


def test_a_template_of_an_earlier_download_is_refused(folder: Path) -> None:
    target = downloaded(folder)
    (target / TEMPLATE).unlink()  # it is the source's own file
    (target / TEMPLATE).write_text("{{ lipsum() }}")
    with pytest.raises(UserError, match=r"chat_template\.jinja: chat_template: .*by chance.*Fix: "):
        check_downloaded(local(folder), target.parents[1])


# --- which template ------------------------------------------------------------------------------


SHOWN = "{{ messages[0]['content'] }}"


def named(**templates: str) -> Callable[[Path], None]:
    """Put several templates into tokenizer_config.json, and none beside it."""

    def change(folder: Path) -> None:
        (folder / TEMPLATE).unlink()
        listed = [{"name": name, "template": text} for name, text in templates.items()]
        change_json(folder, "tokenizer_config.json", chat_template=listed)

    return change


def with_additional(folder: Path) -> None:
    """A default in tokenizer_config.json, and another template in a folder of its own."""
    named(default="A" + SHOWN)(folder)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("B" + SHOWN)


def with_both(folder: Path) -> None:
    (folder / TEMPLATE).write_text("\ufeffA" + SHOWN, encoding="utf-8")
    change_json(folder, "tokenizer_config.json", chat_template="B" + SHOWN)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            named(tool_use="B" + SHOWN, default="A" + SHOWN),
            marks=member("prompts", "several templates by name", "the default one; others by name"),
        ),
        pytest.param(
            with_additional,
            marks=member(
                "prompts",
                "a folder additional_chat_templates beside a default",
                "the default is used, where Transformers finds none",
            ),
        ),
        pytest.param(
            with_both,
            marks=member(
                "prompts",
                "chat_template.jinja and another in tokenizer_config.json",
                "the former, as in Transformers; a line says so",
            ),
        ),
    ],
)
def test_one_of_several_templates_is_used(
    folder: Path, change: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    change(folder)
    target = downloaded(folder)
    chat = ChatTemplate(load_tokenizer(target), target)
    assert chat.select() == "A" + SHOWN
    assert chat.render([{"role": "user", "content": "Hi"}]) == "AHi"
    told = capsys.readouterr().err
    assert ("not used, as chat_template.jinja beside it holds another" in told) == (
        change is with_both
    )
    if change is not with_both:
        assert chat.select("tool_use") == "B" + SHOWN
        assert chat.render([{"role": "user", "content": "Hi"}]) == "BHi"
        with pytest.raises(UserError, match=r"no chat template has this name .*did you mean"):
            chat.select("tool_usage")


@member("prompts", "several templates, none of them the default", "refused at download")
def test_no_template_is_the_default(folder: Path) -> None:
    named(rag="A" + SHOWN, tool_use="B" + SHOWN)(folder)
    assert "none of several chat templates is the default" in refusal(folder)


@pytest.mark.parametrize("stated", [5, [], [{"name": "default"}], {"default": 5}])
def test_templates_in_no_known_form(folder: Path, stated: Any) -> None:
    (folder / TEMPLATE).unlink()
    change_json(folder, "tokenizer_config.json", chat_template=stated)
    said = "hold no chat template" if not stated else "neither the text of a template nor a list"
    assert said in refusal(folder)


@member("prompts", "a template with documents of its own", "nothing is inserted")
def test_no_documents_are_inserted(folder: Path) -> None:
    text = "{% for d in documents or [] %}{{ d }}{% endfor %}{{ messages[0].content }}"
    (folder / TEMPLATE).write_text(text)
    chat = ChatTemplate(load_tokenizer(folder), folder)
    assert chat.render([{"role": "user", "content": "Hi"}]) == "Hi"
