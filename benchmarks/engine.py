"""The engines against other ways of getting the same answers: ``python -m benchmarks.engine``.

Each line of the table is work that two contenders do in turn, in one process, with the same
threads, documents and tokens; their answers are compared before anything is timed twice. See
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import itertools
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.ours import Ours
from benchmarks.timing import Contender, Runs, in_turn, ratio
from benchmarks.work import GENERATED_TOKENS, WORKS, unique_tokens
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import atomic_write_json, read_json
from slm_benchmark.common.paths import ROOT
from slm_benchmark.engines.identity import Name
from slm_benchmark.engines.settings import Settings
from slm_benchmark.evaluation.runner import engine_environment
from slm_benchmark.records.hardware import describe
from slm_benchmark.records.provenance import now, versions

MODEL = ROOT / "resources" / "models" / "smollm2-135m-instruct"
DATASETS = ROOT / "resources" / "datasets"
SERVER_PYTHON = ROOT / "build" / "benchmark-server" / "bin" / "python"
RECORD = ROOT / "benchmarks" / "engine.json"
PAGE = ROOT / "docs" / "methods" / "engine.md"

MAX_LENGTH = 2048
"""Window of all contenders, in tokens: more than the longest prompt."""

TOLERANCES = {"llama.cpp": (0.25, True), "transformers": (1e-3, False)}
"""Most that a log-probability may differ between contenders, in nats, and whether that is per token
of its continuation: llama.cpp quantizes activations, which makes them follow the batch."""

Pair = tuple[list[int], list[int]]
"""Token ids of a context and of its continuation."""

BASELINES = {
    "full-forward": "one full forward per choice in llama.cpp",
    "limit": "llama.cpp's bare decode calls",
    "hf": "`lm_eval --model hf`",
    "gguf-server": "`lm_eval --model gguf` over a llama-cpp-python server",
    "one-sequence": "one sequence after the other",
}


@dataclass(frozen=True)
class Group:
    """Contenders that do the same work in turn.

    Attributes:
        work: Key of `WORKS`.
        engine: Which of our engines.
        documents: How many, unless the command says otherwise.
        targets: Keys of `BASELINES`, each with the ratio that is to be reached, if there is one.
    """

    work: str
    engine: Name
    documents: int
    targets: Mapping[str, float | None]


GROUPS = (
    Group("hellaswag-10shot", "llama.cpp", 6, {"full-forward": 8.0, "limit": 0.85}),
    Group("hellaswag-0shot", "llama.cpp", 24, {"full-forward": 1.8, "limit": 0.85}),
    Group("hellaswag-10shot", "transformers", 3, {"hf": 5.0}),
    Group("hellaswag-0shot", "transformers", 16, {"hf": 1.5}),
    Group("mmlu-like", "transformers", 24, {"hf": 3.0}),
    Group("hellaswag-0shot", "llama.cpp", 2, {"gguf-server": 10.0}),
    Group("gsm8k", "llama.cpp", 8, {"one-sequence": None}),
    Group("gsm8k", "llama.cpp", 1, {"one-sequence": None}),
    Group("gsm8k", "transformers", 8, {"one-sequence": None}),
    Group("gsm8k", "transformers", 1, {"one-sequence": None}),
)


@dataclass(frozen=True)
class Baseline:
    """A contender that ours is compared with.

    Attributes:
        contender: It.
        note: What a reader should know about how it was set up.
        expected: The answers it must give; None means ours.
    """

    contender: Contender
    note: str = ""
    expected: list[Any] | None = None


@dataclass
class Bench:
    """Models, data and what else all groups share.

    Attributes:
        base: Folder of the base model.
        q8: Its GGUF file in Q8_0, or the folder with it.
        datasets: Folder of the prepared datasets.
        server_python: Interpreter that has llama-cpp-python with its server.
        threads: CPU threads of every contender.
        repetitions: Timed runs of each contender.
        documents: Upper limit of the groups' own numbers.
    """

    base: Path
    q8: Path
    datasets: Path
    server_python: Path
    threads: int
    repetitions: int
    documents: int | None = None
    _requests: dict[tuple[str, int], list[Any]] = field(default_factory=dict)

    def run(self, group: Group, against: Sequence[str]) -> list[dict[str, Any]]:
        """Rows of the table for a group, of the named baselines only."""
        wanted = {name: target for name, target in group.targets.items() if name in against}
        documents = min(group.documents, self.documents or group.documents)
        label = f"{group.work}, {group.engine}, documents: {documents}"
        requests = self.requests(group.work, documents)
        settings = Settings(max_length=MAX_LENGTH, threads=self.threads, dtype="float32")
        weights = self.q8 if group.engine == "llama.cpp" else self.base
        ours = Ours(group.engine, weights, self.base, settings, requests)
        baselines: dict[str, Baseline] = {}
        try:
            pairs: list[Pair] = []
            if WORKS[group.work].kind == "loglikelihood":
                pairs = [ours.engine.lm.encode(*request.args) for request in requests]
            for name in wanted:
                say(f"{label}: setting up {name}")
                baselines[name] = self._baseline(name, ours, settings, requests, pairs)

            def agreement(name: str, runs: Mapping[str, Runs]) -> dict[str, Any] | None:
                expected = baselines[name].expected or runs["ours"].answers
                answers = runs[name].answers
                return compare(TOLERANCES[group.engine], expected, answers, requests, pairs)

            def after_round(done: int, runs: Mapping[str, Runs]) -> None:
                seconds = ", ".join(f"{name} {run.seconds[-1]:.2f} s" for name, run in runs.items())
                say(f"{label}: round {done} of {self.repetitions}: {seconds}")
                if done == 1:
                    for name in wanted:
                        agreement(name, runs)

            contenders = {name: baseline.contender for name, baseline in baselines.items()}
            runs = in_turn({"ours": ours, **contenders}, self.repetitions, after_round)
            profile = ours.profile()
        finally:
            for contender in (ours, *(baseline.contender for baseline in baselines.values())):
                contender.close()
        common = {
            "work": group.work,
            "engine": group.engine,
            "documents": documents,
            "requests": len(requests),
            "unique_tokens": unique_tokens([[*c, *t[:-1]] for c, t in pairs]) if pairs else None,
            "repeatable": runs["ours"].repeatable,
            "profile": profile,
            "seconds": runs["ours"].seconds,
            "tokens": runs["ours"].tokens,
        }
        return [
            {
                **common,
                "against": name,
                "target": target,
                "baseline_seconds": runs[name].seconds,
                "baseline_tokens": runs[name].tokens,
                "ratio": rate_ratio(runs["ours"], runs[name]),
                "agreement": agreement(name, runs),
                "note": baselines[name].note,
            }
            for name, target in wanted.items()
        ]

    def requests(self, work: str, documents: int) -> list[Any]:
        """The requests of a piece of work; built once."""
        key = (work, documents)
        if key not in self._requests:
            self._requests[key] = WORKS[work].build(self.datasets, documents)
        return self._requests[key]

    def _baseline(
        self,
        name: str,
        ours: Ours,
        settings: Settings,
        requests: Sequence[Any],
        pairs: Sequence[Pair],
    ) -> Baseline:
        if name == "hf" or (name == "one-sequence" and ours.name == "transformers"):
            from benchmarks.harness import HuggingFace

            harness = HuggingFace(self.base, settings, requests)
            if name == "one-sequence":
                return Baseline(harness, "`lm_eval --model hf`, batch size 1")
            return Baseline(harness, harness.use_best_batch_size(say))
        from benchmarks import llama
        from slm_benchmark.download.weights import weight_file

        file = self.q8 if self.q8.is_file() else weight_file(self.q8)
        lm = ours.engine.lm
        if name == "gguf-server":
            from benchmarks.harness import GgufServer, as_the_server_reads

            server = GgufServer(self.server_python, file, settings, requests)
            return Baseline(server, "reads other tokens; see below", as_the_server_reads(lm, pairs))
        if name == "full-forward":
            return Baseline(llama.FullForward(file, settings, pairs), "tokens encoded beforehand")
        if name == "limit":
            recording = llama.Recording()
            with recording.listening():
                ours.prepare()
                recording.begin_again()
                ours.run()
            note = f"{len(recording.batches)} decode calls"
            return Baseline(llama.Replay(file, settings, recording), note)
        prompts = [lm.tok_encode(request.args[0]) for request in requests]
        read = reader(lm.tokenizer, requests[0].args[1]["until"])
        alone = llama.OneSequence(file, settings, prompts, GENERATED_TOKENS, read)
        return Baseline(alone, "llama.cpp, a plain greedy loop")


def reader(tokenizer: Any, until: Sequence[str]) -> Callable[[list[int]], tuple[str, bool]]:
    """From new tokens to the answer's text, cut at the first stop string, and whether it ends."""

    def read(new: list[int]) -> tuple[str, bool]:
        text = tokenizer.decode(new)
        ends = [text.index(stop) for stop in (*until, tokenizer.eos_token) if stop in text]
        return (text[: min(ends)], True) if ends else (text, False)

    return read


def compare(
    tolerance: tuple[float, bool],
    expected: Sequence[Any],
    actual: Sequence[Any],
    requests: Sequence[Any],
    pairs: Sequence[Pair],
) -> dict[str, Any] | None:
    """How far answers agree; None where there are none to compare.

    Args:
        tolerance: Most that a log-probability may differ, in nats, and whether that is per token.
        expected: The answers of ours.
        found: The answers of the other contender.
        requests: What was asked.
        pairs: The same as token ids, where answers are log-probabilities.

    Raises:
        RuntimeError: when a log-probability differs by more than ``tolerance``.
    """
    if not actual:
        return None
    if not pairs:
        same = sum(a == b for a, b in zip(expected, actual, strict=True))
        return {"same_answers": same, "answers": len(actual)}
    in_all = [abs(a[0] - b[0]) for a, b in zip(expected, actual, strict=True)]
    per_token = [nats / len(target) for nats, (_, target) in zip(in_all, pairs, strict=True)]
    most, is_per_token = tolerance
    judged = per_token if is_per_token else in_all
    if not max(judged) <= most:  # refuses NaN too
        worst = judged.index(max(judged))
        raise RuntimeError(
            f"request {worst} differs by {judged[worst]:.4g} nats, more than {most}: expected "
            f"{expected[worst]}, found {actual[worst]}"
        )
    chosen = [decisions(answers, requests) for answers in (expected, actual)]
    return {
        "max_difference_nats": max(in_all),
        "max_difference_per_token_nats": max(per_token),
        "same_decisions": sum(a == b for a, b in zip(*chosen, strict=True)),
        "decisions": len(chosen[0]),
    }


def decisions(answers: Sequence[Any], requests: Sequence[Any]) -> list[int]:
    """The choice of highest probability of each document."""
    choices = []
    numbered = zip(answers, requests, strict=True)
    for _, group in itertools.groupby(numbered, key=lambda pair: pair[1].doc_id):
        scores = [answer[0] for answer, _ in group]
        choices.append(scores.index(max(scores)))
    return choices


def rate_ratio(ours: Runs, other: Runs) -> dict[str, float | None]:
    """How many times faster ours is: by time, or by tokens per second where texts were written."""
    mine, theirs = (runs.tokens.get("generated_tokens", 0) for runs in (ours, other))
    weight = mine / theirs if mine and theirs else 1.0
    return ratio([seconds * weight for seconds in other.seconds], ours.seconds)


def say(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--work", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--against", nargs="+", choices=BASELINES, default=list(BASELINES))
    parser.add_argument("--repetitions", type=int, default=5, metavar="N")
    parser.add_argument("--documents", type=int, metavar="N", help="at most, per work")
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    parser.add_argument("--base", type=Path, default=MODEL / "base", metavar="FOLDER")
    parser.add_argument("--q8", type=Path, default=MODEL / "gguf-q8_0", metavar="FILE")
    parser.add_argument("--datasets", type=Path, default=DATASETS, metavar="FOLDER")
    parser.add_argument("--server-python", type=Path, default=SERVER_PYTHON, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    parser.add_argument("--markdown", action="store_true", help="print the tables")
    parser.add_argument(
        "--write-docs",
        action="store_true",
        help=f"measure nothing: put the tables of --json (or {RECORD.name}) into {PAGE.name}",
    )
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the chosen groups.

    Raises:
        UserError: when a model, a dataset or the server is not there.
    """
    groups = [
        group
        for group in GROUPS
        if group.work in options.work and any(name in options.against for name in group.targets)
    ]
    needed = [(options.base, "--base"), (options.q8, "--q8"), (options.datasets, "--datasets")]
    if any("gguf-server" in group.targets for group in groups) and "gguf-server" in options.against:
        needed.append((options.server_python, "--server-python"))
    for path, option in needed:
        if not path.exists():
            fix = "run snakemake --profile demo, or name another place"
            if option == "--server-python":
                fix = "install it as benchmarks/README.md says, or choose --against without it"
            raise UserError("there is no such file or folder", file=path, field=option, fix=fix)
    bench = Bench(
        base=options.base.resolve(),
        q8=options.q8.resolve(),
        datasets=options.datasets.resolve(),
        server_python=options.server_python.absolute(),
        threads=options.threads,
        repetitions=options.repetitions,
        documents=options.documents,
    )
    with engine_environment(options.threads):
        rows = [row for group in groups for row in bench.run(group, options.against)]
    return {
        "command": options.command,
        "measured": now(),
        "threads": options.threads,
        "repetitions": options.repetitions,
        "machine": describe(),
        "versions": versions("llama-cpp-python", "lm-eval", "torch", "transformers"),
        "rows": rows,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, or write the page."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    options = parse(argv)
    options.command = shlex.join(["python", "-m", "benchmarks.engine", *argv])
    try:
        if options.write_docs:
            changed = report.write_page(PAGE, read_json(options.json or RECORD), BASELINES)
            print("updated" if changed else "already up to date")
            return 0
        results = measure(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        atomic_write_json(options.json, results)
    if options.markdown or not options.json:
        print(report.markdown(results, BASELINES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
