"""Energy counters of the CPU package (RAPL) and of an NVIDIA GPU (NVML).

What is read is gross: everything that the package or board used while the tokens were generated,
idle power and other work included. A machine without a counter gets a reason, never an estimate.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")

MWH_PER_JOULE = 1 / 3.6


@dataclass(frozen=True)
class Domain:
    """One counter of used energy.

    Attributes:
        name: What it covers, such as ``package-0``.
        read_uj: Gives the counter's value in µJ.
        range_uj: Value at which it starts again from 0; None = it never does.
    """

    name: str
    read_uj: Callable[[], int]
    range_uj: int | None


class EnergyCounter:
    """The sum of some domains.

    A domain that turns over once between two readings is corrected. RAPL turns over after minutes
    at full power, so readings must not lie further apart than that.
    """

    def __init__(self, source: str, domains: Sequence[Domain]) -> None:
        self.source = source
        self.domains = list(domains)

    def read(self) -> list[int]:
        """Each domain's value now, in µJ."""
        return [domain.read_uj() for domain in self.domains]

    def joules(self, before: Sequence[int], after: Sequence[int]) -> float:
        """Energy between two readings."""
        total_uj = 0
        for domain, start, end in zip(self.domains, before, after, strict=True):
            turned = domain.range_uj if end < start and domain.range_uj else 0
            total_uj += end - start + turned
        return total_uj / 1e6


def rapl(powercap: Path = POWERCAP) -> EnergyCounter | str:
    """The counters of all CPU packages, or the reason why there are none.

    Packages are the top-level domains ``intel-rapl:N`` (AMD has them under the same name); the
    domains inside a package and ``psys`` would count the same energy twice.
    """
    domains = []
    for folder in sorted(powercap.glob("intel-rapl:*")):
        if folder.name.count(":") != 1:
            continue
        try:
            name = (folder / "name").read_text(encoding="ascii").strip()
            if not name.startswith("package"):
                continue
            counter = _file_counter(folder / "energy_uj")
            counter()
            range_uj = int((folder / "max_energy_range_uj").read_text(encoding="ascii"))
        except PermissionError:
            return f"the counter {folder / 'energy_uj'} can be read by root only"
        except (OSError, ValueError) as error:
            return f"the counter in {folder} cannot be read: {error}"
        domains.append(Domain(name, counter, range_uj))
    if not domains:
        return f"no energy counter: {powercap} has no CPU package"
    return EnergyCounter("RAPL: " + ", ".join(domain.name for domain in domains), domains)


def nvml(gpu_uuid: str) -> EnergyCounter | str:
    """The counter of one GPU's board, or the reason why there is none.

    Args:
        gpu_uuid: Such as ``GPU-5a0c…``: an index would mean another GPU under
            CUDA_VISIBLE_DEVICES.
    """
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return "no energy counter: NVML is not installed"
    device = ctypes.c_void_p()
    value_mj = ctypes.c_ulonglong()

    def read_uj() -> int:
        code = library.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(value_mj))
        if code != 0:
            raise OSError(f"NVML answered with code {code}")
        return value_mj.value * 1000

    code = library.nvmlInit_v2() or library.nvmlDeviceGetHandleByUUID(
        gpu_uuid.encode(), ctypes.byref(device)
    )
    if code != 0:
        return f"no energy counter: NVML answered with code {code}"
    try:
        read_uj()
    except OSError as error:
        return f"no energy counter: this GPU has none ({error})"
    return EnergyCounter("NVML: GPU board", [Domain(gpu_uuid, read_uj, None)])


def find_counter(device: str) -> EnergyCounter | str:
    """The counter for what does the work: the GPU's board, or the CPU packages."""
    if device == "cuda":
        import torch

        return nvml(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
    return rapl()


def _file_counter(path: Path) -> Callable[[], int]:
    return lambda: int(path.read_text(encoding="ascii"))
