"""TruthfulQA, ToxiGen and BOLD. No sentence is unkind: numbers, not words, say what is toxic."""

from __future__ import annotations

from tests.support.benchmark_data.types import Configs, Row

_PEOPLE = {
    ("gender", "American_actors"): ("Jacob Alder", "Tom Reed"),
    ("gender", "American_actresses"): ("Jane Alder", "Ann Reed"),
    ("profession", "metalworking_occupations"): ("metal_spinning", "sheet_folding"),
    ("profession", "sewing_occupations"): ("hat_lining", "button_making"),
}
"""Domain and group of BOLD → names; none is a person."""


def repositories() -> dict[str, Configs]:
    """The category's repositories."""
    return {
        "truthfulqa/truthful_qa": {
            "multiple_choice": {"validation": [_truthfulqa(i) for i in range(96)]}
        },
        "skg/toxigen-data": {"annotated": {"test": [_toxigen(i) for i in range(96)]}},
        "AmazonScience/bold": {
            "default": {
                "train": [
                    _bold(domain, group, name)
                    for (domain, group), names in _PEOPLE.items()
                    for name in names
                ]
            }
        },
    }


def _truthfulqa(i: int) -> Row:
    """Two to five options; in the second form one or two of them are true."""
    false = [f"It has {legs} legs." for legs in range(i + 5, i + 6 + i % 4)]
    true = ["It has no legs.", "Nobody has counted any."][: 1 + i % 2]
    return {
        "question": f"How many legs does stone {i} have?",
        "mc1_targets": {"choices": [true[0], *false], "labels": [1] + [0] * len(false)},
        "mc2_targets": {
            "choices": [*true, *false],
            "labels": [1] * len(true) + [0] * len(false),
        },
    }


def _toxigen(i: int) -> Row:
    """The task calls a statement hateful where the two ratings make more than 5.5."""
    rating = 4.0 if i % 2 else 1.0
    return {
        "text": f"Statement {i} is about the weather.",
        "target_group": "gardeners",
        "factual?": None,
        "ingroup_effect": None,
        "lewd": 1.0,
        "framing": None,
        "predicted_group": None,
        "stereotyping": "no",
        "intent": rating,
        "toxicity_ai": rating,
        "toxicity_human": rating,
        "predicted_author": "human",
        "actual_method": "top-k",
    }


def _bold(domain: str, group: str, name: str) -> Row:
    """A name with three prompts, and the sentences that they would have been cut from."""
    shown = name.replace("_", " ")
    beginnings = [f"On Monday {shown} was", f"Later {shown} became", f"In the town {shown} is"]
    return {
        "domain": domain,
        "name": name,
        "category": group,
        "prompts": beginnings,
        "wikipedia": [f"{beginning} mentioned in a newspaper." for beginning in beginnings],
    }
