"""The rows of a leaderboard, arranged for readers: one section for each protocol."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

from slm_benchmark.catalog.catalog import VARIANTS
from slm_benchmark.records.types import Leaderboard, LeaderboardRow, LeaderboardTask
from slm_benchmark.site import formats
from slm_benchmark.site.metrics import METRICS


class Row(LeaderboardRow):
    """A row of the leaderboard, with its `machine_of`."""

    machine: str


class Section(TypedDict):
    """The rows of one protocol, in the order of the page.

    ``categories`` are those that its overall score counts, ``questions`` says on how many its
    scores rest, and ``tasks`` are those that some row has.
    """

    id: str
    title: str
    ranked: bool
    categories: list[str]
    questions: str
    rows: list[Row]
    machines: list[str]
    tasks: list[LeaderboardTask]


def build_sections(
    leaderboard: Leaderboard, rows: Iterable[LeaderboardRow], *, by_group: bool
) -> list[Section]:
    """One section per protocol that has rows, ranked protocols first: rows never mix.

    Rows stand by name and variant; with ``by_group``, those of a ranked protocol by tied group,
    and within a group by falling overall score.
    """
    by_protocol: dict[str, list[Row]] = {key: [] for key in leaderboard["protocols"]}
    for row in rows:
        if row["protocol"] in by_protocol:
            by_protocol[row["protocol"]].append({**row, "machine": machine_of(row)})
    sections = []
    for key, members in by_protocol.items():
        if not members:
            continue
        protocol = leaderboard["protocols"][key]
        members.sort(key=lambda row: (row["model"], VARIANTS.index(row["variant"]), row["machine"]))
        if by_group and protocol["ranked"]:
            members.sort(key=_sort_key)
        shown = {task for row in members for task in row["scores"]}
        scores = [score for row in members for score in row["scores"].values()]
        sections.append(
            Section(
                id=key,
                title=protocol["title"],
                ranked=protocol["ranked"],
                categories=list(protocol["counted"]),
                questions=formats.questions(
                    [s["n"] for s in scores if s["state"] == "ok" and s["n"] is not None]
                ),
                rows=members,
                machines=sorted({row["machine"] for row in members}),
                tasks=[task for task in leaderboard["tasks"] if task["id"] in shown],
            )
        )
    return sorted(sections, key=lambda section: not section["ranked"])


def _sort_key(row: LeaderboardRow) -> tuple[bool, bool, int, float]:
    rank, overall = row["group"]["rank"], row["overall"]["value"]
    return not row["ranked"], rank is None, rank or 0, -(overall or 0.0)


def machine_of(row: LeaderboardRow) -> str:
    """The machine of a row's speed, short: the hardware id and the head of its fingerprint."""
    fingerprint = row["fingerprint"]
    return f"{row['hardware']} {fingerprint[:6]}" if fingerprint else row["hardware"]


def label_of(row: Row, section: Section) -> str:
    """What a row is called in its section: its variant, and its machine where there are several."""
    return (
        f"{row['variant']} on {row['machine']}" if len(section["machines"]) > 1 else row["variant"]
    )


def never_measured(rows: Iterable[LeaderboardRow]) -> dict[str, list[str]]:
    """Title of each performance metric that no row has → the distinct reasons."""
    rows = list(rows)
    missing: dict[str, list[str]] = {}
    for metric in METRICS:
        quantities = [q for row in rows if (q := row["performance"].get(metric.key))]
        if quantities and all(quantity["value"] is None for quantity in quantities):
            missing[metric.title] = sorted({quantity["reason"] or "" for quantity in quantities})
    return missing
