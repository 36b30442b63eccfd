"""The mean over a group of documents, as a row of a record's ``scores``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from slm_benchmark.records.types import Score
from slm_benchmark.statistics.estimates import Sample, estimate


def mean_score(
    metric: str,
    filter_name: str,
    part: str,
    values: Sequence[float | None],
    share: bool = True,
) -> Score:
    """A row that is not the headline.

    Args:
        metric: Name of the metric.
        filter_name: The harness's filter.
        part: Name of the group.
        values: The metric by document, at least one of them known; None where it is missing.
        share: As in `Sample`.
    """
    known = [value for value in values if value is not None]
    missing = len(values) - len(known)
    return cast(
        Score,
        {
            "metric": metric,
            "filter": filter_name,
            "part": part,
            **estimate(Sample(known, share=share)).row(),
            "n": len(known),
            **({"missing": missing} if missing else {}),
            "chance": None,
            "headline": False,
        },
    )
