"""A parallel map: one function over many things, in as many processes as there are CPUs."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from slm_benchmark.common.errors import RunEnvironmentError, UserError
from slm_benchmark.common.machine import usable_cpus

Thing = TypeVar("Thing")
Result = TypeVar("Result")

BATCH = 256
"""Things that a process takes at once, where each of them takes about a millisecond."""

FEWEST_BATCHES = 8
"""With fewer batches, starting processes costs more than they save."""


def parallel_map(
    work: Callable[[Thing], Result], things: Sequence[Thing], batch: int | None = None
) -> Iterator[Result]:
    """``map(work, things)``, in several processes where there are many things.

    Results come in the order of the things. A UserError is raised where the results reach the thing
    that caused it, so it is the first one in order too, whatever the number of processes.

    The processes are forks, so ``work`` may be any function and refer to anything; what it changes
    there is lost, and what it returns is pickled. A process ends when its parent did.

    Each process has a pipe of its own, which ends with it. `concurrent.futures` has one for all:
    there, a process that is killed while it sends a result leaves its reader waiting for ever.

    Args:
        work: What to do with a thing.
        things: The things.
        batch: How many a process takes at once; None = `BATCH`.

    Raises:
        RunEnvironmentError: when a process was killed.
    """
    size = batch or BATCH
    starts = range(0, len(things), size)
    workers = min(usable_cpus(), len(starts))
    if len(starts) < FEWEST_BATCHES or workers < 2:
        yield from map(work, things)
        return
    context = multiprocessing.get_context("fork")
    taken = context.Value("l", 0)

    def serve(answers: Connection, readers: Sequence[Connection]) -> None:
        # A reader left open here would keep the others from noticing that the parent is gone.
        for inherited in readers:
            inherited.close()
        # The terminal's interrupt is for the parent, which ends this process.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # What a fork inherits is shared memory until it is written to, as a collection does.
        gc.disable()
        while True:
            with taken.get_lock():
                number = taken.value
                taken.value += 1
            if number >= len(starts):
                return
            outcome = _results(work, things[starts[number] : starts[number] + size])
            try:
                answers.send((number, *outcome))
            except BrokenPipeError:
                return

    readers: list[Connection] = []
    processes = []
    try:
        for _ in range(workers):
            reader, writer = context.Pipe(duplex=False)
            readers.append(reader)
            process = context.Process(target=serve, args=(writer, readers), daemon=True)
            process.start()
            processes.append(process)
            # Else the pipe would not end with the process.
            writer.close()
        for results, error in _in_order(readers, len(starts)):
            yield from results
            if error:
                raise error
    finally:
        for reader in readers:
            reader.close()
        for process in processes:
            process.terminate()
            process.join()


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """No garbage collections meanwhile: each would walk through all records that are kept.

    It is for work that makes many objects and hardly a cycle of them.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _results(
    work: Callable[[Thing], Result], things: Sequence[Thing]
) -> tuple[list[Result], UserError | None]:
    """The results up to the first error, and that error."""
    results = []
    try:
        for thing in things:
            results.append(work(thing))
    except UserError as error:
        return results, error
    return results, None


def _in_order(readers: Sequence[Connection], batches: int) -> Iterator[tuple[list[Any], Any]]:
    """The answers of all processes in the order of their batches."""
    waiting: dict[int, tuple[list[Any], Any]] = {}
    serving = list(readers)
    for number in range(batches):
        while number not in waiting:
            if not serving:
                raise RunEnvironmentError(
                    "a process that shared the work ended before it was done",
                    fix="free some memory and run the same command again",
                )
            for reader in wait(serving):
                assert isinstance(reader, Connection)
                try:
                    done, results, error = reader.recv()
                except (EOFError, OSError):  # the latter when it was killed while it sent
                    serving.remove(reader)
                else:
                    waiting[done] = (results, error)
        yield waiting.pop(number)
