"""What the columns of pages mean: tooltips of heads, and lists that lead to the glossary."""

from __future__ import annotations

from dataclasses import dataclass

GLOSSARY = "docs/reference/glossary.html"
"""Page of the glossary, from the root of the site."""


@dataclass(frozen=True)
class Term:
    """A term of the pages.

    Attributes:
        title: As the heads of columns say it.
        text: One or two sentences.
        columns: Keys of the columns that it explains; ``category`` stands for all categories.
        anchor: Of its entry in the glossary; None where the sentences say all.
    """

    title: str
    text: str
    columns: tuple[str, ...] = ()
    anchor: str | None = None


TERMS = (
    Term(
        "Hardware",
        "The id of the hardware and the first digits of the machine's fingerprint. Speed, memory "
        "and energy are comparable only where both are equal.",
        ("machine",),
    ),
    Term(
        "Tied group",
        "Rows whose overall scores are not significantly different from the best of the group share"
        " its rank. Ranks count every row, as in a competition: 1, 1, 1, 4.",
        ("group",),
        "tied-group",
    ),
    Term(
        "Normalized score",
        "(score − chance level) ÷ (best score − chance level): 0 is random guessing, 100 a perfect "
        "score. A category is the mean over its tasks, the overall score the mean over categories.",
        ("overall", "category"),
        "normalized-score",
    ),
    Term(
        "Effective bits per weight",
        "The size of the weight files in bits, divided by the number of weights.",
        ("effective_bits_per_weight",),
        "effective-bits-per-weight",
    ),
    Term(
        "Throughput",
        "Generated tokens per second after the first one, for one sequence at a time.",
        ("generation_throughput_tokens_per_s",),
    ),
    Term(
        "Prompt throughput",
        "Prompt tokens per second, also known as prefill throughput.",
        ("prompt_throughput_tokens_per_s",),
    ),
    Term(
        "TTFT",
        "Time to first token. Engine: from token ids to the first generated id. Client: from the "
        "prompt's text to the first generated text, with tokenization.",
        ("ttft_ms", "client_ttft_ms"),
        "ttft",
    ),
    Term(
        "Inter-token latency",
        "Time from one generated token to the next: the median, 90th and 99th percentile.",
        (
            "inter_token_latency_ms",
            "inter_token_latency_p90_ms",
            "inter_token_latency_p99_ms",
        ),
        "inter-token-latency",
    ),
    Term(
        "Peak memory",
        "Growth of the process's resident memory from before it loaded the model to its peak.",
        ("peak_memory_bytes",),
    ),
    Term(
        "MBU, MFU",
        "Model bandwidth and FLOP/s utilization: what generation and prompt processing reach of "
        "the memory bandwidth and the matrix FLOP/s that were measured in the same session.",
        ("mbu", "mfu"),
        "mbu",
    ),
    Term(
        "Energy",
        "Energy of generation per generated token, idle power included. The label says whether it "
        "was measured by a counter, sampled from power, or estimated by a model.",
        ("energy_mwh_per_token",),
    ),
)
"""In the order of the columns."""


def column_help(column: str) -> str:
    """The sentences on a column for its tooltip; empty where its head says all."""
    key = "category" if column.startswith("category:") else column
    return next((term.text for term in TERMS if key in term.columns), "")
