"""Write the reference pages that follow from the code: commands, records, inputs, starter models.

    python tools/make_references.py            write those of docs/reference/ that it makes
    python tools/make_references.py --check    fail when they differ from what would be written

The pages are made from the parsers' arguments, from workflow/schemas and from the marks of tests,
never from a help text that argparse laid out, so that every version of Python and every terminal
gives the same bytes.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from slm_benchmark.catalog.key_tables import RECORDS, records_reference
from slm_benchmark.cli import COMMANDS, EXIT_CODES, RENAMED, Command
from slm_benchmark.common.files import atomic_write_text, read_json
from slm_benchmark.common.markdown import table
from slm_benchmark.common.paths import ROOT, relative
from slm_benchmark.common.schemas import schema

NOTE = "<!-- Made by tools/make_references.py; change the source and run it. -->"

CLI = ROOT / "docs" / "reference" / "cli.md"
CLI_INTRODUCTION = """\
# Command line

`slm-benchmark COMMAND` is installed by `. ./activate`. It serves what comes before and after
measuring; the measurement itself is started with `snakemake` ([Quick
start](../start/quickstart.md)). `slm-benchmark COMMAND --help` prints what this page says of a
command. An error is one line that names the file, the field, the value and the fix."""

RECORDS_PAGE = ROOT / "docs" / "reference" / "records.md"
RECORDS_INTRODUCTION = """\
# Records

A record is a JSON file that holds one measurement with its evidence. The workflow writes records
below `runs/`; `slm-benchmark publish` copies them to `results/`, where the name of the file
becomes a folder of runs: `runs/…/gsm8k.json` is published as `results/…/gsm8k/RUN.json`. A
published record is never changed. This page also has the files that describe inputs, and those
that are derived from records.

Every file is checked against its schema in `workflow/schemas/records/` when it is written and
when it is read, and these tables are made from the schemas. In the path of a field, `<id>` stands
for any key, and the fields of a list's entries follow its name. *Required* says whether the field
must be there, *Null* whether it can be null; *text* is a string, *map* an object, *list* an
array. Units stand in names: `duration_s`, `size_bytes`, `kl_mean_nats`. The
[glossary](glossary.md) explains the terms."""

ROBUSTNESS_PAGE = ROOT / "docs" / "reference" / "robustness.md"
ROBUSTNESS_INTRODUCTION = """\
# Robustness

Files that people really have differ from those of a demo. Each row of these tables is an input
that breaks some tool, and what happens to it here: it is used rightly, or one line refuses it and
names the file, the field, the value and the fix. Every row is made from a test, named beside it,
which fails when something else happens."""


STARTERS_PAGE = ROOT / "docs" / "reference" / "starters.md"
STARTERS_INTRODUCTION = """\
# Starter models

Each hub architecture of `models/` goes through the whole workflow, without a hub: a small random
model in the true configuration's shape is served by a stand-in under the card's own name, then
downloaded, made into every format, evaluated on likelihoods and on generations with and without a
chat template, held against the gate, compared with its base token by token, and profiled. This
shows that the tools can handle the architecture and its tokenizer. It says nothing about the true
models: their files were not at hand.

The table is made from a run of `pytest -m starters`, a lane of its own, through
`python tools/make_starters.py`; the lane fails when a stage ends otherwise. *Not applicable* is
known from the card on: nothing is planned for such a format, and `slm-benchmark validate` and
every run say why. *Not run* is a stage that the last run did not come to; nothing is known of it.
A dash is a stage that was not asked for: the base tokenizer fills the chat template for all
formats, so one format of each engine shows it; the gate is for the F16 file."""

STARTERS_NOTES = """\
- Qwen2.5 has the architecture and the tokenizer of Qwen2, so one of the two stands for both.
- MiniCPM needs its own code. The repository in the test brings code that was written for the
  test, from the paper; the authors' own file was not run. While no maintainer has allowed the
  code, asking for the model ends in one line. That is tested too.
- The tokenizers of Gemma, Llama 2 and Phi-3 come as `tokenizer.json` in the package; the
  `tokenizer.model` that llama.cpp's converter reads is rebuilt from their pieces. Phi-3's eleven
  own tokens are added. Qwen2 has the tokenizer of Qwen3, which is Qwen2's with a few more tokens.
- Packages carry neither the GPT-NeoX tokenizer of StableLM Zephyr nor MiniCPM's; another one
  stands in. llama.cpp's converter knows byte-level tokenizers by a hash over their token numbers,
  so whether it knows GPT-NeoX's was not seen."""

STAGES = {
    "made": "Made",
    "likelihoods": "Likelihoods",
    "generation": "Generation",
    "chat": "With template",
    "gate": "Gate",
    "fidelity": "Fidelity",
    "profile": "Profile",
}
"""Stage of a starter model, as benchmarks/starters.json has it → its column."""

KINDS = {
    "tokenizers": "Tokenizers",
    "prompts": "Prompts that change by themselves",
    "weights": "Weights",
    "card": "The card against the files",
    "documents": "Documents",
    "machine": "The machine's share",
    "places": "Places",
    "code tests": "Tests of code that cannot tell",
}
"""Key of a kind, as tests name it → its heading, in the page's order."""


def main() -> int:
    """Write the pages, or check them.

    Returns:
        0; with ``--check`` 1 when a page is out of date.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when out of date")
    check = parser.parse_args().check
    outdated = {
        path: text
        for path, text in pages().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    for path, text in outdated.items():
        if check:
            print(f"{relative(path)}: out of date. Fix: python tools/make_references.py")
        else:
            atomic_write_text(path, text)
            print(f"wrote {relative(path)}")
    return 1 if check and outdated else 0


def pages() -> dict[Path, str]:
    """Each generated page, by its file."""
    return {
        CLI: cli_page(),
        RECORDS_PAGE: records_page(),
        ROBUSTNESS_PAGE: robustness_page(),
        STARTERS_PAGE: starters_page(),
    }


def starters_page() -> str:
    """The page of the starter models: a table of formats and stages for each."""
    models = read_json(ROOT / "benchmarks" / "starters.json")["models"]
    rows = []
    for model, about in models.items():
        for variant, states in about["formats"].items():
            cells = [states[stage]["state"] if stage in states else "–" for stage in STAGES]
            rows.append((f"`{model}`", variant, *(cell.replace("_", " ") for cell in cells)))
    reasons = {
        f"- `{model}`, {variant}: {state['reason']}."
        for model, about in models.items()
        for variant, states in about["formats"].items()
        for state in states.values()
        if "reason" in state
    }
    tokenizers = [(f"`{model}`", about["tokenizer"]) for model, about in models.items()]
    parts = [
        NOTE,
        STARTERS_INTRODUCTION,
        "\n".join(table(("Model", "Format", *STAGES.values()), rows)),
        *(["\n".join(sorted(reasons))] if reasons else []),
        "## What stands for what",
        "\n".join(table(("Model", "Tokenizer of the test"), tokenizers)),
        STARTERS_NOTES,
    ]
    return "\n\n".join(parts) + "\n"


def robustness_page() -> str:
    """The page of awkward inputs: a table for each kind."""
    parts = [NOTE, ROBUSTNESS_INTRODUCTION]
    shown = members()
    for kind, title in KINDS.items():
        rows = [(m.name, m.outcome, f"`{m.test}`") for m in shown if m.kind == kind]
        if rows:
            parts += [f"## {title}", "\n".join(table(("Input", "What happens", "Test"), rows))]
    return "\n\n".join(parts) + "\n"


@dataclass(frozen=True)
class Member:
    """One row: an input, what happens to it, and the test that shows it.

    Fields:
        kind: A key of `KINDS`.
        name: The input.
        outcome: What happens to it.
        test: Path of the test's file below the repository's root.
    """

    kind: str
    name: str
    outcome: str
    test: str


def members(root: Path = ROOT) -> list[Member]:
    """Every member that a test of the repository at ``root`` shows, by file and line.

    Raises:
        ValueError: when a mark is not written out, or names no kind.
    """
    return [
        member
        for path in sorted((root / "tests").rglob("test_*.py"))
        for member in _members(path, path.relative_to(root).as_posix())
    ]


def _members(path: Path, name: str) -> Iterator[Member]:
    source = path.read_text(encoding="utf-8")
    if "member(" not in source:
        return
    calls = (
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "member"
    )
    for call in sorted(calls, key=lambda call: call.lineno):
        words = [part.value for part in call.args if isinstance(part, ast.Constant)]
        texts = [word for word in words if isinstance(word, str)]
        if len(texts) != 3 or texts[0] not in KINDS:
            raise ValueError(
                f"{name}, line {call.lineno}: member() takes three strings that are written out, "
                f"the first one of {', '.join(KINDS)}"
            )
        kind, member, outcome = texts
        yield Member(kind, member, outcome, name)


def records_page() -> str:
    """The page of the records: a list of them, then a section for each."""
    overview = table(
        ("File", "Holds"),
        [
            (f"[{title}](#{anchor(title)})", schema(name)["description"])
            for name, title in RECORDS.items()
        ],
    )
    parts = (NOTE, RECORDS_INTRODUCTION, "\n".join(overview), records_reference())
    return "\n\n".join(parts) + "\n"


def cli_page() -> str:
    """The page of the command line: the commands in groups, then a section for each."""
    groups = dict.fromkeys(command.group for command in COMMANDS)
    overview = table(
        ("Command", "What it does"),
        [(f"[`{each.name}`](#{anchor(each.name)})", f"{each.summary}.") for each in COMMANDS],
    )
    former = table(
        ("Former name", "Name"), [(f"`{name}`", f"`{RENAMED[name]}`") for name in RENAMED]
    )
    parts = [
        NOTE,
        CLI_INTRODUCTION,
        "\n".join(overview),
        "## Exit codes",
        "A command without a table of its own ends with one of these.",
        exit_codes(EXIT_CODES),
        "## Former names",
        "They work for one more release, and print a warning.",
        "\n".join(former),
    ]
    for group in groups:
        parts += [f"## {group}", *(command_section(c) for c in COMMANDS if c.group == group)]
    return "\n\n".join(parts) + "\n"


def command_section(command: Command) -> str:
    """The section of one command: description, usage, arguments, and exit codes of its own."""
    parser = argparse.ArgumentParser(add_help=False)
    command.add_arguments(parser)
    arguments = sorted(parser._actions, key=lambda action: bool(action.option_strings))
    words = [
        f"slm-benchmark {command.name}",
        *(spelling(a) if is_required(a) else f"[{spelling(a)}]" for a in arguments),
    ]
    rows = [(f"`{spelling(a)}`", *split_help(a)[::-1]) for a in arguments]
    parts = [
        f"### {command.name}",
        command.description,
        "```text\n" + "\n".join(wrapped(words)) + "\n```",
        "\n".join(table(("Argument", "Default", "Meaning"), rows)),
    ]
    return "\n\n".join([*parts, *([exit_codes(command.all_exit_codes)] * bool(command.exit_codes))])


def exit_codes(codes: Mapping[int, str]) -> str:
    """A table of exit codes."""
    return "\n".join(table(("Exit code", "Meaning"), [(str(c), text) for c, text in codes.items()]))


def wrapped(words: list[str], width: int = 88) -> list[str]:
    """Words on lines of at most ``width`` characters, none of them split; later lines indented."""
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) > width:
            lines.append(" " * 4 + word)
        else:
            lines[-1] += f" {word}"
    return lines


def is_required(action: argparse.Action) -> bool:
    """Whether an argument must be given."""
    if action.option_strings:
        return action.required
    return action.nargs not in ("*", "?")


def spelling(action: argparse.Action) -> str:
    """An argument as it is typed: ``--seed N``, ``CARD ...`` or ``--all``."""
    name = str(action.metavar or action.dest.upper())
    value = {"+": f"{name} ...", "*": f"{name} ...", "0": ""}.get(str(action.nargs), name)
    return " ".join([*action.option_strings, value]).strip()


def split_help(action: argparse.Action) -> tuple[str, str]:
    """The meaning of an argument and its default, which ends the help in parentheses.

    Raises:
        ValueError: for an argument that may be left out and has no default in its help.
    """
    text = (action.help or "").replace("%%", "%")
    if is_required(action):
        return text, "required"
    meaning, mark, default = text.removesuffix(")").rpartition(" (default: ")
    if not mark:
        raise ValueError(f"{action.dest}: the help does not end in (default: ...)")
    return meaning, default


def anchor(title: str) -> str:
    """The address of a heading inside its page."""
    return title.lower().replace(" ", "-")


if __name__ == "__main__":
    sys.exit(main())
