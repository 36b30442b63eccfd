"""Meters: what the measured process asks for energy, whatever stands behind it."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from slm_benchmark.profiling.energy.integrate import Sample, integrate

Label = Literal["measured", "sampled", "estimated"]

READ_EVERY_S = 5.0
"""Counters that turn over are read at least so often. The smallest RAPL range, 65 kJ, would need
13 kW to be passed in that time."""

INTERVALS_LOST = 5
"""A sampler may miss so many readings in a row before a span that holds them is lost."""


class Mark(NamedTuple):
    """A moment in a meter's own terms.

    Attributes:
        value: Joules so far of a counter; seconds of a sampler's clock.
        breaks: How often the counter had lost its index by then.
    """

    value: float
    breaks: int = 0


class Meter(ABC):
    """Gross energy of what ``source`` names, idle power and other work included.

    It works from its making until `close`, or until the process ends.

    Attributes:
        label: How the energy is found.
        source: What is read, and what that covers.
        faults: What went wrong so far, each thing once.
    """

    def __init__(self, label: Label, source: str) -> None:
        self.label: Label = label
        self.source = source
        self.faults: list[str] = []
        self._closed = threading.Event()

    @abstractmethod
    def mark(self) -> Mark:
        """This moment, to give to `joules`; never raises."""

    @abstractmethod
    def joules(self, start: Mark, end: Mark) -> float | None:
        """Energy between two moments; None where it was lost, and `faults` says why."""

    def span(self) -> Span:
        """A block of code whose energy is wanted: ``with meter.span() as span: …; span.joules``."""
        return Span(self)

    def close(self) -> None:
        """Stop reading in the background."""
        self._closed.set()

    def _in_background(self, read: Callable[[], object], interval_s: float) -> None:
        def run() -> None:
            while not self._closed.wait(interval_s):
                read()

        # A daemon, so that it never keeps a measured process alive.
        threading.Thread(target=run, name="energy", daemon=True).start()

    def _fault(self, text: str) -> None:
        if text not in self.faults:
            self.faults.append(text)


class Span:
    """The time between entering and leaving; costs one `Meter.mark` at each end."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def __enter__(self) -> Span:
        self._start = self._meter.mark()
        return self

    def __exit__(self, *_: object) -> None:
        self._end = self._meter.mark()

    @property
    def joules(self) -> float | None:
        """Energy of the span; None where it was lost. To be read after the block."""
        return self._meter.joules(self._start, self._end)


@dataclass(frozen=True)
class Domain:
    """One counter of used energy.

    Attributes:
        name: What it covers, such as ``package-0``.
        read_uj: Gives the counter's value in µJ; an OSError or ValueError says that it cannot.
        range_uj: Value at which it starts again from 0; None = it never does.
    """

    name: str
    read_uj: Callable[[], int]
    range_uj: int | None = None


class CounterMeter(Meter):
    """The sum of some counters.

    Counters that turn over are also read in the background, so that a span may be longer than one
    turn. A step back by more than half of the range is no turn but a counter that was reset, as
    after a suspend: the spans that hold it are lost.
    """

    def __init__(
        self,
        label: Label,
        source: str,
        domains: Sequence[Domain],
        interval_s: float = READ_EVERY_S,
    ) -> None:
        super().__init__(label, source)
        self._domains = list(domains)
        self._last_uj: list[int | None] = [domain.read_uj() for domain in self._domains]
        self._total_uj = 0
        self._breaks = 0
        self._lock = threading.Lock()
        if any(domain.range_uj for domain in self._domains):
            self._in_background(self._advance, interval_s)

    def mark(self) -> Mark:
        """Joules since the meter was made."""
        return self._advance()

    def joules(self, start: Mark, end: Mark) -> float | None:
        """The difference, unless a counter lost its position in between."""
        return end.value - start.value if start.breaks == end.breaks else None

    def _advance(self) -> Mark:
        with self._lock:
            for index, domain in enumerate(self._domains):
                self._total_uj += self._step_uj(index, domain)
            return Mark(self._total_uj / 1e6, self._breaks)

    def _step_uj(self, index: int, domain: Domain) -> int:
        """What the counter counted since it was read last; 0 and a break where that is unknown."""
        before = self._last_uj[index]
        try:
            now = domain.read_uj()
        except (OSError, ValueError) as error:
            self._last_uj[index] = None
            return self._break(f"the counter {domain.name} cannot be read: {error}")
        self._last_uj[index] = now
        if before is None:
            return self._break(f"the counter {domain.name} can be read again")
        step, range_uj = now - before, domain.range_uj
        if step < 0 and range_uj and (step := step + range_uj) > range_uj / 2:
            step = -1
        if step < 0:
            return self._break(f"the counter {domain.name} was reset")
        return step

    def _break(self, reason: str) -> int:
        self._breaks += 1
        self._fault(reason)
        return 0


@dataclass(frozen=True)
class PowerSource:
    """A sensor of power.

    Attributes:
        name: What is read, and what that covers.
        read_w: Gives the power now, in watts; an OSError or ValueError says that it cannot.
        interval_s: Time from one reading to the next.
    """

    name: str
    read_w: Callable[[], float]
    interval_s: float


class SamplingMeter(Meter):
    """Samples of power, taken in the background and integrated."""

    def __init__(self, source: PowerSource) -> None:
        super().__init__("sampled", f"{source.name}, every {source.interval_s:g} s")
        self._read_w = source.read_w
        self._max_gap_s = INTERVALS_LOST * source.interval_s
        self._samples: list[Sample] = []
        self._lock = threading.Lock()
        self._take()
        self._in_background(self._take, source.interval_s)

    def mark(self) -> Mark:
        """The clock; a span does not wait for the sensor."""
        return Mark(time.perf_counter())

    def joules(self, start: Mark, end: Mark) -> float | None:
        """The samples' integral. Takes one more sample where none was taken since ``end``."""
        if not self._samples or self._samples[-1].time_s < end.value:
            self._take()
        joules = integrate(self._samples, start.value, end.value, self._max_gap_s)
        if isinstance(joules, str):
            self._fault(joules)
            return None
        return joules

    def _take(self) -> None:
        with self._lock:  # samples stay in the order of their times
            try:
                power_w = self._read_w()
            except (OSError, ValueError) as error:
                self._fault(str(error))
                return
            self._samples.append(Sample(time.perf_counter(), power_w))
