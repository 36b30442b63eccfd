"""The supervisor: watches one program in one sandbox until it has a verdict or is ended."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import Literal

from slm_benchmark.common.errors import RunEnvironmentError
from slm_benchmark.sandbox.backends import Backend
from slm_benchmark.sandbox.limits import Limits
from slm_benchmark.sandbox.processes import (
    Process,
    below,
    memory_bytes,
    process_table,
    proportional_memory_bytes,
    read_process_table,
)

State = Literal[
    "passed",
    "failed",
    "timeout",
    "memory",
    "output",
    "processes",
    "crashed",
    "forged",
    "inconclusive",
]
Verdict = tuple[State, str | None]

_LOOK_EVERY_S = 0.02
_START_S = 60.0
_END_S = 30.0
_LINE_BYTES = 2048
_BLOCK_BYTES = 1 << 16


@dataclass(frozen=True)
class Outcome:
    """What became of a program.

    Attributes:
        state: ``passed``: the tests ended normally. ``failed``: an exception ended the candidate or
            the tests. ``timeout``, ``memory``, ``output``, ``processes``: it went over that limit.
            ``crashed``: it ended without a verdict. ``forged``: it tampered with the verdict.
            ``inconclusive``: it passed tests that accept anything.
        detail: One short line; None when it passed.
        wall_s: Time on the clock, from the hand-over to the verdict.
        cpu_s: Processor time, start-up included, as it was last seen.
    """

    state: State
    detail: str | None
    wall_s: float
    cpu_s: float


def supervise(backend: Backend, candidate: str, tests: str, limits: Limits) -> Outcome:
    """Execute ``candidate``, then ``tests`` in the same namespace, in a new sandbox.

    When this returns, no process of the sandbox is left.

    Raises:
        RunEnvironmentError: when the sandbox could not be built; no code has run then.
    """
    launch = backend.launch(limits)
    with subprocess.Popen(
        launch.command,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=launch.environment,
        cwd="/",
        start_new_session=True,
    ) as process:
        watch = _Watch(process, limits)
        try:
            state, detail = watch.verdict(candidate, tests)
            wall_s = time.monotonic() - watch.begun
            watch.usage()
        finally:
            _end(process)
    return Outcome(state, detail, round(wall_s, 3), round(watch.cpu_s, 3))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the sandbox whole: process 1 of its namespace takes all others with it."""
    if process.poll() is None:
        first = [pid for pid, row in read_process_table().items() if row.parent == process.pid]
        for pid in first:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if first:
            # Its parent reaps process 1, which the kernel gives up once all others are gone.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
    process.kill()
    process.wait(_END_S)


class _Watch:
    """The exchange with one sandbox.

    Attributes:
        begun: When the candidate was handed over; before that, when the start began.
        cpu_s: Processor time of the sandbox, as it was last seen.
    """

    def __init__(self, process: subprocess.Popen[bytes], limits: Limits) -> None:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        self._process, self._limits = process, limits
        self._jobs, self._verdicts, self._output = process.stdin, process.stdout, process.stderr
        self.begun = time.monotonic()
        self.cpu_s = 0.0
        self._looked = self.begun
        self._to_send = b""
        self._line = b""
        self._printed_bytes = 0
        self._first_words = b""
        self._selector = selectors.DefaultSelector()

    def verdict(self, candidate: str, tests: str) -> Verdict:
        """Hand over the programs stage by stage, until one thing or another ends it."""
        token = secrets.token_hex(16)
        stages = [(b"ready", candidate), (b"candidate", tests), (b"tests", token)]
        with self._selector:
            for stream in (self._jobs, self._verdicts, self._output):
                os.set_blocking(stream.fileno(), False)
            self._selector.register(self._verdicts, selectors.EVENT_READ)
            self._selector.register(self._output, selectors.EVENT_READ)
            started = False
            while True:
                for key, _ in self._selector.select(_LOOK_EVERY_S):
                    if key.fileobj is self._jobs:
                        self._send()
                    elif key.fileobj is self._output:
                        self._listen()
                    elif not self._receive():
                        return self._without_verdict(started)
                while b"\n" in self._line:
                    line, _, self._line = self._line.partition(b"\n")
                    if not started:
                        self._started(line)
                        started = True
                    kind, _, rest = line.partition(b" ")
                    if kind in (b"failed", b"memory"):
                        detail = rest.decode(errors="replace")
                        return ("memory" if kind == b"memory" else "failed"), detail
                    if not stages and line == b"passed " + token.encode():
                        return "passed", None
                    if not stages or line != stages[0][0]:
                        return "forged", "wrote to the channel of the verdict"
                    self._hand_over(stages.pop(0)[1])
                if len(self._line) > _LINE_BYTES:
                    return "forged", "wrote to the channel of the verdict"
                if over := self._over(started):
                    return over

    def _started(self, line: bytes) -> None:
        if line != b"ready":
            raise _fault(line.removeprefix(b"unable "))
        self.begun = time.monotonic()
        self._printed_bytes = 0

    def _hand_over(self, program: str) -> None:
        data = program.encode("utf-8", "surrogatepass")
        self._to_send += len(data).to_bytes(8, "little") + data
        if self._jobs not in self._selector.get_map():
            self._selector.register(self._jobs, selectors.EVENT_WRITE)

    def _send(self) -> None:
        try:
            sent = os.write(self._jobs.fileno(), self._to_send[:_BLOCK_BYTES])
        except BlockingIOError:
            return
        except BrokenPipeError:  # it reads no more; its other channels tell why
            self._to_send = b""
        else:
            self._to_send = self._to_send[sent:]
        if not self._to_send:
            self._selector.unregister(self._jobs)

    def _listen(self) -> None:
        """Count what is printed, and keep none of it but the words before the start."""
        block = os.read(self._output.fileno(), _BLOCK_BYTES)
        self._printed_bytes += len(block)
        self._first_words = (self._first_words + block)[:_LINE_BYTES]
        if not block:
            self._selector.unregister(self._output)

    def _receive(self) -> bool:
        """Read from the channel of the verdict; False at its end."""
        block = os.read(self._verdicts.fileno(), _LINE_BYTES)
        self._line += block
        return bool(block)

    def _without_verdict(self, started: bool) -> Verdict:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)
        status = self._process.returncode
        if not started:
            # Its last words may still lie in the pipe.
            while (
                self._output in self._selector.get_map()
                and select.select([self._output], [], [], 0.2)[0]
            ):
                self._listen()
            raise _fault(self._first_words or f"exit status {status}".encode())
        if self._line:
            return "forged", "wrote to the channel of the verdict"
        suffix = "" if status is None else f" (exit status {status})"
        return "crashed", f"it ended without a verdict{suffix}"

    def usage(self) -> tuple[list[int], dict[int, Process]]:
        """The processes of the sandbox and the table that describes them; notes `cpu_s`."""
        table = process_table()
        pids = below(self._process.pid, table)
        self.cpu_s = max(self.cpu_s, sum(table[pid].cpu_s for pid in pids))
        return pids, table

    def _over(self, started: bool) -> Verdict | None:
        """The limit that the sandbox has gone over, if any."""
        limits, now = self._limits, time.monotonic()
        if not started:
            if now - self.begun > _START_S:
                raise _fault(f"it did not start within {_START_S:.0f} s".encode())
            return None
        if self._printed_bytes > limits.output_bytes:
            return "output", f"it printed more than {limits.output_bytes} bytes"
        if now - self.begun > limits.wall_s:
            return "timeout", f"it ran for more than {limits.wall_s:g} s"
        if now - self._looked < _LOOK_EVERY_S:
            return None
        self._looked = now
        pids, table = self.usage()
        if self.cpu_s > limits.cpu_s:
            return "timeout", f"it used more than {limits.cpu_s:g} s of processor time"
        # Process 1 of the sandbox is ours.
        if sum(table[pid].threads for pid in pids) - 1 > limits.processes:
            return "processes", f"it had more than {limits.processes} processes and threads"
        if (
            memory_bytes(pids, table) > limits.memory_bytes
            and proportional_memory_bytes(pids, table) > limits.memory_bytes
        ):
            return "memory", f"it used more than {limits.memory_bytes} bytes"
        return None


def _fault(reason: bytes) -> RunEnvironmentError:
    return RunEnvironmentError(
        f"the sandbox could not be built: {' '.join(reason.decode(errors='replace').split())}",
        fix="check what changed on this machine since it last confined a program, and run again",
    )
