"""Documents made from a seed: arithmetic, retrieval and instructions, in four languages.

Each public function gives the splits of one language and level. `test` is what is scored; `train`,
drawn from a seed of its own, holds few-shot examples, none of which is in `test`. The same seed
and level give the same numbers, places and constraints in every language: only the words differ.
Another seed gives other documents of the same difficulty, so no model can have seen them.

A level is a row of a table below. No later row is easier in any of its numbers.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Hashable
from functools import partial
from itertools import pairwise, product
from math import gcd
from operator import add, eq
from typing import Any

Row = dict[str, Any]
Splits = dict[str, list[Row]]

ARITHMETIC_LEVELS: dict[int, dict[str, Any]] = {
    1: {"operations": ("sum",), "digits": 2, "carries": 0},
    2: {"operations": ("sum", "product"), "digits": 3, "carries": 1},
    3: {"operations": ("sum", "product"), "digits": 4, "carries": 3},
    4: {"operations": ("sum", "product"), "digits": 6, "carries": 5},
}
"""Digits of each summand, or of the factor beside a one-digit one; columns that carry."""

RETRIEVAL_LEVELS = {1: {"pairs": 4}, 2: {"pairs": 16}, 3: {"pairs": 40}, 4: {"pairs": 80}}
"""Sentences of the context, each of which gives one person's number."""

INSTRUCTION_LEVELS = {
    1: {"constraints": 1},
    2: {"constraints": 2},
    3: {"constraints": 3},
    4: {"constraints": 4},
}
"""Constraints that the text must meet at once."""

ATTEMPTS = 100_000
"""Draws for one document before a level counts as exhausted."""


def arithmetic(language: str, level: int, documents: int, examples: int, seed: int) -> Splits:
    """Sums and products with an exact number of digits and carries.

    Args:
        language: A key of `ARITHMETIC_WORDS`.
        level: A key of `ARITHMETIC_LEVELS`.
        documents: Rows of ``test``, the level's operations in equal shares.
        examples: Rows of ``train``.
        seed: Another seed gives another set.
    """
    words, size = ARITHMETIC_WORDS[language], dict(ARITHMETIC_LEVELS[level])
    operations = size.pop("operations")

    def draw(rng: random.Random, index: int, _: int) -> tuple[Hashable, Row] | None:
        # Four answers in turn take the four places, of sums and of products alike.
        operation = operations[index // 4 % len(operations)]
        first, second = operands(rng, operation, **size)
        answer = first + second if operation == "sum" else first * second
        columns = carry_columns(operation, first, second)
        # Half of the slips make the number smaller, so that the rank of the answer tells nothing.
        options = number_options(rng, answer, columns, sign=(-1, 1)[index // 8 % 2])
        if options is None:
            return None
        label = index % 4
        options.insert(label, options.pop(0))
        prompt = words["prompt"].format(
            question=words[operation].format(first=first, second=second)
        )
        row = {
            "prompt": prompt,
            "options": [str(option) for option in options],
            "label": label,
            "answer": str(answer),
            "operation": operation,
            **size,
        }
        return (operation, *sorted((first, second))), row

    return _splits("arithmetic", language, level, documents, examples, seed, draw)


def operands(rng: random.Random, operation: str, digits: int, carries: int) -> tuple[int, int]:
    """Two numbers whose sum or product carries in exactly ``carries`` columns.

    Both have ``digits`` digits, but the second factor of a product has one.

    Raises:
        ValueError: when no such numbers were found, as for more carries than digits.
    """
    low, high = 10 ** (digits - 1), 10**digits
    for _ in range(ATTEMPTS):
        first = rng.randrange(low, high)
        second = rng.randrange(low, high) if operation == "sum" else rng.randrange(2, 10)
        if len(carry_columns(operation, first, second)) == carries:
            return first, second
    raise ValueError(f"no {operation} of {digits} digits with {carries} carries was found")


def carry_columns(operation: str, first: int, second: int) -> list[int]:
    """The columns, units being 0, that pass a carry on when worked out by hand."""
    columns = []
    for column in range(len(str(first))):
        power = 10 ** (column + 1)
        low = first % power
        done = low + second % power if operation == "sum" else low * second
        if done >= power:
            columns.append(column)
    return columns


def number_options(
    rng: random.Random, answer: int, columns: list[int], sign: int
) -> list[int] | None:
    """The answer and three slips: a carry dropped or counted twice, two digits swapped, both.

    The two slips are independent of each other, so that each option has one neighbour by either
    slip: no option stands out as the middle of the others. All have the same number of digits.
    Where no column carries, one is off by one; two digits are too few to swap, and there the units
    are off by one.

    Args:
        rng: Draws the slips.
        answer: The right number, which comes first.
        columns: Columns that carry.
        sign: -1 drops a carry, 1 counts it twice.

    Returns:
        Four different numbers; None when this answer allows no such four.
    """
    length = len(str(answer))
    offsets = [10 ** (column + 1) for column in columns] or [10**c for c in range(1, length)]
    # The first digit stays: it is small more often than not, so moving it shows.
    slips: list[Callable[[int], int]] = [partial(_swapped, at=p) for p in range(1, length - 1)]
    slips = slips or [partial(add, 1), partial(add, -1)]
    found = []
    for offset, slip in product(offsets, slips):
        slipped = answer + sign * offset
        if len(str(slipped)) == length:
            options = [answer, slipped, slip(answer), slip(slipped)]
            if len(set(options)) == 4 and all(len(str(option)) == length for option in options):
                found.append(options)
    if not found:
        return None
    right, *wrong = rng.choice(found)
    rng.shuffle(wrong)
    return [right, *wrong]


def _swapped(number: int, at: int) -> int:
    text = str(number)
    return int(text[:at] + text[at + 1] + text[at] + text[at + 2 :])


def retrieval(language: str, level: int, documents: int, examples: int, seed: int) -> Splits:
    """One person's number among many, asked for at depths spread evenly over the context.

    Args:
        language: A key of `RETRIEVAL_WORDS`.
        level: A key of `RETRIEVAL_LEVELS`.
        documents: Rows of ``test``.
        examples: Rows of ``train``.
        seed: Another seed gives another set.
    """
    words, pairs = RETRIEVAL_WORDS[language], RETRIEVAL_LEVELS[level]["pairs"]
    people = [(name, city) for name in range(len(NAMES)) for city in range(len(words["cities"]))]

    def draw(rng: random.Random, index: int, count: int) -> tuple[Hashable, Row]:
        asked, numbers = rng.sample(people, pairs), rng.sample(range(1000, 10_000), pairs)
        named = [{"name": NAMES[name], "city": words["cities"][city]} for name, city in asked]
        # A stride that shares no factor with the count visits the positions in no order.
        position = (index * _stride(count) % count) * pairs // count
        right = numbers[position]
        # Numbers of people with the same name or city come first: they are what is confused.
        others = [i for i in rng.sample(range(pairs), pairs) if i != position]
        others.sort(key=lambda i: not any(map(eq, asked[i], asked[position])))
        options = [numbers[i] for i in others[:3]]
        label = index % 4
        options.insert(label, right)
        starts = [words["start"].format(**person) for person in named]
        context = "\n".join(f"{s} {n}." for s, n in zip(starts, numbers, strict=True))
        question = words["prompt"].format(start=starts[position])
        row = {
            "prompt": f"{context}\n\n{question}",
            "options": [str(option) for option in options],
            "label": label,
            "answer": str(right),
            "pairs": pairs,
            "position": position,
            "depth": position / (pairs - 1),
        }
        return tuple(zip(asked, numbers, strict=True)), row

    return _splits("retrieval", language, level, documents, examples, seed, draw)


def _stride(count: int) -> int:
    """A number near the golden section of ``count`` that shares no factor with it."""
    return next(n for n in range(max(1, round(0.618 * count)), 2 * count + 1) if gcd(n, count) == 1)


def instructions(language: str, level: int, documents: int, examples: int, seed: int) -> Splits:
    """A short text on a topic under constraints that checks.py can decide.

    ``constraints`` is a JSON list of {kind, …}; ``answer`` is a text that meets them all, dull on
    purpose, and serves as the worked example.

    Args:
        language: A key of `INSTRUCTION_WORDS`.
        level: A key of `INSTRUCTION_LEVELS`.
        documents: Rows of ``test``.
        examples: Rows of ``train``.
        seed: Another seed gives another set.
    """
    words, wanted = INSTRUCTION_WORDS[language], INSTRUCTION_LEVELS[level]["constraints"]

    def draw(rng: random.Random, index: int, _: int) -> tuple[Hashable, Row] | None:
        # Each kind is the first constraint equally often.
        first = CONSTRAINTS[index % len(CONSTRAINTS)]
        kinds = [first, *rng.sample([kind for kind in CONSTRAINTS if kind != first], wanted - 1)]
        topic = rng.randrange(len(words["topics"]))
        # Every kind draws, whether it is used or not: languages stay side by side.
        drawn = {kind: _constraint(kind, rng, language) for kind in CONSTRAINTS}
        if any(pair <= set(kinds) for pair in EXCLUSIVE):
            return None
        constraints = [drawn[kind] for kind in kinds]
        sentences = [words["task"].format(topic=words["topics"][topic])]
        sentences += [_sentence(constraint, words) for constraint in constraints]
        prompt = words["prompt"].format(task=" ".join(sentences))
        row = {
            "prompt": prompt,
            "answer": example_answer(constraints, language),
            "constraints": json.dumps(constraints, ensure_ascii=False, sort_keys=True),
        }
        return prompt, row

    return _splits("instructions", language, level, documents, examples, seed, draw)


def _constraint(kind: str, rng: random.Random, language: str) -> Row:
    words = INSTRUCTION_WORDS[language]
    constraint: Row = {"kind": kind}
    match kind:
        case "words":
            constraint["low"] = rng.randrange(15, 26)
            constraint["high"] = constraint["low"] + rng.randrange(15, 31)
        case "contains":
            constraint["word"] = rng.choice(words["nouns"])
        case "forbids":
            constraint["word"] = rng.choice(words["frequent"])
        case "numbered_list":
            constraint["count"] = rng.randrange(3, 7)
        case "ends_with":
            constraint["phrase"] = rng.choice(words["phrases"])
        case "json_keys":
            constraint["keys"] = rng.sample(words["keys"], rng.randrange(2, 5))
        case "language":
            constraint["language"] = rng.choice([c for c in INSTRUCTION_WORDS if c != language])
    return constraint


def _sentence(constraint: Row, words: Row) -> str:
    shown = dict(constraint)
    if "keys" in shown:
        shown["keys"] = ", ".join(shown["keys"])
    if "language" in shown:
        shown["language"] = words["languages"][shown["language"]]
    return str(words[shown["kind"]].format(**shown))


def example_answer(constraints: list[Row], language: str) -> str:
    """A text that meets all ``constraints`` of a task given in ``language``."""
    by_kind = {constraint["kind"]: constraint for constraint in constraints}
    written = by_kind.get("language", {}).get("language", language)
    wanted = by_kind.get("words", {"low": 20, "high": 28})
    keys = by_kind.get("json_keys", {}).get("keys", [])
    opening = [by_kind["contains"]["word"] + ":"] if "contains" in by_kind else []
    closing = by_kind["ends_with"]["phrase"].split() if "ends_with" in by_kind else []
    filler = INSTRUCTION_WORDS[written]["filler"].split()
    free = (wanted["low"] + wanted["high"]) // 2 - len(opening) - len(closing) - len(keys)
    text = [*opening, *(filler[i % len(filler)] for i in range(free)), *closing]
    pieces = len(keys) or by_kind.get("numbered_list", {}).get("count", 1)
    cut = [i * len(text) // pieces for i in range(pieces + 1)]
    parts = [" ".join(text[a:b]) for a, b in pairwise(cut)]
    if keys:
        answer = json.dumps(dict(zip(keys, parts, strict=True)), ensure_ascii=False)
    elif "numbered_list" in by_kind:
        answer = "\n".join(f"{number}. {part}" for number, part in enumerate(parts, start=1))
    else:
        answer = parts[0]
    return answer.lower() if "lower_case" in by_kind else answer


def _splits(
    kind: str,
    language: str,
    level: int,
    documents: int,
    examples: int,
    seed: int,
    draw: Callable[[random.Random, int, int], tuple[Hashable, Row] | None],
) -> Splits:
    """Rows that ``draw`` gives as (what must not come twice, row), or None to be asked again."""
    taken: set[Hashable] = set()
    splits = {}
    for split, count in (("test", documents), ("train", examples)):
        rng = random.Random(f"{seed}/{kind}/{level}/{split}")
        rows: list[Row] = []
        for index in range(count):
            for _ in range(ATTEMPTS):
                drawn = draw(rng, index, count)
                if drawn is not None and drawn[0] not in taken:
                    break
            else:
                raise ValueError(f"{kind}, level {level}: only {len(taken)} different documents")
            taken.add(drawn[0])
            rows.append({"language": language, "level": level, **drawn[1]})
        splits[split] = rows
    return splits


# ── words; lists of single words are easier to read as one text ──
# ruff: noqa: SIM905

ARITHMETIC_WORDS: dict[str, dict[str, str]] = {
    "en": {
        "sum": "What is {first} plus {second}?",
        "product": "What is {first} times {second}?",
        "prompt": "Question: {question} Give only the number.\nAnswer:",
    },
    "de": {
        "sum": "Wie viel ist {first} plus {second}?",
        "product": "Wie viel ist {first} mal {second}?",
        "prompt": "Frage: {question} Nenne nur die Zahl.\nAntwort:",
    },
    "es": {
        "sum": "¿Cuánto es {first} más {second}?",
        "product": "¿Cuánto es {first} por {second}?",
        "prompt": "Pregunta: {question} Da solo el número.\nRespuesta:",
    },
    "fr": {
        "sum": "Combien font {first} plus {second} ?",
        "product": "Combien font {first} fois {second} ?",
        "prompt": "Question : {question} Donne seulement le nombre.\nRéponse :",
    },
}

NAMES = (
    "Maria David Laura Martin Nina Simon Clara Daniel Sara Thomas Julia Robert Lena Victor Rita "
    "Paul"
).split()
"""Names that all four languages use."""

RETRIEVAL_WORDS: dict[str, dict[str, Any]] = {
    "en": {
        "cities": (
            "Berlin Madrid Paris Lisbon Vienna Prague Rome London Warsaw Dublin Zurich Brussels "
            "Copenhagen Tokyo Geneva Naples"
        ).split(),
        "start": "{name} lives in {city} and has the number",
        "prompt": "Complete the sentence: {start}",
    },
    "de": {
        "cities": (
            "Berlin Madrid Paris Lissabon Wien Prag Rom London Warschau Dublin Zürich Brüssel "
            "Kopenhagen Tokio Genf Neapel"
        ).split(),
        "start": "{name} wohnt in {city} und hat die Nummer",
        "prompt": "Vervollständige den Satz: {start}",
    },
    "es": {
        "cities": (
            "Berlín Madrid París Lisboa Viena Praga Roma Londres Varsovia Dublín Zúrich Bruselas "
            "Copenhague Tokio Ginebra Nápoles"
        ).split(),
        "start": "{name} vive en {city} y tiene el número",
        "prompt": "Completa la frase: {start}",
    },
    "fr": {
        "cities": (
            "Berlin Madrid Paris Lisbonne Vienne Prague Rome Londres Varsovie Dublin Zurich "
            "Bruxelles Copenhague Tokyo Genève Naples"
        ).split(),
        "start": "{name} habite à {city} et a le numéro",
        "prompt": "Complète la phrase : {start}",
    },
}

CONSTRAINTS = (
    "words",
    "contains",
    "forbids",
    "lower_case",
    "numbered_list",
    "ends_with",
    "json_keys",
    "language",
)

EXCLUSIVE = ({"numbered_list", "json_keys"}, {"ends_with", "json_keys"})
"""Constraints that no text meets together."""

INSTRUCTION_WORDS: dict[str, dict[str, Any]] = {
    "en": {
        "prompt": "Task: {task}\nText:",
        "task": "Write a short text about {topic}.",
        "topics": [
            "the sea",
            "winter",
            "school",
            "the forest",
            "the market",
            "the train",
            "the garden",
            "music",
            "bread",
            "rain",
            "the kitchen",
            "the library",
            "the mountain",
            "summer",
            "the bicycle",
            "coffee",
        ],
        "words": "Use between {low} and {high} words.",
        "contains": "Use the word “{word}”.",
        "forbids": "Do not use the word “{word}”.",
        "lower_case": "Write everything in lower case.",
        "numbered_list": (
            "Write it as a numbered list with exactly {count} points: 1., 2. and so on."
        ),
        "ends_with": "End with exactly these words: “{phrase}”.",
        "json_keys": "Write it as one JSON object with exactly these keys: {keys}.",
        "language": "Write it in {language}.",
        "languages": {"en": "English", "de": "German", "es": "Spanish", "fr": "French"},
        "nouns": "window river friend morning bridge letter colour table night stone".split(),
        "frequent": "and very many also people good".split(),
        "phrases": ["see you tomorrow", "that is all", "until next time", "as it was before"],
        "keys": "name place reason time colour".split(),
        "filler": "this is a text with some words that we read in the world, where it is for us",
    },
    "de": {
        "prompt": "Aufgabe: {task}\nText:",
        "task": "Schreibe einen kurzen Text über {topic}.",
        "topics": [
            "das Meer",
            "den Winter",
            "die Schule",
            "den Wald",
            "den Markt",
            "den Zug",
            "den Garten",
            "Musik",
            "Brot",
            "Regen",
            "die Küche",
            "die Bibliothek",
            "den Berg",
            "den Sommer",
            "das Fahrrad",
            "Kaffee",
        ],
        "words": "Verwende zwischen {low} und {high} Wörter.",
        "contains": "Verwende das Wort „{word}“.",
        "forbids": "Verwende nicht das Wort „{word}“.",
        "lower_case": "Schreibe alles in Kleinbuchstaben.",
        "numbered_list": (
            "Schreibe ihn als nummerierte Liste mit genau {count} Punkten: 1., 2. und so weiter."
        ),
        "ends_with": "Schließe mit genau diesen Worten: „{phrase}“.",
        "json_keys": "Schreibe ihn als ein JSON-Objekt mit genau diesen Schlüsseln: {keys}.",
        "language": "Schreibe ihn auf {language}.",
        "languages": {"en": "Englisch", "de": "Deutsch", "es": "Spanisch", "fr": "Französisch"},
        "nouns": "Fenster Fluss Freund Morgen Brücke Brief Farbe Tisch Nacht Stein".split(),
        "frequent": "und sehr viele auch Menschen gut".split(),
        "phrases": ["wir sehen uns morgen", "das ist alles", "bis zum nächsten Mal", "wie es war"],
        "keys": "name ort grund zeit farbe".split(),
        "filler": (
            "dies ist ein Text mit einigen Wörtern, die wir in der Welt lesen, wo er für uns ist"
        ),
    },
    "es": {
        "prompt": "Tarea: {task}\nTexto:",
        "task": "Escribe un texto breve sobre {topic}.",
        "topics": [
            "el mar",
            "el invierno",
            "la escuela",
            "el bosque",
            "el mercado",
            "el tren",
            "el jardín",
            "la música",
            "el pan",
            "la lluvia",
            "la cocina",
            "la biblioteca",
            "la montaña",
            "el verano",
            "la bicicleta",
            "el café",
        ],
        "words": "Usa entre {low} y {high} palabras.",
        "contains": "Usa la palabra «{word}».",
        "forbids": "No uses la palabra «{word}».",
        "lower_case": "Escribe todo en minúsculas.",
        "numbered_list": (
            "Escríbelo como una lista numerada con exactamente {count} puntos: 1., 2., etc."
        ),
        "ends_with": "Termina exactamente con estas palabras: «{phrase}».",
        "json_keys": "Escríbelo como un objeto JSON con exactamente estas claves: {keys}.",
        "language": "Escríbelo en {language}.",
        "languages": {"en": "inglés", "de": "alemán", "es": "español", "fr": "francés"},
        "nouns": "ventana río amigo mañana puente carta color mesa noche piedra".split(),
        "frequent": "y muy muchos también personas bueno".split(),
        "phrases": ["nos vemos mañana", "eso es todo", "hasta la próxima vez", "como era antes"],
        "keys": "nombre lugar motivo tiempo color".split(),
        "filler": (
            "este es un texto con algunas palabras que leemos en el mundo, donde está para todos"
        ),
    },
    "fr": {
        "prompt": "Consigne : {task}\nTexte :",
        "task": "Écris un court texte sur {topic}.",
        "topics": [
            "la mer",
            "l'hiver",
            "l'école",
            "la forêt",
            "le marché",
            "le train",
            "le jardin",
            "la musique",
            "le pain",
            "la pluie",
            "la cuisine",
            "la bibliothèque",
            "la montagne",
            "l'été",
            "le vélo",
            "le café",
        ],
        "words": "Utilise entre {low} et {high} mots.",
        "contains": "Utilise le mot « {word} ».",
        "forbids": "N'utilise pas le mot « {word} ».",
        "lower_case": "Écris tout en minuscules.",
        "numbered_list": (
            "Écris-le sous forme de liste numérotée avec exactement {count} points : 1., 2., etc."
        ),
        "ends_with": "Termine exactement par ces mots : « {phrase} ».",
        "json_keys": "Écris-le sous forme d'un objet JSON avec exactement ces clés : {keys}.",
        "language": "Écris-le en {language}.",
        "languages": {"en": "anglais", "de": "allemand", "es": "espagnol", "fr": "français"},
        "nouns": "fenêtre rivière ami matin pont lettre couleur table nuit pierre".split(),
        "frequent": "et très beaucoup aussi gens bon".split(),
        "phrases": [
            "on se voit demain",
            "c'est tout",
            "à la prochaine fois",
            "comme c'était avant",
        ],
        "keys": "nom lieu raison temps couleur".split(),
        "filler": (
            "ceci est un texte avec des mots que nous lisons dans le monde, où il est pour nous"
        ),
    },
}
