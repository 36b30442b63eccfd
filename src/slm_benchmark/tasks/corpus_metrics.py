"""chrF and BLEU of a corpus, from counts of each document instead of its text.

Both are ratios of counts that are summed over all documents, so they are no means of scores per
document. What a document contributes is a list of integers: enough for the score and for its
bootstrap interval, and publishable, because no text can be read from it.
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

from slm_benchmark.statistics.bootstrap import of_totals

CHRF_ORDER = 6
CHRF_BETA = 2
BLEU_ORDER = 4

_UNSPACED = {"Jpan", "Hang", "Thai", "Laoo", "Mymr", "Khmr", "Tibt"}


def chrf_statistics(hypothesis: str, reference: str) -> list[int]:
    """A document's counts for `chrf`.

    Source: M. Popović, WMT 2015, https://aclanthology.org/W15-3049; counted as sacrebleu 2 does by
    default: case kept, white space removed, n-grams of 1 … 6 characters.

    Returns:
        For each order: n-grams of the hypothesis, of the reference, and common to both. The first
        is 0 where the reference is too short to have any.
    """
    counts = []
    for order in range(1, CHRF_ORDER + 1):
        written, wanted = _ngrams(hypothesis, order), _ngrams(reference, order)
        counts += [
            written.total() if wanted else 0,
            wanted.total(),
            (written & wanted).total(),
        ]
    return counts


def _ngrams(text: str, order: int) -> Counter[str]:
    characters = "".join(text.split())
    return Counter(
        characters[first : first + order] for first in range(len(characters) - order + 1)
    )


@of_totals
def chrf(totals: Any, n: int) -> float:
    """Corpus chrF2, 0 … 100, from the sums of `chrf_statistics`.

    Precision and recall are averaged over the orders that both sides have, then weighed with recall
    counting twice.
    """
    orders = totals.reshape(CHRF_ORDER, 3)
    shared = [order for order in orders if order[0] > 0 and order[1] > 0]
    if not shared:
        return 0.0
    precision = sum(common / written for written, _, common in shared) / len(shared)
    recall = sum(common / wanted for _, wanted, common in shared) / len(shared)
    if precision + recall == 0:
        return 0.0
    weight = CHRF_BETA**2
    return float(100 * (1 + weight) * precision * recall / (weight * precision + recall))


def bleu_statistics(hypothesis: str, reference: str, tokenizer: str) -> list[int]:
    """A document's counts for `bleu`.

    Args:
        hypothesis: What the model wrote.
        reference: What it should have written.
        tokenizer: One of sacrebleu's that need no download: see `bleu_tokenizer`.

    Returns:
        Tokens of the hypothesis and of the reference, then for n-grams of 1 … 4 tokens those common
        to both, then those of the hypothesis.
    """
    score = _bleu(tokenizer).corpus_score([hypothesis], [[reference]])
    return [score.sys_len, score.ref_len, *score.counts, *score.totals]


@of_totals
def bleu(totals: Any, n: int) -> float:
    """Corpus BLEU, 0 … 100, from the sums of `bleu_statistics`; smoothed as sacrebleu does.

    Source: K. Papineni et al., ACL 2002, https://aclanthology.org/P02-1040; M. Post, WMT 2018,
    https://aclanthology.org/W18-6319.
    """
    from sacrebleu.metrics.bleu import BLEU

    counts = [round(count) for count in totals]
    score = BLEU.compute_bleu(
        counts[2 : 2 + BLEU_ORDER], counts[2 + BLEU_ORDER :], counts[0], counts[1], "exp"
    )
    return min(100.0, float(score.score))  # rounding gives 100.00000000000004


def bleu_tokenizer(language: str) -> str:
    """sacrebleu's tokenizer for a target language such as ``zho_Hans``, by its script.

    The one of FLORES-200 (spBLEU) downloads a model, and those for Japanese and Korean need
    dictionaries. So Chinese is cut by ``zh``, scripts without spaces and Korean into characters,
    and all else by ``13a``, which cuts at spaces and punctuation.
    """
    script = language.split("_")[1]
    if script in ("Hans", "Hant"):
        return "zh"
    return "char" if script in _UNSPACED else "13a"


def signatures(language: str) -> dict[str, str]:
    """sacrebleu's signatures of the two metrics for a target language: what a citation needs."""
    from sacrebleu.metrics.chrf import CHRF

    metrics = {"chrf": CHRF(), "bleu": _bleu(bleu_tokenizer(language))}
    for metric in metrics.values():
        metric.corpus_score(["a"], [["a"]])  # a signature names the number of references
    return {name: str(metric.get_signature()) for name, metric in metrics.items()}


@functools.cache
def _bleu(tokenizer: str) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize=tokenizer, force=True)
