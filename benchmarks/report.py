"""The results of `benchmarks.engine` as Markdown, and their place in docs/methods/engine.md."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.work import WORKS
from slm_benchmark.catalog.key_tables import fill_between

START, END = "<!-- engine:start -->", "<!-- engine:end -->"

PHASES = ("tokenizing", "planning", "forwarding", "log-softmax", "everything else")


def markdown(results: Mapping[str, Any], baselines: Mapping[str, str]) -> str:
    """The tables of a measurement.

    Args:
        results: What `benchmarks.engine` wrote.
        baselines: Name of each baseline → the same in words.
    """
    rows = results["rows"]
    scored = [row for row in rows if row["unique_tokens"] is not None]
    written = [row for row in rows if row["unique_tokens"] is None]
    parts = [conditions(results)]
    if scored:
        parts += ["### Scoring", _ratios(scored, baselines), _tokens(scored), _agreement(scored)]
    if written:
        parts += ["### Generation", _generation(written)]
    parts += ["### Where the time goes", _profiles(rows)]
    return "\n\n".join(parts)


def write_page(path: Path, results: Mapping[str, Any], baselines: Mapping[str, str]) -> bool:
    """Put the tables between the markers of the page at ``path``.

    Returns:
        Whether the page had to change.

    Raises:
        UserError: when the page lacks a marker.
    """
    return fill_between(path, START, END, markdown(results, baselines))


def conditions(results: Mapping[str, Any]) -> str:
    """When and where a measurement was made, and its command."""
    machine, named = results["machine"], results["versions"]
    cpu = machine["cpu"]
    software = ", ".join(f"{name} {version}" for name, version in named.items())
    return (
        f"Measured on {results['measured'][:10]}; threads: {results['threads']}; machine: "
        f"{cpu['model'] or machine['machine']} ({cpu['logical_cores']} logical cores, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB); {software}. Medians of "
        f"{results['repetitions']}, contenders in turn. The command:\n\n"
        f"```sh\n{results['command']}\n```"
    )


def _ratios(rows: Sequence[Mapping[str, Any]], baselines: Mapping[str, str]) -> str:
    return table(
        ("Work", "Engine", "Against", "Ours, s", "Theirs, s", "Ratio", "Wanted", "Notes"),
        [
            (
                _work(row),
                row["engine"],
                baselines[row["against"]],
                f"{statistics.median(row['seconds']):.2f}",
                f"{statistics.median(row['baseline_seconds']):.2f}",
                _ratio(row),
                "" if row["target"] is None else f"≥ {row['target']:g}",
                row["note"],
            )
            for row in rows
        ],
    )


def _tokens(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for row in rows:
        unique, tokens = row["unique_tokens"], row["tokens"]
        rounding = tokens["chunk_rounding_tokens"]
        forwarded = tokens["forwarded_tokens"]
        theirs = row["baseline_tokens"].get("forwarded_tokens")
        lines.append(
            (
                _work(row),
                row["engine"],
                row["against"],
                str(unique),
                str(forwarded),
                f"{(forwarded - rounding) / unique:.3f}",
                f"{rounding / unique:.3f}",
                "not known" if theirs is None else str(theirs),
            )
        )
    head = ("Work", "Engine", "Against", "Unique tokens", "Ours forwards", "Per unique token")
    return (
        "Tokens. A unique token is a node of the trie of all requests. Chunk rounding, what is "
        "forwarded again because a cached prefix is reused in whole chunks, is stated apart.\n\n"
        + table((*head, "and chunk rounding", "Theirs forwards"), lines)
    )


def _agreement(rows: Sequence[Mapping[str, Any]]) -> str:
    return (
        "Agreement of the answers: the largest difference of a log-probability, in all and per "
        "token of its continuation, and the documents for which the chosen answer is the "
        "same. The last column says whether all of our own runs gave identical numbers.\n\n"
        + table(
            ("Work", "Engine", "Against", "nats", "nats per token", "Decisions", "Repeatable"),
            [
                (
                    _work(row),
                    row["engine"],
                    row["against"],
                    f"{agreement['max_difference_nats']:.2g}",
                    f"{agreement['max_difference_per_token_nats']:.2g}",
                    f"{agreement['same_decisions']} of {agreement['decisions']}",
                    "yes" if row["repeatable"] else "no",
                )
                for row in rows
                if (agreement := row["agreement"]) is not None
            ],
        )
    )


def _generation(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for row in rows:
        rates = [
            tokens["generated_tokens"] / statistics.median(seconds)
            for tokens, seconds in (
                (row["tokens"], row["seconds"]),
                (row["baseline_tokens"], row["baseline_seconds"]),
            )
        ]
        same = row["agreement"]
        lines.append(
            (
                _work(row),
                row["engine"],
                row["note"],
                *(f"{rate:.1f}" for rate in rates),
                _ratio(row),
                f"{same['same_answers']} of {same['answers']}",
            )
        )
    head = ("Work", "Engine", "Against", "Ours, tokens/s", "Theirs, tokens/s", "Ratio")
    return (
        "Generated tokens per second, prompts included. With one document nothing is shared and "
        "nothing runs beside it: that line shows what rows of padding cost.\n\n"
        + table((*head, "Same answers"), lines)
    )


def _profiles(rows: Sequence[Mapping[str, Any]]) -> str:
    # Rows of one group hold the same profile.
    unique = {(_work(row), row["engine"]): row["profile"] for row in rows}
    return table(
        ("Work", "Engine", *(f"{phase[0].upper()}{phase[1:]}" for phase in PHASES)),
        [
            (work, engine, *(f"{100 * profile.get(phase, 0.0):.1f} %" for phase in PHASES))
            for (work, engine), profile in unique.items()
        ],
    )


def _work(row: Mapping[str, Any]) -> str:
    count = row["documents"]
    return f"{WORKS[row['work']].title} ({count} document{'s' if count > 1 else ''})"


def _ratio(row: Mapping[str, Any]) -> str:
    ratio = row["ratio"]
    spread = "" if ratio["low"] is None else f" ({ratio['low']:.2f} to {ratio['high']:.2f})"
    return f"{ratio['median']:.2f}{spread}"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
