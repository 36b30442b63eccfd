"""What this machine is, and whether it is the one that a hardware id promises."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import psutil

from slm_benchmark.catalog.types import Hardware, Requirements
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import digest
from slm_benchmark.common.machine import Usable, usable, visible_cpus, visible_memory_bytes
from slm_benchmark.records.types import HardwareBlock

FILE = "config/hardware.yaml"

_FLAGS = re.compile(
    r"avx|avx2|fma|f16c|avx_vnni|avx512\w*|amx\w*|neon|asimd\w*|fphp|i8mm|bf16|sve\w*"
)
"""CPU features that matrix kernels choose by, as the kernel spells them."""

_ARM_VENDORS = {"0x41": "ARM", "0x61": "Apple", "0xc0": "Ampere"}
_ARM_CORES = {
    "0xd03": "Cortex-A53",
    "0xd05": "Cortex-A55",
    "0xd08": "Cortex-A72",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd40": "Neoverse-V1",
    "0xd41": "Cortex-A78",
    "0xd49": "Neoverse-N2",
    "0xd4f": "Neoverse-V2",
}
"""``CPU part`` of /proc/cpuinfo; ARM cores carry no name there."""

_OTHER_MACHINE = "run with --config hardware=local, or add an entry for this machine"
_FIXES = {
    "governor": (
        "set it (echo GOVERNOR | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor), "
        "or run with --config hardware=local"
    ),
    "min_driver": "update the GPU's driver, or run with --config hardware=local",
}
"""What helps where a setting is wrong and not the machine."""


class Cpu(TypedDict):
    """A CPU; ``cache_bytes`` are those that its first core sees, by level."""

    model: str | None
    vendor: str | None
    flags: list[str]
    logical_cores: int | None
    physical_cores: int | None
    cache_bytes: dict[str, int]


class Gpu(TypedDict):
    """A GPU, as its driver names it."""

    name: str
    memory_bytes: int | None
    driver: str


class Description(TypedDict):
    """A machine. What the system does not report is null or empty.

    ``virtualisation`` is the maker of the virtual machine (null = bare metal), ``governor`` that of
    the CPU's frequency, and ``memory_bytes`` the installed memory. ``usable`` is the part that
    this process may use; records made before it was looked at lack it.
    """

    machine: str
    cpu: Cpu
    memory_bytes: int
    os: str
    kernel: str
    virtualisation: str | None
    governor: str | None
    gpus: list[Gpu]
    usable: NotRequired[Usable]


def describe() -> Description:
    """This machine: CPU, memory, operating system and GPUs."""
    cpuinfo = _cpuinfo()
    flags = (cpuinfo.get("flags") or cpuinfo.get("features", "")).split()
    return {
        "machine": platform.machine(),
        "cpu": {
            "model": _cpu_model(cpuinfo),
            "vendor": _cpu_vendor(cpuinfo),
            "flags": sorted(flag for flag in flags if _FLAGS.fullmatch(flag)),
            "logical_cores": visible_cpus(),
            "physical_cores": psutil.cpu_count(logical=False),
            "cache_bytes": _caches(),
        },
        "memory_bytes": visible_memory_bytes(),
        "os": platform.system(),
        "kernel": platform.release(),
        "virtualisation": _virtualisation(flags),
        "governor": _governor(),
        "gpus": _gpus(),
        "usable": usable(),
    }


def fingerprint(description: Description) -> str:
    """Digest of the part of a description that stays while the machine stays.

    Left out: kernel, driver and governor, which updates and settings change; they stay in the
    description, and an entry of config/hardware.yaml can require them. Memory is rounded to whole
    GiB, because the kernel's own share of it moves by some MiB from version to version. Where fewer
    CPUs may be used than there are, their number is part of it: such a machine has another speed.
    """
    return digest(
        {
            **_fewer_cpus(description),
            "machine": description["machine"],
            "cpu": description["cpu"],
            "memory_gib": round(description["memory_bytes"] / 2**30),
            "os": description["os"],
            "virtual": description["virtualisation"] is not None,
            "gpus": [
                {"name": gpu["name"], "memory_bytes": gpu["memory_bytes"]}
                for gpu in description["gpus"]
            ],
        }
    )


def _fewer_cpus(description: Description) -> dict[str, int]:
    """How many CPUs may be used, where that is not all of them."""
    cpus = description["usable"]["cpus"] if "usable" in description else None
    seen = description["cpu"]["logical_cores"]
    return {} if cpus is None or cpus == seen else {"usable_cpus": cpus}


def check(hardware_id: str, entry: Hardware, description: Description | None = None) -> None:
    """Make sure that this machine may write records under ``hardware_id``.

    Args:
        hardware_id: Id in config/hardware.yaml.
        entry: Its entry.
        description: What `describe` returned; None = look now.

    Raises:
        UserError: for the first requirement that the machine does not meet.
    """
    machine = describe() if description is None else description
    for key, required, value, fits in _requirements(entry["requires"], machine):
        if not fits:
            raise UserError(
                f"this machine is not {hardware_id}: it needs {required!r}",
                file=FILE,
                field=f"{hardware_id}.requires.{key}",
                value=value,
                fix=_FIXES.get(key, _OTHER_MACHINE),
            )


def identity(hardware_id: str, entry: Hardware) -> HardwareBlock:
    """The ``hardware`` block of a record.

    Raises:
        UserError: when this machine is not ``hardware_id``; see `check`.
    """
    description = describe()
    check(hardware_id, entry, description)
    return {
        "id": hardware_id,
        "fingerprint": fingerprint(description),
        "description": {**description},
    }


def _requirements(
    requires: Requirements, machine: Description
) -> list[tuple[str, object, object, bool]]:
    """(key, required value, this machine's value, whether it fits) for each stated requirement."""
    cores, memory = machine["cpu"]["logical_cores"] or 0, machine["memory_bytes"]
    # What a limit leaves is what a measurement gets; what there is says which machine it is.
    left: Usable = machine.get("usable") or {"cpus": cores, "memory_bytes": memory, "limits": []}
    model, flags = machine["cpu"]["model"], machine["cpu"]["flags"]
    gpus = [gpu["name"] for gpu in machine["gpus"]]
    drivers = [gpu["driver"] for gpu in machine["gpus"]]
    tests: dict[str, tuple[object, Callable[[Any], bool]]] = {
        "machine": (machine["machine"], lambda want: machine["machine"] in want),
        "gpu_name": (gpus, lambda want: any(want in name for name in gpus)),
        "min_driver": (
            drivers,
            lambda want: bool(drivers) and min(map(_version, drivers)) >= _version(want),
        ),
        "cpu_model": (model, lambda want: want in (model or "")),
        "cpu_flags": (flags, lambda want: set(want) <= set(flags)),
        "min_cores": (_of(left["cpus"], cores), lambda want: left["cpus"] >= want),
        "max_cores": (cores, lambda want: cores <= want),
        "min_memory_bytes": (
            _of(left["memory_bytes"], memory),
            lambda want: left["memory_bytes"] >= want,
        ),
        "max_memory_bytes": (memory, lambda want: memory <= want),
        "virtual": (
            machine["virtualisation"],
            lambda want: (machine["virtualisation"] is not None) == want,
        ),
        "governor": (machine["governor"], lambda want: machine["governor"] == want),
    }
    stated: Mapping[str, object] = requires
    checked = [
        (key, stated[key], value, fits(stated[key]))
        for key, (value, fits) in tests.items()
        if key in stated
    ]
    for name, want in requires.get("environment", {}).items():
        value = os.environ.get(name)
        checked.append((f"environment.{name}", want, value, value == want))
    return checked


def _of(left: int, visible: int) -> int | str:
    """What may be used, and what is there where that is more."""
    return left if left >= visible else f"{left} usable of {visible}"


def _version(text: str) -> list[int]:
    """Numbers of a version such as 550.54.15, which compare as versions do."""
    return [int(part) for part in re.findall(r"\d+", text)]


def _cpuinfo() -> dict[str, str]:
    """The first core's fields of /proc/cpuinfo, keys in lower case; empty outside Linux."""
    fields: dict[str, str] = {}
    for line in (read_text("/proc/cpuinfo") or "").splitlines():
        key, separator, value = line.partition(":")
        if separator:
            fields.setdefault(key.strip().lower(), value.strip())
    return fields


def _cpu_model(cpuinfo: Mapping[str, str]) -> str | None:
    if "cpu implementer" in cpuinfo:
        board = (read_text("/proc/device-tree/model") or "").strip("\0")
        cores = " + ".join(_arm_cores()) or "unknown core"
        return f"{cores} ({board})" if board else cores
    model = cpuinfo.get("model name") or _sysctl("machdep.cpu.brand_string")
    return model or platform.processor() or None


def _cpu_vendor(cpuinfo: Mapping[str, str]) -> str | None:
    if (vendor := cpuinfo.get("cpu implementer")) is not None:
        return _ARM_VENDORS.get(vendor, vendor)
    return cpuinfo.get("vendor_id")


def _arm_cores() -> list[str]:
    """The kinds of cores, in the order of their first CPU; boards with two kinds are common."""
    parts = re.findall(r"(?m)^CPU part\s*:\s*(\S+)", read_text("/proc/cpuinfo") or "")
    return [_ARM_CORES.get(part, part) for part in dict.fromkeys(parts)]


def _caches() -> dict[str, int]:
    """Bytes of the caches that core 0 sees, such as ``{"L1d": 32768, "L2": 1048576}``."""
    sizes = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (read_text(index / name) for name in ("level", "type", "size"))
        if level and kind and size and size.endswith("K"):
            suffix = {"Data": "d", "Instruction": "i"}.get(kind, "")
            sizes[f"L{level}{suffix}"] = int(size[:-1]) * 1024
    return sizes


def _virtualisation(flags: list[str]) -> str | None:
    """The virtual machine's maker where firmware names one; null on bare metal or if unknown."""
    if "hypervisor" not in flags and not (platform.machine() == "aarch64" and _is_guest()):
        return None
    return read_text("/sys/class/dmi/id/sys_vendor") or "virtual machine"


def _is_guest() -> bool:
    """Whether systemd takes this for a virtual machine; ARM CPUs have no flag that says so."""
    tool = shutil.which("systemd-detect-virt")
    return (
        tool is not None and subprocess.run([tool, "--vm", "--quiet"], check=False).returncode == 0
    )


def _governor() -> str | None:
    """The governor of all CPUs; several are joined by a comma."""
    files = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    return ", ".join(sorted({read_text(file) or "" for file in files} - {""})) or None


def _gpus() -> list[Gpu]:
    gpus: list[Gpu] = []
    for name, memory_mib, driver in (
        nvidia_smi("--query-gpu=name,memory.total,driver_version") or []
    ):
        memory_bytes = int(memory_mib) * 2**20 if memory_mib.isdigit() else None
        gpus.append({"name": name, "memory_bytes": memory_bytes, "driver": driver})
    return gpus


def nvidia_smi(query: str, *options: str) -> list[list[str]] | None:
    """The output of nvidia-smi for a query such as ``--query-gpu=name,memory.total``.

    Returns:
        Rows with a column for each field; lines that are messages are left out. None = it is not
        there, or cannot answer: no driver, or an unknown field.
    """
    if not shutil.which("nvidia-smi"):
        return None
    try:
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits", *options],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    rows = [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines()]
    return [row for row in rows if len(row) == query.count(",") + 1]


def read_text(path: str | Path) -> str | None:
    """The text of a small system file without blanks around it; None = not there, or empty."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def _sysctl(name: str) -> str | None:
    if platform.system() != "Darwin":
        return None
    done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
