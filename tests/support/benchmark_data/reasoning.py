"""BBH, GPQA Diamond and GSM8K."""

from __future__ import annotations

from tests.support.benchmark_data.types import Configs, Row

_OPTIONS: dict[str, int | list[str]] = {
    "boolean_expressions": ["False", "True"],
    "causal_judgement": ["Yes", "No"],
    "date_understanding": 6,
    "disambiguation_qa": 3,
    "dyck_languages": ["]", ")", "} ]", "] )"],
    "formal_fallacies": ["valid", "invalid"],
    "geometric_shapes": 11,
    "hyperbaton": 2,
    "logical_deduction_five_objects": 5,
    "logical_deduction_seven_objects": 7,
    "logical_deduction_three_objects": 3,
    "movie_recommendation": 6,
    "multistep_arithmetic_two": ["24", "-7", "130", "-58"],
    "navigate": ["Yes", "No"],
    "object_counting": [str(count) for count in range(19)],
    "penguins_in_a_table": 5,
    "reasoning_about_colored_objects": 18,
    "ruin_names": 6,
    "salient_translation_error_detection": 6,
    "snarks": 2,
    "sports_understanding": ["yes", "no"],
    "temporal_sequences": 4,
    "tracking_shuffled_objects_five_objects": 5,
    "tracking_shuffled_objects_seven_objects": 7,
    "tracking_shuffled_objects_three_objects": 3,
    "web_of_lies": ["Yes", "No"],
    "word_sorting": ["apple pear plum", "birch elm oak", "blue green red", "cat dog owl"],
}
"""Set of BBH → its answers, or how many lettered options it has.

The sets with options have those of the harness's multiple-choice tasks; the others, which are only
written, get a few answers here.
"""

_DOCUMENTS = 12
"""In each set of BBH."""


def repositories() -> dict[str, Configs]:
    """The category's repositories."""
    return {
        "SaylorTwift/bbh": {
            name: {"test": [_bbh(name, i) for i in range(_DOCUMENTS)]} for name in _OPTIONS
        },
        "Idavidrein/gpqa": {"gpqa_diamond": {"train": [_gpqa(i) for i in range(96)]}},
        "openai/gsm8k": {
            "main": {
                "test": [_gsm8k(i) for i in range(120)],
                "train": [_gsm8k(200 + i) for i in range(8)],
            }
        },
    }


def _bbh(name: str, i: int) -> Row:
    options = _OPTIONS[name]
    task = name.replace("_", " ")
    if not isinstance(options, int):
        target = options[(5 * i + 1) % len(options)]
        return {
            "input": f"Card {i} of the game of {task} shows {target}. It shows",
            "target": target,
        }
    letters = "ABCDEFGHIJKLMNOPQR"[:options]
    right = letters[(5 * i + 1) % options]
    listed = "\n".join(f"({letter}) card {letter}" for letter in letters)
    return {
        "input": f"In round {i} of the game of {task}, card {right} lies on top. Which one is it?\n"
        f"Options:\n{listed}",
        "target": f"({right})",
    }


def _gpqa(i: int) -> Row:
    """Nearly the hub's columns: those of the questions, of the review and of the validators."""
    answers = {
        "Correct Answer": f"{3 * i} metres",
        "Incorrect Answer 1": f"{3 * i + 1} metres",
        "Incorrect Answer 2": f"{3 * i + 2} metres",
        "Incorrect Answer 3": f"{3 * i + 3} metres\n",  # the hub's texts have stray white space
    }
    question = f"A cart rolls 3 metres a second for {i} seconds. How far does it come?"
    return {
        "Pre-Revision Question": question,
        **{f"Pre-Revision {name}": text for name, text in answers.items()},
        "Pre-Revision Explanation": "Speed times time.",
        "Self-reported question-writing time (minutes)": 5.0,
        "Question": question,
        **answers,
        "Explanation": "Speed times time.",
        "Revision Comments (from Question Writer)": None,
        "Subdomain": "Mechanics",
        "Writer's Difficulty Estimate": "Easy undergraduate level (or easier)",
        **{f"Extra Revised {name}": None for name in ("Question", *answers)},
        "Non-Expert Validator Accuracy": 1.0,
        "Majority Non-Expert Vals Incorrect": 0.0,
        "Expert Validator Accuracy": 1.0,
        "Record ID": f"own{i}",
        "High-level domain": "Physics",
        "Question Writer": "own",
    }


def _gsm8k(i: int) -> Row:
    """A worked answer; few results, so that one guessed from the others is right now and then."""
    first, total = i % 7 + 1, 1000 + 10 * (i % 10)
    return {
        "question": f"Tom has {first} of the {total} stamps in album {i}. With the rest, how many?",
        "answer": f"The album has {first} + {total - first} = <<{first}+{total - first}={total}>>"
        f"{total} stamps.\n#### {total:,}",
    }
