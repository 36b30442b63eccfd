"""Peak memory: what is mapped, copied, freed or changed is counted as it should be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from slm_benchmark.profiling import memory as module
from slm_benchmark.profiling.memory import PeakMemory, release_mappings

MIB = 2**20
SIZE_MIB = 64
needs_linux = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux")

BEGIN = f"""
import json, mmap, sys
from pathlib import Path
from slm_benchmark.profiling.memory import PeakMemory, release_mappings
file, size = Path(sys.argv[1]), {SIZE_MIB} * 2**20
memory = PeakMemory()
stream = file.open("rb")
"""

END = """
print(json.dumps(memory.details()))
"""


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    file = tmp_path / "weights.bin"
    file.write_bytes(bytes(range(256)) * (SIZE_MIB * MIB // 256))
    return file


def run(program: str, file: Path) -> dict[str, Any]:
    """`PeakMemory.details` of a fresh process: here other tests free memory at any moment."""
    command = [sys.executable, "-c", BEGIN + program + END, str(file)]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    details: dict[str, Any] = json.loads(printed)
    return details


def mib(details: dict[str, Any], name: str) -> float:
    return float(details[name] / MIB)


def once(size_mib: float) -> bool:
    return SIZE_MIB - 4 <= size_mib <= SIZE_MIB + 12


@needs_linux
def test_a_mapped_file_that_was_copied_counts_once_in_use_and_twice_while_loading(
    weights: Path,
) -> None:
    found = run(
        """
mapped = mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ)
copy = bytearray(mapped)
assert release_mappings([file]) == size
memory.loaded()
copy[:: 2**12] = bytes(len(copy[:: 2**12]))
assert mapped[:300] == bytes(range(256)) + bytes(range(44))  # still there
""",
        weights,
    )
    assert once(mib(found, "peak_memory_bytes"))
    assert once(mib(found, "load_peak_memory_bytes") - SIZE_MIB)
    assert found["note"] is None


@needs_linux
def test_without_letting_go_the_copied_file_would_count_twice(weights: Path) -> None:
    found = run(
        """
mapped = mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ)
copy = bytearray(mapped)
memory.loaded()
""",
        weights,
    )
    assert once(mib(found, "peak_memory_bytes") - SIZE_MIB)


@needs_linux
def test_a_mapped_file_in_use_counts_once(weights: Path) -> None:
    found = run(
        """
before = memory.details()["resident_file_bytes"]
mapped = mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ)
total = sum(mapped[:: 2**12])
release_mappings([file])
memory.loaded()
assert memory.used_bytes() < size / 4
assert sum(mapped[:: 2**12]) == total
assert memory.details()["resident_file_bytes"] - before > size / 2
""",
        weights,
    )
    assert once(mib(found, "peak_memory_bytes"))
    assert once(mib(found, "load_peak_memory_bytes"))


@needs_linux
@pytest.mark.parametrize("in_use", [True, False])
def test_what_was_freed_again_is_seen_where_it_was_held(weights: Path, in_use: bool) -> None:
    hold = "block = bytearray(size); block[:: 2**12] = bytes(len(block[:: 2**12])); del block\n"
    steps = ["memory.loaded()\n", hold] if in_use else [hold, "memory.loaded()\n"]
    found = run("".join(steps), weights)
    assert once(mib(found, "load_peak_memory_bytes"))
    assert once(mib(found, "peak_memory_bytes")) == in_use
    assert in_use or mib(found, "peak_memory_bytes") < SIZE_MIB / 4
    assert mib(found, "resident_anonymous_bytes") > 0
    assert found["resident_shared_bytes"] is not None


@needs_linux
def test_memory_freed_before_the_baseline_hides_no_growth(weights: Path) -> None:
    found = run(
        """
blocks = [bytearray(64 * 2**10) for _ in range(size // 2**16)]  # too small to be mapped alone
wall = bytearray(64 * 2**10)
del blocks
memory = PeakMemory()
blocks = [bytearray(b"x" * 64 * 2**10) for _ in range(size // 2**16)]
""",
        weights,
    )
    assert once(mib(found, "peak_memory_bytes"))


@needs_linux
def test_a_private_mapping_that_was_changed_keeps_its_changes(weights: Path) -> None:
    run(
        """
changed = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
untouched = mmap.mmap(stream.fileno(), 2**20, access=mmap.ACCESS_COPY, offset=2**20)
changed[5000] = untouched[0] + 77
assert release_mappings([file]) == 2**20
assert changed[5000] == 77
assert release_mappings([file.with_name("another")]) == 0
""",
        weights,
    )


def test_where_the_mark_cannot_be_reset_the_details_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PROCESS", tmp_path / "absent")
    memory = PeakMemory()
    memory.loaded()
    found = memory.details()
    assert "cannot be reset" in (found["note"] or "")
    assert found["baseline_bytes"] > MIB
    assert found["peak_memory_bytes"] >= 0
    assert found["resident_anonymous_bytes"] is None
    assert found["proportional_bytes"] is None
    assert release_mappings([tmp_path]) == 0
