"""IFEval, with a response that follows each prompt and one that does not, and MT-Bench."""

from __future__ import annotations

from typing import Any, NamedTuple

from slm_benchmark.download.readers import IFEVAL_ARGUMENTS
from tests.support.benchmark_data.types import Configs, Row


class _Prompt(NamedTuple):
    """A prompt with its checks.

    Attributes:
        text: The prompt.
        instructions: Id of each check → its arguments.
        followed: A response that passes all of them.
        ignored: A response that passes none, on one line: the loose form leaves out lines.
    """

    text: str
    instructions: dict[str, dict[str, Any]]
    followed: str
    ignored: str


_REPEATED = "Name a fruit."

PROMPTS = (
    _Prompt(
        "Write about a lake with the words boat and oar.",
        {"keywords:existence": {"keywords": ["boat", "oar"]}},
        "The boat has one oar.",
        "The lake is deep.",
    ),
    _Prompt(
        "Write about a lake and say water at least twice.",
        {
            "keywords:frequency": {
                "keyword": "water",
                "frequency": 2,
                "relation": "at least",
            }
        },
        "Water flows into water.",
        "A lake is wide.",
    ),
    _Prompt(
        "Write about a lake without the word fish.",
        {"keywords:forbidden_words": {"forbidden_words": ["fish"]}},
        "The lake is deep.",
        "A fish swims.",
    ),
    _Prompt(
        "Write about bees with the letter z at least three times.",
        {
            "keywords:letter_frequency": {
                "letter": "z",
                "let_frequency": 3,
                "let_relation": "at least",
            }
        },
        "Bees buzz lazily.",
        "A bee flies.",
    ),
    _Prompt(
        "Answer in German: where is the lake?",
        {"language:response_language": {"language": "de"}},
        "Der See liegt hinter dem großen Wald, und der Weg dorthin ist nicht weit.",
        "The lake lies behind the great forest, and the way there is not very long.",
    ),
    _Prompt(
        "Describe a lake in at least two sentences.",
        {"length_constraints:number_sentences": {"num_sentences": 2, "relation": "at least"}},
        "The lake is deep. It is cold too.",
        "The lake is deep.",
    ),
    _Prompt(
        "Describe a lake in two paragraphs, divided by ***.",
        {"length_constraints:number_paragraphs": {"num_paragraphs": 2}},
        "The lake is deep.\n***\nIt is cold too.",
        "The lake is deep.",
    ),
    _Prompt(
        "Describe a lake in at least six words.",
        {"length_constraints:number_words": {"num_words": 6, "relation": "at least"}},
        "The lake is deep and cold.",
        "It is deep.",
    ),
    _Prompt(
        "Describe a lake in two paragraphs; the second begins with cold.",
        {
            "length_constraints:nth_paragraph_first_word": {
                "num_paragraphs": 2,
                "nth_paragraph": 2,
                "first_word": "cold",
            }
        },
        "The lake is deep.\n\nCold it is too.",
        "Cold it is.",
    ),
    _Prompt(
        "Write an invitation with two placeholders in square brackets.",
        {"detectable_content:number_placeholders": {"num_placeholders": 2}},
        "Dear [name], come on [day].",
        "Dear friend, come soon.",
    ),
    _Prompt(
        "Write an invitation with a postscript that begins with P.S.",
        {"detectable_content:postscript": {"postscript_marker": "P.S."}},
        "Come soon.\nP.S. Bring a coat.",
        "Come soon.",
    ),
    _Prompt(
        "List exactly two lakes as bullet points.",
        {"detectable_format:number_bullet_lists": {"num_bullets": 2}},
        "* the blue lake\n* the round lake",
        "the blue lake and the round lake",
    ),
    _Prompt(
        "Is a lake wet? Answer with My answer is yes., My answer is no. or My answer is maybe.",
        {"detectable_format:constrained_response": {}},
        "My answer is yes.",
        "It is.",
    ),
    _Prompt(
        "Describe a lake and highlight two parts like *this*.",
        {"detectable_format:number_highlighted_sections": {"num_highlights": 2}},
        "The lake is *deep* and *cold*.",
        "The lake is deep.",
    ),
    _Prompt(
        "Describe a lake in two sections, marked Section 1 and Section 2.",
        {
            "detectable_format:multiple_sections": {
                "section_spliter": "Section",
                "num_sections": 2,
            }
        },
        "Section 1\nThe lake is deep.\nSection 2\nIt is cold.",
        "The lake is deep.",
    ),
    _Prompt(
        "Describe a lake as JSON.",
        {"detectable_format:json_format": {}},
        '{"lake": "deep"}',
        "The lake is deep.",
    ),
    _Prompt(
        "Write a verse with a title in double angular brackets.",
        {"detectable_format:title": {}},
        "<<The lake>>\nDeep it lies.",
        "Deep it lies.",
    ),
    _Prompt(
        "Name two fruits as two responses, divided by ******.",
        {"combination:two_responses": {}},
        "An apple.\n******\nA pear.",
        "An apple.",
    ),
    _Prompt(
        f"{_REPEATED} First repeat the request word for word, then answer.",
        {"combination:repeat_prompt": {"prompt_to_repeat": _REPEATED}},
        f"{_REPEATED} An apple.",
        "An apple.",
    ),
    _Prompt(
        "Describe a lake and end with: That is all.",
        {"startend:end_checker": {"end_phrase": "That is all."}},
        "The lake is deep. That is all.",
        "The lake is deep.",
    ),
    _Prompt(
        "Describe a lake with at least two words in capital letters.",
        {
            "change_case:capital_word_frequency": {
                "capital_frequency": 2,
                "capital_relation": "at least",
            }
        },
        "The LAKE is DEEP.",
        "The lake is deep.",
    ),
    _Prompt(
        "Describe a lake in capital letters.",
        {"change_case:english_capital": {}},
        "THE LAKE IS DEEP AND THE WATER IS VERY COLD.",
        "The lake is deep and the water is very cold.",
    ),
    _Prompt(
        "Describe a lake in small letters.",
        {"change_case:english_lowercase": {}},
        "the lake is deep and the water is very cold.",
        "The lake is deep and the water is very cold.",
    ),
    _Prompt(
        "Describe a lake without commas.",
        {"punctuation:no_comma": {}},
        "The lake is deep and cold.",
        "The lake is deep, wide, cold.",
    ),
    _Prompt(
        "Describe a lake within double quotation marks.",
        {"startend:quotation": {}},
        '"The lake is deep."',
        "The lake is deep.",
    ),
    _Prompt(
        "Describe a lake without commas and with the word boat.",
        {"punctuation:no_comma": {}, "keywords:existence": {"keywords": ["boat"]}},
        "A boat crosses the lake.",
        "The lake is deep, wide, cold.",
    ),
)
"""One prompt for every check that the harness has, and one with two checks."""

_QUESTIONS = {
    "writing": ("Describe lake {n}.", "Now in one sentence."),
    "roleplay": ("You are ferryman {n}. What do you see?", "And at night?"),
    "reasoning": ("Ann is older than Bo, Bo than Cy. Who of {n} is youngest?", "And the eldest?"),
    "math": ("What is {n} + 4?", "And twice that?"),
    "coding": ("Write a function that returns {n}.", "Now let it print {n}."),
    "extraction": ("Which number stands here: house {n}?", "Give it as a word."),
    "stem": ("Why does lake {n} freeze from above?", "And why does ice float?"),
    "humanities": ("Why are towns of {n} houses built at rivers?", "Name one more reason."),
}
"""Category of MT-Bench → two turns."""

_WITH_REFERENCE = ("reasoning", "math", "coding")


def repositories() -> dict[str, Configs]:
    """The category's repositories."""
    return {
        "google/IFEval": {"default": {"train": [_ifeval(i) for i in range(len(PROMPTS))]}},
        "HuggingFaceH4/mt_bench_prompts": {
            "default": {
                "train": [
                    _mt_bench(category, 2 * place + i)
                    for place, category in enumerate(_QUESTIONS)
                    for i in range(2)
                ]
            }
        },
    }


def _ifeval(i: int) -> Row:
    prompt = PROMPTS[i]
    return {
        "key": 1000 + i,
        "prompt": prompt.text,
        "instruction_id_list": list(prompt.instructions),
        "kwargs": [
            {name: given.get(name) for name in IFEVAL_ARGUMENTS}
            for given in prompt.instructions.values()
        ],
    }


def _mt_bench(category: str, n: int) -> Row:
    turns = [turn.format(n=n) for turn in _QUESTIONS[category]]
    references = [f"Reference {n} of turn 1.", f"Reference {n} of turn 2."]
    return {
        "category": category,
        "prompt": turns,
        "reference": references if category in _WITH_REFERENCE else [],
        "prompt_id": 70_000_000 + n,
    }
