"""The instrument against other clocks on the same work: ``python -m benchmarks.agreement``.

GGUF files: the profiler's measured process and llama.cpp's own ``llama-bench``, each started anew,
in turn. Model folders: the profiler's repetition, a bare loop of forwards, and ``generate()``, on
one loaded model, in turn. See docs/methods/profiling.md.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from benchmarks import llama_bench, report
from benchmarks.llama_bench import Work
from slm_benchmark.catalog.key_tables import fill_between
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import atomic_write_json, digest, read_json
from slm_benchmark.common.paths import ROOT
from slm_benchmark.evaluation.runner import engine_environment
from slm_benchmark.profiling import launch
from slm_benchmark.profiling.job import Job, Point
from slm_benchmark.profiling.limits import apply_limits
from slm_benchmark.profiling.process import collecting_by_hand, overhead_us_per_token, repeat
from slm_benchmark.profiling.prompts import Prompt, make_prompt
from slm_benchmark.profiling.types import Measured
from slm_benchmark.records.hardware import describe
from slm_benchmark.records.provenance import now, versions
from slm_benchmark.statistics.bootstrap import bootstrap_interval

MODEL = ROOT / "resources" / "models" / "smollm2-135m-instruct"
GGUF = ("gguf-f16", "gguf-q8_0", "gguf-q4_k_m")
FOLDERS = ("base", "gptq-4bit")
RECORD = ROOT / "benchmarks" / "agreement.json"
PAGE = ROOT / "docs" / "methods" / "profiling.md"
START, END = "<!-- agreement:start -->", "<!-- agreement:end -->"

BOUND = 0.03
"""Most that the median ratio may be away from one."""

OURS = "ours"

Rates = Mapping[str, float]
"""Tokens per second by phase: ``prompt``, ``generation``, ``whole``."""


def alternate(
    contenders: Mapping[str, Callable[[], Rates]],
    rounds: int,
    after_round: Callable[[int, Mapping[str, Rates]], None],
) -> dict[str, list[Rates]]:
    """Let all contenders take turns, every second round in reverse: a drift hits all alike.

    Args:
        contenders: By name; each gives the rates of its turn.
        rounds: Turns of each.
        after_round: Told the number of rounds done and the last round's rates.
    """
    turns: dict[str, list[Rates]] = {name: [] for name in contenders}
    for done in range(1, rounds + 1):
        for name in list(contenders)[:: 1 if done % 2 else -1]:
            turns[name].append(contenders[name]())
        after_round(done, {name: rates[-1] for name, rates in turns.items()})
    return turns


def compare(ours: Sequence[float], theirs: Sequence[float], bound: float | None) -> dict[str, Any]:
    """How our rates relate to theirs.

    Args:
        ours: Tokens per second of each round.
        theirs: The same of the other contender.
        bound: Most that the median ratio may be away from one; None = for information.

    Returns:
        Both medians; ``ratio``, the median of the rounds' own ratios, in which a drift cancels out;
        ``ci95``, its bootstrap interval over rounds, None for one round; and whether it is within
        the bound.
    """
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    median = statistics.median(ratios)
    interval = bootstrap_interval(ratios, statistics.median)
    return {
        "ours_tokens_per_s": list(ours),
        "theirs_tokens_per_s": list(theirs),
        "ratio": median,
        "ci95": [interval.low, interval.high] if interval else None,
        "bound": bound,
        "passed": None if bound is None else abs(median - 1) <= bound,
    }


def measured_rates(work: Work, repetitions: Sequence[Mapping[str, Any]]) -> Rates:
    """Medians over the repetitions that the profiler made of ``work``."""
    prompt_s = [r["prefill_s"] for r in repetitions]
    generation_s = [sum(r["latencies_s"]) for r in repetitions]
    whole_s = [r["first_token_s"] + s for r, s in zip(repetitions, generation_s, strict=True)]
    return rates(work, prompt_s, generation_s, whole_s)


def rates(
    work: Work,
    prompt_s: Sequence[float] = (),
    generation_s: Sequence[float] = (),
    whole_s: Sequence[float] = (),
) -> Rates:
    """Tokens per second from the durations of one turn, where there are any."""
    phases = {
        "prompt": (work.prompt_tokens, prompt_s),
        "generation": (work.output_tokens, generation_s),
        "whole": (work.prompt_tokens + work.output_tokens, whole_s),
    }
    return {
        phase: tokens / statistics.median(seconds)
        for phase, (tokens, seconds) in phases.items()
        if seconds
    }


@dataclass(frozen=True)
class Bench:
    """What all comparisons share.

    Attributes:
        prompt: Of the profiler; its exact number of tokens is everyone's.
        work: What everyone does.
        base: Folder of the base model, whose tokenizer makes the prompt.
        rounds: Turns of each contender.
        repetitions: Repetitions in a process that a turn starts, after one to warm up. On one
            loaded model a turn is one repetition.
    """

    prompt: Prompt
    work: Work
    base: Path
    rounds: int
    repetitions: int

    @property
    def point(self) -> Point:
        """The work as the profiler is asked for it: the first token comes with the prompt."""
        return Point(self.work.prompt_tokens, self.work.output_tokens + 1)

    def job(self, variant: str, weights: Path) -> Job:
        """The profiler's job: so many repetitions after one to warm up, however long they take."""
        return Job(
            variant=variant,
            weights=str(weights),
            base=str(self.base),
            device="cpu",
            threads=self.work.threads,
            dtype="auto",
            trust_remote_code=False,
            points=(self.point,),
            repetitions=self.repetitions,
            min_duration_s=0.0,
            max_warmups=1,
            warmup_bound=0.0,
            memory_limit_bytes=None,
        )

    def gguf(self, path: Path, program: Path) -> Compared:
        """The profiler's measured process beside llama-bench, both on the same GGUF file.

        Each turn of each is a fresh process: one that had run for a while was some per cent slower.
        """
        job = self.job("gguf", path if path.is_dir() else path.parent)
        (file,) = job.weight_files()
        request: launch.Request = {"do": "measure", "job": asdict(job)}
        overheads_us = []

        def ours() -> Rates:
            done = launch.run(request, device=job.runs_on, threads=job.threads)
            result = cast(Measured, done)
            overheads_us.append(result["overhead_us_per_token"])
            (point,) = result["points"]
            return measured_rates(self.work, point["repetitions"])

        def theirs() -> Rates:
            prompt_s, generation_s = (
                llama_bench.run(program, file, self.work, phase, self.repetitions)
                for phase in ("prompt", "generation")
            )
            return rates(self.work, prompt_s, generation_s)

        turns = self._take_turns(file.stem, {OURS: ours, "llama-bench": theirs})
        return Compared(file.stem, "llama.cpp", turns, overheads_us)

    def model_folder(self, folder: Path) -> Compared:
        """The profiler's repetition beside a bare loop and ``generate()``, on one loaded model.

        Raises:
            RuntimeError: when the first two do not generate the same tokens.
        """
        from benchmarks import bare_loop
        from slm_benchmark.profiling.transformers import TransformersRunner

        ids, steps = self.prompt.ids, self.work.output_tokens
        runner = TransformersRunner(self.job(folder.name, folder))
        runner.load()
        runner.release_files()
        runner.prepare(self.point)
        model = runner.model  # the very same one, so that nothing but the loops differs
        answers: set[str] = set()

        def ours() -> Rates:
            made = repeat(runner, self.prompt, self.point, "")
            answers.add(made.tokens_sha256)
            return measured_rates(self.work, [asdict(made)])

        def bare() -> Rates:
            prompt_s, generation_s, tokens = bare_loop.bare(model, ids, steps)
            answers.add(digest([[token] for token in tokens]))
            return rates(self.work, [prompt_s], [generation_s])

        def generate() -> Rates:
            return rates(self.work, whole_s=[bare_loop.whole(model, ids, steps)])

        contenders = {OURS: ours, "bare loop": bare, "generate()": generate}
        with collecting_by_hand():
            for contender in contenders.values():  # warms up
                contender()
            turns = self._take_turns(folder.name, contenders)
        if len(answers) > 1:
            raise RuntimeError(f"{folder}: the bare loop generated other tokens")
        overheads_us = [overhead_us_per_token() for _ in range(5)]
        return Compared(folder.name, "Transformers", turns, overheads_us)

    def _take_turns(
        self, weights: str, contenders: Mapping[str, Callable[[], Rates]]
    ) -> dict[str, list[Rates]]:
        def after_round(done: int, last: Mapping[str, Rates]) -> None:
            shown = "; ".join(
                f"{name} {', '.join(f'{phase} {rate:.1f}' for phase, rate in rates.items())}"
                for name, rates in last.items()
            )
            say(f"{weights}: round {done} of {self.rounds}, tokens/s: {shown}")

        return alternate(contenders, self.rounds, after_round)


@dataclass(frozen=True)
class Compared:
    """All turns at one file or folder.

    Attributes:
        weights: Its name.
        engine: ``llama.cpp`` or ``Transformers``.
        turns: Rates of each contender, by name, in the order of the rounds.
        overheads_us: What the instrument takes for a token, in microseconds, measured repeatedly.
    """

    weights: str
    engine: str
    turns: Mapping[str, Sequence[Rates]]
    overheads_us: Sequence[float]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each contender beside ours and each phase that both timed."""
        rows = []
        for name, turns in self.turns.items():
            for phase in turns[0] if name != OURS else ():
                ours = [turn[phase] for turn in self.turns[OURS]]
                theirs = [turn[phase] for turn in turns]
                row = {"weights": self.weights, "engine": self.engine, "against": name}
                bound = BOUND if phase != "whole" else None
                rows.append({**row, "phase": phase, **compare(ours, theirs, bound)})
        return rows

    def overhead(self) -> dict[str, Any]:
        """What the instrument takes for a token, and as a share of the time between two tokens."""
        overhead_us = statistics.median(self.overheads_us)
        token_ms = 1000 / statistics.median(turn["generation"] for turn in self.turns[OURS])
        return {
            "weights": self.weights,
            "engine": self.engine,
            "overhead_us_per_token": overhead_us,
            "token_ms": token_ms,
            "share": overhead_us / 1000 / token_ms,
        }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the chosen comparisons.

    Raises:
        UserError: when a model is not there.
        RunEnvironmentError: when llama-bench cannot be built or run.
    """
    for path in (options.base, *options.files, *options.folders, options.llama_bench):
        if path and not path.exists():
            fix = "run snakemake --profile demo, or name another place"
            raise UserError("there is no such file or folder", file=path, fix=fix)
    compared = []
    os.environ.update(launch.environment("cpu", options.threads))
    with engine_environment(options.threads), pinned(options.threads):
        prompt = make_prompt(options.base, options.prompt_tokens)
        work = Work(len(prompt.ids), options.output_tokens, options.threads)
        bench = Bench(prompt, work, options.base, options.rounds, options.repetitions)
        if options.files:
            program = options.llama_bench or llama_bench.build(options.threads)
            compared += [bench.gguf(path, program) for path in options.files]
        compared += [bench.model_folder(path.resolve()) for path in options.folders]
    return {
        "command": options.command,
        "measured": now(),
        "threads": options.threads,
        "repetitions": options.rounds,
        "repetitions_per_process": options.repetitions,
        "prompt_tokens": work.prompt_tokens,
        "output_tokens": work.output_tokens,
        "machine": describe(),
        "versions": versions("llama-cpp-python", "torch", "transformers"),
        "rows": [row for each in compared for row in each.rows()],
        "overheads": [each.overhead() for each in compared],
    }


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Hold this process, and all that it starts, to the CPUs that a measured process takes."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    apply_limits(threads, None)
    try:
        yield
    finally:
        if before is not None:
            os.sched_setaffinity(0, before)


def markdown(results: Mapping[str, Any]) -> str:
    """The tables of a measurement that `measure` made."""
    prompt, output = results["prompt_tokens"], results["output_tokens"]
    shape = (
        f"A prompt of {prompt} tokens from an empty cache, then {output} tokens one at a time, "
        f"with the prompt in the cache. A rate is the median of {results['repetitions']} rounds; "
        f"with llama.cpp, a round is a fresh process of each and its median of "
        f"{results['repetitions_per_process']} repetitions. A ratio is the median of the rounds' "
        "own ratios, with a 95 % bootstrap interval over rounds."
    )
    lines = [
        (
            row["weights"],
            row["engine"],
            row["against"],
            row["phase"],
            *(f"{statistics.median(row[f'{who}_tokens_per_s']):.1f}" for who in ("ours", "theirs")),
            f"{row['ratio']:.3f}" + ("" if row["ci95"] is None else _spread(*row["ci95"])),
            {True: "PASS", False: "FAIL", None: "for information"}[row["passed"]],
        )
        for row in results["rows"]
    ]
    head = ("Weights", "Engine", "Against", "Phase", "Ours, tokens/s", "Theirs, tokens/s", "Ratio")
    overheads = [
        (
            each["weights"],
            each["engine"],
            f"{each['overhead_us_per_token']:.2f}",
            f"{each['token_ms']:.2f}",
            f"{100 * each['share']:.3f} %",
        )
        for each in results["overheads"]
    ]
    costs = ("Weights", "Engine", "Instrument, µs per token", "Token, ms", "Share")
    parts = [
        report.conditions(results),
        shape,
        report.table((*head, f"Within {100 * BOUND:g} %"), lines),
        "What the instrument itself takes for a token: its loop around an engine that does "
        "nothing, beside the time of a token.",
        report.table(costs, overheads),
    ]
    return "\n\n".join(parts)


def _spread(low: float, high: float) -> str:
    return f" ({low:.3f} to {high:.3f})"


def say(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agreement", description=__doc__)
    paths: dict[str, Any] = {"type": Path, "nargs": "*", "metavar": "FOLDER"}
    parser.add_argument("--files", default=[MODEL / n for n in GGUF], **paths, help="for llama.cpp")
    parser.add_argument(
        "--folders", default=[MODEL / n for n in FOLDERS], **paths, help="for Transformers"
    )
    parser.add_argument("--base", type=Path, default=MODEL / "base", metavar="FOLDER")
    parser.add_argument("--prompt-tokens", type=int, default=128, metavar="N")
    parser.add_argument("--output-tokens", type=int, default=64, metavar="N")
    parser.add_argument("--rounds", type=int, default=20, metavar="N")
    parser.add_argument(
        "--repetitions", type=int, default=5, metavar="N", help="in each process that is started"
    )
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    parser.add_argument("--llama-bench", type=Path, metavar="FILE", help="instead of building it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    parser.add_argument(
        "--write-docs",
        action="store_true",
        help=f"measure nothing: put the tables of --json (or {RECORD.name}) into {PAGE.name}",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, or write the page; 1 when something went wrong or does not agree."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    options = parse(argv)
    options.command = shlex.join(["python", "-m", "benchmarks.agreement", *argv])
    try:
        if options.write_docs:
            content = markdown(read_json(options.json or RECORD))
            changed = fill_between(PAGE, START, END, content)
            print("updated" if changed else "already up to date")
            return 0
        results = measure(options)
    except (UserError, launch.ProfileFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        atomic_write_json(options.json, results)
    print(markdown(results))
    return int(any(row["passed"] is False for row in results["rows"]))


if __name__ == "__main__":
    sys.exit(main())
