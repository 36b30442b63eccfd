"""The command line: quick to answer, one line for each error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from slm_benchmark.catalog.model_cards import load_registry
from slm_benchmark.cli import COMMANDS, RENAMED, main
from slm_benchmark.common.paths import MODELS, ROOT
from slm_benchmark.workflow.profile_links import PROFILES

HEAVY = ("torch", "transformers", "snakemake", "llama_cpp", "lm_eval", "pandas", "altair", "numpy")

HELP = """
import json, sys, time
from slm_benchmark.cli import COMMANDS, RENAMED, main
try:
    main(["--help"])
except SystemExit as end:
    code = end.code
found = {"code": code, "cpu_s": time.process_time(), "modules": sorted(sys.modules)}
print(json.dumps(found), file=sys.stderr)
"""


def one_line_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line that a failing command wrote."""
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    return line


def test_help_answers_at_once_and_loads_nothing_heavy() -> None:
    done = [
        subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
        for _ in range(2)  # the first may have to compile
    ][-1]
    found = json.loads(done.stderr)
    assert found["code"] == 0
    for command in COMMANDS:
        assert f"  {command.name} " in done.stdout
        assert f"{command.group}:\n" in done.stdout
        assert command.summary in done.stdout
    assert not any(name in done.stdout.split() for name in RENAMED)
    assert max(map(len, done.stdout.splitlines())) <= 88
    assert found["cpu_s"] < 0.5
    assert {name.split(".")[0] for name in found["modules"]}.isdisjoint(HEAVY)


@pytest.mark.parametrize(("former", "name"), RENAMED.items())
def test_a_former_name_works_and_names_the_new_one(
    former: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = ["no-such-file", "no-such-file"]
    rest = missing if former == "compare-profiles" else ["--margin=2", "--task=hellaswag"]
    assert main([name, *rest]) == 1
    expected = one_line_error(capsys)
    assert main([former, *rest]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    warning, error = captured.err.splitlines()
    assert error == expected
    assert warning.startswith("warning: ")
    assert former in warning
    assert f"Fix: slm-benchmark {name}" in warning


def test_the_installed_command_is_this_one() -> None:
    command = Path(sys.executable).with_name("slm-benchmark")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip()


@pytest.mark.parametrize("arguments", [[], ["no-such-command"], ["pin"], ["score"]])
def test_a_wrong_call_shows_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("usage: slm-benchmark")


def test_all_shipped_cards_are_valid(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate"]) == 0
    captured = capsys.readouterr()
    models = load_registry()
    lines = captured.out.splitlines()
    assert [line.split(":")[0] for line in lines] == [model.file for model in models.values()]
    warned = captured.err.splitlines()
    assert all(line.startswith("warning: models/") for line in warned)
    unpinned = [m.file for m in models.values() if m.source["type"] == "hub" and not m.revision]
    for file in unpinned:
        assert f"warning: {file}: revision: null is not reproducible" in captured.err
    assert len(warned) >= len(unpinned)


def test_an_unpinned_card_is_valid_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = (MODELS / "tinyllama-1.1b-chat.yaml").read_text()
    lines = [
        "revision: null" if line.startswith("revision:") else line for line in shipped.split("\n")
    ]
    card = tmp_path / "tinyllama-1.1b-chat.yaml"
    card.write_text("\n".join(lines))
    assert main(["validate", str(card)]) == 0
    captured = capsys.readouterr()
    assert f"{card}: valid" in captured.out
    (warning,) = captured.err.splitlines()
    assert warning.startswith(f"warning: {card}: revision: null")
    assert f"slm-benchmark pin {card}" in warning


def test_an_unknown_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "missing.yaml"
    for command in ("validate", "pin"):
        assert main([command, str(missing)]) == 1
        line = one_line_error(capsys)
        assert str(missing) in line
        assert "there is no such file" in line
        assert "Fix: " in line


def test_a_bad_card_is_one_line_that_names_the_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = tmp_path / "tinyllama-1.1b-chat.yaml"
    card.write_text((MODELS / card.name).read_text() + "color: red\n")
    assert main(["validate", str(card)]) == 1
    line = one_line_error(capsys)
    assert f"{card}: color: unknown key" in line


def test_publishing_nothing_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", str(tmp_path)]) == 1
    assert "no records here" in one_line_error(capsys)
    assert main(["publish", str(tmp_path / "missing.json")]) == 1
    assert "there is no such file" in one_line_error(capsys)
    record = tmp_path / "record.json"
    record.write_text('{"kind": "something"}')
    assert main(["publish", str(tmp_path)]) == 1
    line = one_line_error(capsys)
    assert f"{record}: kind: " in line
    assert "'something'" in line


def test_scoring_nothing_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gsm8k.json").write_text("{}")  # a score is no answers
    assert main(["score", str(tmp_path)]) == 1
    line = one_line_error(capsys)
    assert "no answers here" in line
    assert "Fix: generate some first" in line
    missing = tmp_path / "gsm8k.answers.json"
    assert main(["score", str(missing)]) == 1
    assert "there is no such file" in one_line_error(capsys)
    missing.write_text('{"kind": "score"}')
    assert main(["score", str(tmp_path)]) == 1
    assert f"{missing}: " in one_line_error(capsys)


def test_stored_generations_are_not_published_as_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of runs holds answers beside scores; only scores are looked at."""
    (tmp_path / "gsm8k.answers.json").write_text('{"kind": "answers"}')
    (tmp_path / "gsm8k.documents.json").write_text("[]")
    assert main(["publish", str(tmp_path)]) == 1
    assert "no records here" in one_line_error(capsys)


def test_profiles_are_linked_into_the_user_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for _ in range(2):
        assert main(["link-profiles"]) == 0
        assert str(tmp_path / "snakemake") in capsys.readouterr().out
    for name in PROFILES:
        assert (tmp_path / "snakemake" / name).resolve() == ROOT / "profiles" / name

    (tmp_path / "snakemake" / "demo").unlink()
    (tmp_path / "snakemake" / "demo").mkdir()
    assert main(["link-profiles", "--replace"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (warning,) = captured.err.splitlines()
    assert warning.startswith(f"warning: {tmp_path / 'snakemake' / 'demo'}: ")
    assert "Fix: " in warning
