"""The metric of code tasks, with the interface of `evaluate.load("code_eval")`, run confined.

The harness's code tasks load that metric when their module is imported, try it on one small
program, and keep it. Here it is one object for the whole process. It passes work on to the
`CodeEval` that is active where it is called, and runs no code where none is.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from math import prod
from typing import Any, cast

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import sha256_bytes
from slm_benchmark.sandbox import Outcome, State

Run = Callable[[str, str], Outcome]
"""Runs a candidate and its tests, confined: `sandbox.run_program` with its limits."""

_SELF_TEST = (["assert add(2, 3)==5"], [["def add(a,b): return a*b"]])
_ANSWER_OF_SELF_TEST: dict[str, float] = {"pass@1": 0.0}


@dataclass(frozen=True)
class Program:
    """What became of one program; holds no text of it.

    Attributes:
        sha256: Digest of the candidate, a line break, and its tests.
        state: As in `Outcome`.
        wall_s: Time on the clock.
    """

    sha256: str
    state: State
    wall_s: float


class CodeEval:
    """Runs candidates against their tests and keeps what became of each.

    Args:
        run: Runs one program, confined.
        workers: How many programs run at a time.

    Attributes:
        programs: One entry for each candidate so far, in the order in which they were given.
    """

    def __init__(self, run: Run, workers: int = 1) -> None:
        self._run, self._workers = run, workers
        self.programs: list[Program] = []

    def counts(self) -> dict[State, int]:
        """How many programs ended in each state that occurred."""
        return dict(Counter(program.state for program in self.programs))

    def compute(
        self, references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int]
    ) -> tuple[dict[str, float], dict[int, list[tuple[int, dict[str, Any]]]]]:
        """Pass rates of candidates, each of which is executed with the tests of its problem.

        Args:
            references: Tests, one source for each problem.
            predictions: Candidates, one list for each problem.
            k: The numbers of samples for which pass@k is wanted. As in the original metric, one
                that is larger than the samples of some problem is left out.

        Returns:
            pass@k by name, and by number of the problem the list of (number of the candidate, its
            result).
        """
        jobs = [
            (problem, number, candidate, tests)
            for problem, (candidates, tests) in enumerate(zip(predictions, references, strict=True))
            for number, candidate in enumerate(candidates)
        ]
        with ThreadPoolExecutor(self._workers) as pool:
            outcomes = list(pool.map(lambda job: self._run(job[2], job[3]), jobs))
        results: dict[int, list[tuple[int, dict[str, Any]]]] = {}
        for (problem, number, candidate, tests), outcome in zip(jobs, outcomes, strict=True):
            source = f"{candidate}\n{tests}".encode("utf-8", "surrogatepass")
            self.programs.append(Program(sha256_bytes(source), outcome.state, outcome.wall_s))
            result = {
                "task_id": problem,
                "passed": outcome.state == "passed",
                "result": outcome.state if outcome.detail is None else outcome.detail,
                "completion_id": number,
            }
            results.setdefault(problem, []).append((number, result))
        tally = [
            (len(runs), sum(result["passed"] for _, result in runs)) for runs in results.values()
        ]
        rates = {
            f"pass@{size}": sum(pass_at_k(n, c, size) for n, c in tally) / len(tally)
            for size in k
            if tally and all(n >= size for n, _ in tally)
        }
        return rates, results


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Chance that at least one of ``k`` samples is right, without bias.

    1 - C(n - c, k) / C(n, k), as in Chen et al. 2021, "Evaluating Large Language Models Trained on
    Code", equation 1.

    Args:
        samples: n, all samples of the problem, at least ``k``.
        correct: c, those that passed.
        k: How many are drawn.
    """
    if samples - correct < k:
        return 1.0
    return 1.0 - prod(1.0 - k / i for i in range(samples - correct + 1, samples + 1))


_active: ContextVar[CodeEval | None] = ContextVar("code_eval", default=None)


class _Metric:
    """What `evaluate.load("code_eval")` returns."""

    def compute(
        self,
        *,
        references: list[str],
        predictions: list[list[str]],
        k: Sequence[int] = (1, 10, 100),
        num_workers: int | None = None,
        timeout: float | None = None,
    ) -> tuple[dict[str, float], dict[int, list[tuple[int, dict[str, Any]]]]]:
        """`CodeEval.compute` of the active one; workers and times are the sandbox's to choose.

        Raises:
            UserError: when none is active.
        """
        if (references, predictions) == _SELF_TEST:
            return dict(_ANSWER_OF_SELF_TEST), {}
        active = _active.get()
        if active is None:
            raise UserError(
                "generated code is to be executed outside of the scoring step",
                fix="score the answers with the score step, which runs code in a sandbox",
            )
        return active.compute(references, predictions, k)


_METRIC = _Metric()


@contextlib.contextmanager
def code_eval_metric(runner: CodeEval | None) -> Iterator[CodeEval | None]:
    """While this lasts, the harness's code tasks get the confined metric, and no hub is asked.

    Args:
        runner: What executes the programs. None = nothing does: tasks can be loaded, to generate.
    """
    import evaluate

    original = evaluate.load

    def load(path: str, *arguments: Any, **options: Any) -> Any:
        return _METRIC if path == "code_eval" else original(path, *arguments, **options)

    token = _active.set(runner)
    cast(Any, evaluate).load = load
    try:
        yield runner
    finally:
        cast(Any, evaluate).load = original
        _active.reset(token)
