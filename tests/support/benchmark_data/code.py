"""HumanEval+, MBPP and CodeXGLUE: functions of a line or two, with tests."""

from __future__ import annotations

from typing import NamedTuple

from tests.support.benchmark_data.types import Configs, Row


class _Problem(NamedTuple):
    """A function to write.

    Attributes:
        name: Of the function.
        arguments: As they stand in the signature.
        task: What it does.
        body: One indented line or more.
        cases: Arguments of a call as source → the result as source; at least three.
    """

    name: str
    arguments: str
    task: str
    body: str
    cases: dict[str, str]


PROBLEMS = (
    _Problem(
        "shelf_total",
        "books: list, bought: int",
        "the number of books on all shelves after some more were bought",
        "    total = sum(books)\n    return total + bought\n",
        {"[1, 2], 3": "6", "[], 0": "0", "[5], -1": "4"},
    ),
    _Problem(
        "wider",
        "first: int, second: int",
        "the wider of two tables",
        "    if first > second:\n        return first\n    return second\n",
        {"1, 2": "2", "7, 3": "7", "4, 4": "4"},
    ),
    _Problem(
        "mirrored",
        "word: str",
        "a word as a mirror shows it",
        "    return word[::-1]\n",
        {"'abc'": "'cba'", "''": "''", "'on'": "'no'"},
    ),
    _Problem(
        "mean_length",
        "planks: list",
        "the mean length of planks in metres",
        "    return sum(planks) / len(planks)\n",
        {"[1.0, 2.0]": "1.5", "[3.0]": "3.0", "[0.1, 0.2]": "0.15"},
    ),
    _Problem(
        "even_houses",
        "numbers: list",
        "the house numbers on the even side of a street, in their order",
        "    return [number for number in numbers if number % 2 == 0]\n",
        {"[1, 2, 4]": "[2, 4]", "[]": "[]", "[3]": "[]"},
    ),
    _Problem(
        "letters_of",
        "name: str",
        "how often each letter stands in a name",
        "    counts = {}\n    for letter in name:\n"
        "        counts[letter] = counts.get(letter, 0) + 1\n    return counts\n",
        {"'anna'": "{'a': 2, 'n': 2}", "''": "{}", "'bo'": "{'b': 1, 'o': 1}"},
    ),
    _Problem(
        "rings",
        "minutes: int",
        "how often a bell rings that rings every quarter of an hour",
        "    return minutes // 15\n",
        {"60": "4", "14": "0", "15": "1"},
    ),
    _Problem(
        "path_to",
        "rooms: list",
        "the names of rooms joined by slashes",
        "    return '/'.join(rooms)\n",
        {"['hall', 'study']": "'hall/study'", "[]": "''", "['attic']": "'attic'"},
    ),
)

_FUNCTIONS = {
    "go": "func house{n}() int {{ return {n} }}",
    "java": "public int house{n}() {{ return {n} ; }}",
    "javascript": "function house{n}() {{ return {n} ; }}",
    "php": "function house{n}() {{ return {n} ; }}",
    "python": "def house{n}():\n    return {n}",
    "ruby": "def house{n}\n  {n}\nend",
}
"""Language of CodeXGLUE → a function, with the place of its number."""

_DOCSTRINGS = (
    "Returns how many people live in house {n} .",
    "Number {n} of the houses at the river .",
    "Gives the height of house {n} in metres , roof and chimney included .",
)


def repositories() -> dict[str, Configs]:
    """The category's repositories."""
    return {
        "evalplus/humanevalplus": {
            "default": {"test": [_humaneval_plus(i) for i in range(len(PROBLEMS))]}
        },
        "openai/openai_humaneval": {
            "default": {"test": [_humaneval(i) for i in range(len(PROBLEMS))]}
        },
        "google-research-datasets/mbpp": {
            "full": {"test": [_mbpp(i) for i in range(len(PROBLEMS))]}
        },
        **{
            f"CM/codexglue_code2text_{language}": {
                "default": {"test": [_code2text(language, i) for i in range(9)]}
            }
            for language in _FUNCTIONS
        },
    }


def _humaneval_plus(i: int) -> Row:
    """The tests compare through numpy and in a loop, as those of EvalPlus do."""
    problem = PROBLEMS[i]
    inputs = ", ".join(f"[{call}]" for call in problem.cases)
    results = ", ".join(problem.cases.values())
    return {
        "task_id": f"HumanEval/{i}",
        "prompt": f'def {problem.name}({problem.arguments}):\n    """Return {problem.task}."""\n',
        "canonical_solution": problem.body,
        "entry_point": problem.name,
        "test": "import numpy as np\n\n\n"
        "def matches(found, wanted):\n"
        "    if isinstance(wanted, float):\n"
        "        return np.allclose(found, wanted, rtol=1e-07, atol=1e-06)\n"
        "    return found == wanted\n\n\n"
        "def check(candidate):\n"
        f"    inputs = [{inputs}]\n"
        f"    results = [{results}]\n"
        "    for given, wanted in zip(inputs, results):\n"
        "        assert matches(candidate(*given), wanted)\n",
    }


def _humaneval(i: int) -> Row:
    """The same problem with one assertion for each case."""
    cases = PROBLEMS[i].cases.items()
    compared = "abs({} - {}) < 1e-9" if _is_inexact(i) else "{} == {}"
    asserted = "".join(
        f"    assert {compared.format(f'candidate({call})', result)}\n" for call, result in cases
    )
    return {
        **_humaneval_plus(i),
        "test": f"\n\nMETADATA = {{'author': 'own'}}\n\n\ndef check(candidate):\n{asserted}\n",
    }


def _is_inexact(i: int) -> bool:
    """Whether the results are divisions, which rounding may change."""
    return PROBLEMS[i].name == "mean_length"


def _mbpp(i: int) -> Row:
    """Lines end as in a file of Windows, which many of the real solutions do."""
    problem = PROBLEMS[i]
    source = f"def {problem.name}({problem.arguments}):\n{problem.body}"
    compared = "abs({} - {}) < 1e-9" if _is_inexact(i) else "{} == {}"
    return {
        "task_id": 11 + i,
        "text": f"Write a function to find {problem.task}.",
        "code": source.rstrip("\n").replace("\n", "\r\n"),
        "test_list": [
            "assert " + compared.format(f"{problem.name}({call})", result)
            for call, result in problem.cases.items()
        ],
        "test_setup_code": "",
        "challenge_test_list": [],
    }


def _code2text(language: str, i: int) -> Row:
    code = _FUNCTIONS[language].format(n=i)
    docstring = _DOCSTRINGS[i % len(_DOCSTRINGS)].format(n=i)
    return {
        "id": i,
        "repo": "own/houses",
        "path": f"houses.{language}",
        "func_name": f"house{i}",
        "original_string": code,
        "language": language,
        "code": code,
        "code_tokens": code.split(),
        "docstring": docstring,
        "docstring_tokens": docstring.split(),
        "sha": f"{i:040x}",
        "url": "https://example.org/houses",
    }
