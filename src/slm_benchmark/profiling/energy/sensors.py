"""Sensors of power: a Raspberry Pi's PMIC, a discharging battery, the kernel's hwmon."""

from __future__ import annotations

import re
import subprocess
from functools import partial
from pathlib import Path

from slm_benchmark.profiling.energy.meter import PowerSource, SamplingMeter

POWER_SUPPLY = Path("/sys/class/power_supply")
HWMON = Path("/sys/class/hwmon")

PMIC_EVERY_S = 0.25
BATTERY_EVERY_S = 1.0
HWMON_EVERY_S = 1.0

HWMON_COVERS = {
    "power_meter": "whole machine, ACPI power meter",
    "fam15h_power": "CPU package",
    "ina2xx": "what the board's monitor is wired to",
    "ina219": "what the board's monitor is wired to",
    "ina226": "what the board's monitor is wired to",
}
"""Drivers that measure what a CPU's work costs, the widest first. Others are of GPUs or disks."""

_RAIL = re.compile(r"^\s*(\S+)_([AV])\s+(?:current|volt)\(\d+\)=(-?\d+\.?\d*)[AV]\s*$", re.M)


def pmic() -> SamplingMeter | str:
    """The rails that a Raspberry Pi 5's power management chip measures."""
    try:
        pmic_power_w()
    except OSError as error:
        return str(error)
    name = "Raspberry Pi PMIC: sum of the rails that have both a current and a voltage"
    return SamplingMeter(PowerSource(name, pmic_power_w, PMIC_EVERY_S))


def pmic_power_w() -> float:
    """Current × voltage, summed over the rails that ``vcgencmd pmic_read_adc`` has both of.

    The 5 V input and the battery of the clock have a voltage only.

    Raises:
        OSError: when there is no such command or no such chip.
    """
    try:
        done = subprocess.run(
            ["vcgencmd", "pmic_read_adc"], capture_output=True, text=True, check=True, timeout=5
        )
    except FileNotFoundError:
        raise OSError("no vcgencmd") from None
    except subprocess.SubprocessError as error:
        raise OSError(f"vcgencmd pmic_read_adc failed: {error}") from error
    rails: dict[str, dict[str, float]] = {}
    for rail, unit, value in _RAIL.findall(done.stdout):
        rails.setdefault(rail, {})[unit] = float(value)
    powers_w = [pair["A"] * pair["V"] for pair in rails.values() if len(pair) == 2]
    if not powers_w:
        raise OSError("vcgencmd pmic_read_adc gives no pair of current and voltage")
    return sum(powers_w)


def battery() -> SamplingMeter | str:
    """The whole device on its batteries."""
    try:
        battery_power_w()
    except (OSError, ValueError) as error:
        return str(error)
    name = "battery discharge: whole device, screen included"
    return SamplingMeter(PowerSource(name, battery_power_w, BATTERY_EVERY_S))


def battery_power_w() -> float:
    """What all batteries give together.

    Raises:
        OSError: when there is none, or when one charges, so that mains power goes uncounted.
        ValueError: when a file holds no number.
    """
    folders = sorted(POWER_SUPPLY.glob("BAT*"))
    if not folders:
        raise OSError("no battery")
    states = {(folder / "status").read_text(encoding="ascii").strip() for folder in folders}
    # Of two batteries one may rest, full or empty, while the other one discharges.
    if "Discharging" not in states or "Charging" in states:
        raise OSError(f"the battery does not discharge ({', '.join(sorted(states))})")
    return sum(_discharge_w(folder) for folder in folders)


def hwmon() -> SamplingMeter | str:
    """A power sensor of the CPU or of the whole board, as the kernel names it."""
    drivers: dict[str, list[Path]] = {}
    for folder in sorted(HWMON.glob("hwmon*")):
        for file in (folder / "power1_average", folder / "power1_input"):
            if file.exists() and (folder / "name").exists():
                name = (folder / "name").read_text(encoding="ascii").strip()
                drivers.setdefault(name, []).append(file)
                break
    for name, covers in HWMON_COVERS.items():
        if len(drivers.get(name, [])) > 1:
            return f"several power sensors {name}: cannot tell what each one covers"
        for file in drivers.get(name, []):
            try:
                _micro(file)
            except (OSError, ValueError) as error:
                return f"the power sensor {name} cannot be read: {error}"
            source = f"hwmon {name}: {covers}"
            return SamplingMeter(PowerSource(source, partial(_micro, file), HWMON_EVERY_S))
    return "no power sensor of the CPU or the board"


def _discharge_w(battery: Path) -> float:
    """Some drivers give a discharge a minus sign."""
    if (battery / "power_now").exists():
        return abs(_micro(battery / "power_now"))
    return abs(_micro(battery / "current_now")) * _micro(battery / "voltage_now")


def _micro(file: Path) -> float:
    """A file of the kernel's, from millionths of its unit."""
    return int(file.read_text(encoding="ascii")) / 1e6
