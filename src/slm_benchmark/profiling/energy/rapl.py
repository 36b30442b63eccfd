"""RAPL: the energy counters of CPU packages, of Intel and of AMD."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from slm_benchmark.profiling.energy.meter import CounterMeter, Domain

POWERCAP = Path("/sys/class/powercap")


def rapl() -> CounterMeter | str:
    """The sum of all CPU packages, or the reason why they cannot be read.

    Packages are the domains that call themselves ``package-N``; the kernel lists AMD's under
    ``intel-rapl`` too. The domains inside a package, ``psys`` and the second way to
    the same counters, ``intel-rapl-mmio``, would count the same energy twice.

    Source: the kernel's documentation of the power capping framework.
    """
    domains = []
    for folder in sorted(POWERCAP.glob("intel-rapl:*")):
        try:
            name = (folder / "name").read_text(encoding="ascii").strip()
            if not name.startswith("package"):
                continue
            read_uj = _counter(folder / "energy_uj")
            read_uj()
            range_uj = int((folder / "max_energy_range_uj").read_text(encoding="ascii"))
        except PermissionError:
            return f"{folder / 'energy_uj'} can be read by root only"
        except (OSError, ValueError) as error:
            return f"the counter in {folder} cannot be read: {error}"
        domains.append(Domain(name, read_uj, range_uj))
    if not domains:
        return f"{POWERCAP} has no CPU package"
    names = ", ".join(domain.name for domain in domains)
    return CounterMeter("measured", f"RAPL: CPU packages ({names})", domains)


def _counter(file: Path) -> Callable[[], int]:
    return lambda: int(file.read_text(encoding="ascii"))
