"""A machine is described the same way twice, and refused where it does not fit its id."""

from __future__ import annotations

import copy
import os
import platform
import re
from pathlib import Path
from typing import Any

import pytest

from slm_benchmark.catalog.types import Hardware, Requirements
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.paths import CONFIG, ROOT
from slm_benchmark.common.schemas import read_config, schema
from slm_benchmark.records import hardware

MACHINE: Any = {
    "machine": "x86_64",
    "cpu": {
        "model": "Example 9000",
        "vendor": "Example",
        "flags": ["avx2", "fma"],
        "logical_cores": 4,
        "physical_cores": 2,
        "cache_bytes": {"L1d": 32768, "L2": 1048576},
    },
    "memory_bytes": 8 * 2**30,
    "os": "Linux",
    "kernel": "6.1.0-13",
    "virtualisation": None,
    "governor": "performance",
    "gpus": [{"name": "Tesla T4", "memory_bytes": 16106127360, "driver": "550.1"}],
}


def entry_with(requires: Requirements) -> Hardware:
    """An entry of config/hardware.yaml with these requirements."""
    return {"title": "A box", "device": "cpu", "threads": 1, "requires": requires}


def machine(**changes: Any) -> Any:
    """`MACHINE` with changes; ``cpu_logical_cores=2`` reaches into the CPU."""
    made = copy.deepcopy(MACHINE)
    for key, value in changes.items():
        if key.startswith("cpu_"):
            made["cpu"][key.removeprefix("cpu_")] = value
        else:
            made[key] = value
    return made


def test_this_machine_is_described_the_same_way_twice() -> None:
    first, second = hardware.describe(), hardware.describe()
    assert first["cpu"]["logical_cores"] == os.cpu_count()
    assert first["memory_bytes"] > 2**28
    assert first["cpu"]["model"]
    assert hardware.fingerprint(first) == hardware.fingerprint(second)


@pytest.mark.parametrize(
    "change",
    [
        {"kernel": "6.1.0-14"},
        {"governor": "powersave"},
        {"memory_bytes": 8 * 2**30 - 300_000_000},
        {"gpus": [MACHINE["gpus"][0] | {"driver": "560.9"}]},
    ],
)
def test_updates_and_settings_keep_the_fingerprint(change: dict[str, Any]) -> None:
    assert hardware.fingerprint(machine(**change)) == hardware.fingerprint(MACHINE)


@pytest.mark.parametrize(
    "change",
    [
        {"cpu_model": "Example 9001"},
        {"cpu_flags": ["avx2", "avx512f", "fma"]},
        {"cpu_logical_cores": 8},
        {"memory_bytes": 16 * 2**30},
        {"virtualisation": "virtual machine"},
        {"gpus": []},
    ],
)
def test_another_machine_has_another_fingerprint(change: dict[str, Any]) -> None:
    assert hardware.fingerprint(machine(**change)) != hardware.fingerprint(MACHINE)


def limited(**less: int) -> dict[str, Any]:
    """What a limit leaves of `MACHINE`."""
    return {"usable": {"cpus": 4, "memory_bytes": 8 * 2**30, "limits": [], **less}}


MISMATCHES: list[tuple[str, Any, dict[str, Any], str]] = [
    ("machine", ["aarch64"], {}, "x86_64"),
    ("gpu_name", "H100", {}, "Tesla T4"),
    ("gpu_name", "T4", {"gpus": []}, "[]"),
    ("cpu_model", "Cortex", {}, "Example 9000"),
    ("min_cores", 5, {}, "4"),
    ("min_cores", 4, limited(cpus=2), "2 usable of 4"),
    ("max_cores", 3, {}, "4"),
    ("max_cores", 3, limited(cpus=2), "4"),
    ("min_memory_bytes", 9 * 2**30, {}, str(8 * 2**30)),
    (
        "min_memory_bytes",
        6 * 2**30,
        limited(memory_bytes=4 * 2**30),
        f"{4 * 2**30} usable of {8 * 2**30}",
    ),
    ("max_memory_bytes", 7 * 2**30, {}, str(8 * 2**30)),
    ("cpu_flags", ["avx2", "avx512f"], {}, "avx2"),
    ("min_driver", "550.54", {}, "550.1"),
    ("min_driver", "550.1", {"gpus": []}, "[]"),
    ("virtual", True, {}, "None"),
    ("virtual", False, {"virtualisation": "QEMU"}, "QEMU"),
    ("governor", "performance", {"governor": "ondemand"}, "ondemand"),
    ("governor", "performance", {"governor": None}, "None"),
]


@pytest.mark.parametrize(("key", "value", "change", "shown"), MISMATCHES)
def test_a_mismatch_names_file_field_value_and_fix(
    key: str, value: Any, change: dict[str, Any], shown: str
) -> None:
    required: Any = {key: value}
    with pytest.raises(UserError) as caught:
        hardware.check("box", entry_with(required), machine(**change))
    message = str(caught.value)
    assert message.startswith(f"config/hardware.yaml: box.requires.{key}: ")
    assert shown in message
    assert "--config hardware=local" in message


def test_every_requirement_of_the_schema_is_checked() -> None:
    known = schema("hardware")["additionalProperties"]["properties"]["requires"]["properties"]
    assert set(known) == {key for key, *_ in MISMATCHES} | {"environment"}


def test_a_machine_that_fits_passes() -> None:
    fitting: Requirements = {
        "machine": ["aarch64", "x86_64"],
        "gpu_name": "T4",
        "cpu_model": "9000",
        "min_cores": 4,
        "max_cores": 4,
        "min_memory_bytes": 8 * 2**30,
        "max_memory_bytes": 8 * 2**30,
        "cpu_flags": ["fma", "avx2"],
        "min_driver": "99.9",
        "virtual": False,
        "governor": "performance",
    }
    hardware.check("box", entry_with(fitting), MACHINE)


def test_an_environment_variable_can_be_required(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = entry_with({"environment": {"GITHUB_ACTIONS": "true"}})
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    hardware.check("ci", entry, MACHINE)
    monkeypatch.delenv("GITHUB_ACTIONS")
    with pytest.raises(UserError, match=r"ci\.requires\.environment\.GITHUB_ACTIONS: .*got None"):
        hardware.check("ci", entry, MACHINE)


def test_the_catalogue_has_the_promised_machines_and_local_fits_anything() -> None:
    entries = read_config(CONFIG / "hardware.yaml", "hardware")
    assert set(entries) == {"t4", "github-runner", "edge", "raspberry_pi_5", "local"}
    found: Any = hardware.identity("local", entries["local"])
    assert found["id"] == "local"
    assert found["fingerprint"] == hardware.fingerprint(found["description"])
    pi = machine(
        machine="aarch64",
        cpu_model="Cortex-A76 (Raspberry Pi 5 Model B Rev 1.0)",
        cpu_flags=["asimd", "asimddp", "asimdhp"],
    )
    hardware.check("raspberry_pi_5", entries["raspberry_pi_5"], pi)
    pi["cpu"]["model"] = "Cortex-A76 (Raspberry Pi 500 Rev 1.0)"
    with pytest.raises(UserError, match="this machine is not raspberry_pi_5"):
        hardware.check("raspberry_pi_5", entries["raspberry_pi_5"], pi)
    hardware.check("t4", entries["t4"], MACHINE)
    hardware.check("edge", entries["edge"], MACHINE)


def test_a_raspberry_pi_is_recognised_by_core_and_board(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/cpuinfo": (
            "processor\t: 0\nFeatures\t: fp asimd asimdhp crc32 asimddp\n"
            "CPU implementer\t: 0x41\nCPU part\t: 0xd0b\n"
        ),
        "/proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    }
    monkeypatch.setattr(hardware, "read_text", lambda path: files.get(str(path)))
    cpu = hardware.describe()["cpu"]
    assert cpu["model"] == "Cortex-A76 (Raspberry Pi 5 Model B Rev 1.0)"
    assert cpu["vendor"] == "ARM"
    assert cpu["flags"] == ["asimd", "asimddp", "asimdhp"]
    files["/proc/cpuinfo"] += "\nprocessor\t: 1\nCPU part\t: 0xd05\n"
    del files["/proc/device-tree/model"]
    assert hardware.describe()["cpu"]["model"] == "Cortex-A76 + Cortex-A55"


def test_an_arm_virtual_machine_is_found_by_systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its CPU has no flag that says so."""
    tool = tmp_path / "systemd-detect-virt"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(
        hardware,
        "read_text",
        {"/proc/cpuinfo": "Features : asimd", "/sys/class/dmi/id/sys_vendor": "QEMU"}.get,
    )
    for code, maker in ((0, "QEMU"), (1, None)):
        tool.write_text(f"#!/bin/sh\nexit {code}\n")
        tool.chmod(0o755)
        assert hardware.describe()["virtualisation"] == maker


def test_gpus_are_read_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'Tesla T4, 15360, 550.54.15'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert hardware.describe()["gpus"] == [
        {"name": "Tesla T4", "memory_bytes": 15360 * 2**20, "driver": "550.54.15"}
    ]
    tool.write_text("#!/bin/sh\necho 'No devices were found'\n")
    assert hardware.describe()["gpus"] == []
    tool.write_text("#!/bin/sh\necho 'no driver' >&2\nexit 9\n")
    assert hardware.describe()["gpus"] == []


def test_the_device_of_the_guide_is_a_valid_entry_and_refuses_as_the_guide_says(
    tmp_path: Path,
) -> None:
    guide = (ROOT / "docs/how-to/adding-hardware.md").read_text()
    (block,) = re.findall(r'```yaml title="config/hardware.yaml"\n(.*?)```', guide, re.DOTALL)
    (tmp_path / "hardware.yaml").write_text(block)
    ((name, entry),) = read_config(tmp_path / "hardware.yaml", "hardware").items()
    assert name not in read_config(CONFIG / "hardware.yaml", "hardware")
    assert (entry["threads"], entry["memory_limit_bytes"]) == (1, 2 * 2**30)
    hardware.check(name, entry, MACHINE)
    (documented,) = re.findall(rf"(?m)^config/hardware\.yaml: {name}\.requires.*$", guide)
    with pytest.raises(UserError) as caught:
        hardware.check(name, entry, machine(memory_bytes=2 * 2**30))
    assert str(caught.value) == documented
    found = hardware.describe()
    if found["memory_bytes"] >= entry["requires"]["min_memory_bytes"]:
        assert hardware.identity(name, entry)["id"] == name
