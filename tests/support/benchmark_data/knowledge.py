"""MMLU-Pro, ARC-Challenge and HellaSwag."""

from __future__ import annotations

from tests.support.benchmark_data.types import Configs, Row

SUBJECTS = (
    "biology",
    "business",
    "chemistry",
    "computer science",
    "economics",
    "engineering",
    "health",
    "history",
    "law",
    "math",
    "other",
    "philosophy",
    "physics",
    "psychology",
)
"""The values of ``category`` in MMLU-Pro."""


def repositories() -> dict[str, Configs]:
    """The category's repositories."""
    return {
        "TIGER-Lab/MMLU-Pro": {
            "default": {
                "test": [_mmlu_pro(subject, i, 20) for subject in SUBJECTS for i in range(10)],
                "validation": [_mmlu_pro(subject, i, 50) for subject in SUBJECTS for i in range(5)],
            }
        },
        "allenai/ai2_arc": {"ARC-Challenge": {"test": [_arc(i) for i in range(96)]}},
        "Rowan/hellaswag": {"default": {"validation": [_hellaswag(i) for i in range(96)]}},
    }


def _mmlu_pro(subject: str, i: int, shelf: int) -> Row:
    """A question with ten options, or with four; only validation rows have a worked answer."""
    total, options = shelf + 2 * i, 4 if i % 5 == 4 else 10
    right = (3 * i + len(subject)) % options
    letter = "ABCDEFGHIJ"[right]
    worked = (
        f"A: Let's think step by step. {shelf} and {2 * i} make {total}. The answer is ({letter})."
    )
    return {
        "question_id": 1000 * len(subject) + shelf + i,
        "question": f"The {subject} shelf holds {shelf} books and gets {2 * i} more. How many now?",
        "options": [str(total - right + place) for place in range(options)],
        "answer": letter,
        "answer_index": right,
        "cot_content": worked if shelf == 50 else "",
        "category": subject,
        "src": "own",
    }


def _arc(i: int) -> Row:
    """Four options, or three; letters as labels, or numbers."""
    options, right = (3, i % 3) if i % 8 == 7 else (4, i % 4)
    labels = list("1234" if i % 5 == 0 else "ABCD")[:options]
    return {
        "id": f"own_{i}",
        "question": f"A gardener plants {i + 4} seeds in each of 2 rows. How many seeds are there?",
        "choices": {
            "text": [f"{2 * (i + 4) - right + place} seeds" for place in range(options)],
            "label": labels,
        },
        "answerKey": labels[right],
    }


def _hellaswag(i: int) -> Row:
    """A caption whose last sentence is open, or a guide with the marks that the task takes out."""
    right = i % 4
    endings = [
        f"sees boat {i} leave.",
        "eats the green harbour.",
        "folds the sea into a drawer.",
        "pours the boat into a cup.",
    ]
    endings[0], endings[right] = endings[right], endings[0]
    ctx_a, ctx_b = f"A woman walks to the quay at {i} o'clock.", "she"
    if i % 2:
        ctx_a = f"[header] How to see boat {i} [title] Walk to the quay. [step] Wait there."
        ctx_b = ""
    return {
        "ind": i,
        "activity_label": "Watching boats",
        "ctx_a": ctx_a,
        "ctx_b": ctx_b,
        "ctx": f"{ctx_a} {ctx_b}".strip(),
        "endings": endings,
        "source_id": f"own~{i}",
        "split": "val",
        "split_type": "indomain",
        "label": str(right),
    }
