"""From documents to requests, from answers to samples: the harness's own steps, one at a time.

The harness asks and scores in one go. Here the two are apart, so that answers can be scored later
and on another machine; what each step does is the harness's.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from slm_benchmark.tasks.loader import TaskPart

Chosen = Mapping[str, Sequence[int]]
"""Part → indices of its chosen documents, ascending."""


def build_requests(
    parts: Sequence[TaskPart], chosen: Chosen, seed: int, chat_lm: Any = None
) -> None:
    """Let each part's task build the requests of its chosen documents, kept as ``task.instances``.

    Args:
        parts: The tasks.
        chosen: The documents of each part.
        seed: Of few-shot draws.
        chat_lm: The harness's language model whose chat template wraps the prompts; None = none.
    """
    # Some tasks draw while they build a prompt.
    random.seed(seed)
    for part in parts:
        part.task.set_fewshot_seed(seed=seed)
        part.task.build_all_requests(
            samples=list(chosen[part.name]),
            apply_chat_template=chat_lm is not None,
            chat_template=None if chat_lm is None else chat_lm.apply_chat_template,
            tokenizer_name="" if chat_lm is None else chat_lm.tokenizer_name,
        )


def ask(lm: Any, parts: Sequence[TaskPart]) -> None:
    """Put all requests to a language model; each keeps its responses."""
    instances = [instance for part in parts for instance in part.task.instances]
    for kind in dict.fromkeys(instance.request_type for instance in instances):
        repeated = [i for i in instances if i.request_type == kind for _ in range(i.repeats)]
        for instance, response in zip(repeated, getattr(lm, kind)(repeated), strict=True):
            instance.resps.append(response)


def documents(part: TaskPart, chosen: Chosen) -> Iterator[tuple[int, list[Any]]]:
    """Index of each chosen document in its split, and its requests in their order."""
    by_document = sorted(part.task.instances, key=lambda i: (i.doc_id, i.idx))
    for number, group in itertools.groupby(by_document, key=lambda i: i.doc_id):
        yield chosen[part.name][number], list(group)


def document_digest(doc: Mapping[str, Any]) -> str:
    """The harness's hash of a document."""
    from lm_eval.utils import handle_non_serializable, hash_string

    text = json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False)
    return str(hash_string(text))


class ScoredDocument(TypedDict):
    """A scored document: what the harness logs, and the part.

    A metric's value is a number, a list of numbers, or None where it is missing.
    """

    part: str
    doc_id: int
    doc: dict[str, Any]
    target: Any
    arguments: list[Any]
    resps: list[Any]
    filtered_resps: list[Any]
    filter: str
    doc_hash: str
    values: dict[str, Any]
    cluster: NotRequired[str]
    group: NotRequired[list[str]]


def score_documents(parts: Sequence[TaskPart], chosen: Chosen) -> list[ScoredDocument]:
    """Filter and score the answers of all documents.

    Returns:
        One sample for each part, filter and document, in that order.
    """
    samples: list[ScoredDocument] = []
    for part in parts:
        part.task.apply_filters()
        part_samples: list[ScoredDocument] = []
        for index, requests in documents(part, chosen):
            doc = requests[0].doc
            for filter_name in requests[0].filtered_resps:
                answers = [request.filtered_resps[filter_name] for request in requests]
                # Some tasks draw while they score: a document's score is to depend on it alone.
                random.seed(0)
                values = part.task.process_results(doc, answers)
                part_samples.append(
                    {
                        "part": part.name,
                        "doc_id": index,
                        "doc": doc,
                        "target": part.task.doc_to_target(doc),
                        "arguments": [request.args for request in requests],
                        "resps": [request.resps for request in requests],
                        "filtered_resps": answers,
                        "filter": filter_name,
                        "doc_hash": document_digest(doc),
                        "values": values,
                    }
                )
        samples += sorted(part_samples, key=lambda sample: (sample["filter"], sample["doc_id"]))
    return samples


def measure(
    lm: Any, parts: Sequence[TaskPart], chosen: Chosen, seed: int, chat: bool
) -> list[ScoredDocument]:
    """Build, ask and score: see `score_documents`."""
    build_requests(parts, chosen, seed, lm if chat else None)
    ask(lm, parts)
    return score_documents(parts, chosen)
