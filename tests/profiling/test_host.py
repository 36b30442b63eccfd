"""The machine is looked at and watched, and declared limits hold: seen on real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from slm_benchmark.common.errors import RunEnvironmentError, UserError
from slm_benchmark.common.paths import ROOT
from slm_benchmark.profiling import host, limits
from tests.support.models import SPIN

BOUNDS: Any = {
    "other_work_cores": 0.2,
    "steal_share": 0.02,
    "pressure_share": 0.1,
    "min_frequency_share": 0.9,
    "swap_bytes": 1048576,
    "settle_s": 0.2,
    "wait_s": 0.3,
    "before": "refuse",
}

linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's interfaces are Linux's")


@pytest.fixture
def cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of /sys/devices/system/cpu."""
    monkeypatch.setattr(host, "CPUS", tmp_path)
    monkeypatch.setattr(limits, "CPUS", tmp_path)
    return tmp_path


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that comes first in PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder


def put(path: Path, text: str | int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def found(**changes: Any) -> Any:
    """What a watch of a quiet machine finds, with changes."""
    quiet = {
        "other_work_cores": 0.01,
        "own_work_cores": 2.0,
        "busiest": [],
        "steal_share": 0.0,
        "pressure_share": 0.0,
        "frequency_mhz": 2400.0,
        "frequency_limit_mhz": 2400.0,
        "rated_frequency_mhz": 2400.0,
        "throttle_events": 0,
        "board_throttled": [0, 0],
        "gpu_slowed_share": 0.0,
        "gpu_processes": [],
        "swapped_bytes": 0,
    }
    assert set(changes) <= set(quiet)
    return quiet | changes


# --- other work -----------------------------------------------------------------------------


def test_artificial_load_is_flagged_with_its_reason(stranger: int) -> None:
    seen = host.look(1.5, BOUNDS)
    (reason,) = [text for text in seen["warnings"] if text.startswith("other work used")]
    assert seen["other_work_cores"] > 0.2
    assert f"{seen['other_work_cores']:.1f} cores (bound 0.2); busiest: " in reason
    name = psutil.Process(stranger).name()
    assert any(p["pid"] == stranger and p["name"] == name for p in seen["busiest"])
    assert f"{name} (pid {stranger})" in reason
    assert "secret-argument" not in json.dumps(seen)


def test_own_children_are_not_other_work() -> None:
    def other_share(seen: Any, pid: int) -> bool:
        return any(process["pid"] == pid for process in seen["busiest"])

    child = subprocess.Popen([sys.executable, "-c", SPIN])
    try:
        while_running = host.look(1.0, BOUNDS)
        watch = host.HostWatch(BOUNDS)
        time.sleep(1.0)
    finally:
        child.kill()
        child.wait()
    after_its_end = watch.finish()
    for seen in (while_running, after_its_end):
        assert seen["own_work_cores"] > 0.1
        assert not other_share(seen, child.pid)
        # Had the child been counted as other work too, the two would exceed what there is.
        assert seen["own_work_cores"] + seen["other_work_cores"] <= (os.cpu_count() or 1) * 1.1


@pytest.mark.parametrize("before", ["refuse", "flag"])
def test_a_session_on_a_busy_machine_is_refused_or_flagged(before: str, stranger: int) -> None:
    bounds = BOUNDS | {"before": before}
    if before == "flag":
        seen = host.before_session(bounds)
        assert seen["waited_s"] >= bounds["wait_s"]
        assert any("other work used" in text for text in seen["warnings"])
        return
    with pytest.raises(RunEnvironmentError) as caught:
        host.before_session(bounds)
    message = str(caught.value)
    assert "\n" not in message
    assert "other work used" in message
    assert "(bound 0.2)" in message
    assert "Fix: end the other work and run the same command again" in message


def test_a_machine_that_becomes_quiet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([{"warnings": ["busy"]}, {"warnings": ["busy"]}, {"warnings": []}])
    monkeypatch.setattr(host, "look", lambda *_, **__: next(answers))
    assert host.before_session(BOUNDS | {"wait_s": 60})["warnings"] == []
    assert next(answers, None) is None


def test_the_load_average_alone_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It falls slowly: the end of the own last job would look like other work."""
    generous = BOUNDS | {"other_work_cores": 1e3, "steal_share": 1.0, "pressure_share": 1.0}
    monkeypatch.setattr(psutil, "getloadavg", lambda: (97.0, 97.0, 97.0))
    seen = host.before_session(generous)
    assert seen["load_average_before"] == [97.0, 97.0, 97.0]
    assert seen["warnings"] == []


# --- every reason ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"other_work_cores": 1.0, "busiest": [{"name": "python", "pid": 7, "cores": 1.0}]},
            "other work used 1.0 cores (bound 0.2); busiest: python (pid 7)",
        ),
        ({"steal_share": 0.05}, "the hypervisor withheld 5.0% of the CPU time (bound 2.0%)"),
        (
            {"pressure_share": 0.25},
            "tasks waited for a CPU during 25.0% of the time (bound 10.0%)",
        ),
        ({"frequency_limit_mhz": 1500.0}, "the CPU is held to 62% of its 2400 MHz (bound 90%)"),
        ({"frequency_mhz": 1500.0}, "the CPU ran at 62% of its 2400 MHz (bound 90%)"),
        ({"throttle_events": 3}, "the CPU was throttled for heat 3 times"),
        ({"board_throttled": [0, 0x80008]}, "the board reports that it is at its soft"),
        ({"board_throttled": [0, 0x40000]}, "the board reports that it is throttled"),
        ({"board_throttled": [0x1, 0]}, "the board reports that its supply voltage is too low"),
        ({"board_throttled": [0x10000, 0x10000]}, "the board reports since its boot that its"),
        ({"gpu_slowed_share": 0.5}, "the GPU was slowed down for 50.0% of the time"),
        ({"gpu_processes": ["python (pid 9)"]}, "other processes use the GPU: python (pid 9)"),
        ({"swapped_bytes": 2**30}, "1073741824 bytes were swapped (bound 1048576)"),
    ],
)
def test_each_disturbance_has_a_sentence(change: Any, reason: str) -> None:
    assert list(host._warnings(found(), BOUNDS)) == []
    (said,) = host._warnings(found(**change), BOUNDS)
    assert said.startswith(reason)


def test_an_idle_cpu_may_clock_down() -> None:
    assert list(host._warnings(found(frequency_mhz=600.0, own_work_cores=0.1), BOUNDS)) == []


def test_what_the_system_does_not_tell_is_null_with_a_reason(
    cpus: Path, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "PROC", cpus / "none")
    monkeypatch.setattr(host, "_steal_s", lambda: None)
    monkeypatch.setattr(host, "throttled_s", lambda: None)
    monkeypatch.setenv("PATH", str(tools))
    seen = host.look(0.05, BOUNDS, gpu=True)
    null = {name for name, value in seen.items() if value is None}
    assert null == set(host._MISSING) == set(seen["missing"])
    assert all(seen["missing"].values())
    assert not any(name.startswith("gpu") for name in host.look(0.05, BOUNDS)["missing"])
    json.dumps(seen, allow_nan=False)


# --- the sources ----------------------------------------------------------------------------


def test_frequency_is_of_the_fastest_cpu_against_what_lasts(cpus: Path) -> None:
    for cpu, khz in enumerate((800000, 2900000)):
        put(cpus / f"cpu{cpu}/cpufreq/scaling_cur_freq", khz)
        put(cpus / f"cpu{cpu}/cpufreq/scaling_max_freq", 4200000)
        put(cpus / f"cpu{cpu}/cpufreq/cpuinfo_max_freq", 5000000)
    seen = host.look(0.05, BOUNDS)
    assert (seen["frequency_mhz"], seen["frequency_limit_mhz"]) == (2900.0, 4200.0)
    assert seen["rated_frequency_mhz"] == 5000.0
    assert "the CPU is held to 84% of its 5000 MHz (bound 90%)" in seen["warnings"]
    # Boost is not promised where the maker names a lower base frequency.
    put(cpus / "cpu0/acpi_cppc/nominal_freq", 3700)
    assert host.look(0.05, BOUNDS)["rated_frequency_mhz"] == 3700.0
    put(cpus / "cpu0/cpufreq/base_frequency", 3000000)
    assert host.look(0.05, BOUNDS)["rated_frequency_mhz"] == 3000.0


def test_throttling_swap_and_pressure_are_counted_from_the_beginning_of_the_watch(
    cpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "PROC", cpus)
    counters = [cpus / f"cpu{cpu}/thermal_throttle/package_throttle_count" for cpu in (0, 1)]
    for counter in counters:
        put(counter, 40)
    put(cpus / "vmstat", "pswpin 100\npswpout 5")
    put(cpus / "pressure/cpu", "some avg10=0.00 avg60=0.00 avg300=0.00 total=5000000\nfull x")
    watch = host.HostWatch(BOUNDS)
    time.sleep(0.2)
    for counter in counters:
        put(counter, 42)
    put(cpus / "vmstat", "pswpin 101\npswpout 5")
    put(cpus / "pressure/cpu", "some avg10=0.00 avg60=0.00 avg300=0.00 total=5100000\nfull x")
    seen = watch.finish()
    assert seen["throttle_events"] == 2
    assert seen["swapped_bytes"] == os.sysconf("SC_PAGE_SIZE")
    assert seen["pressure_share"] == pytest.approx(0.1 / seen["duration_s"], rel=0.05)


def test_the_pi_tells_throttling_through_vcgencmd(tools: Path) -> None:
    program(tools / "vcgencmd", '[ "$1" = get_throttled ] && echo throttled=0x50005')
    seen = host.look(0.05, BOUNDS)
    assert seen["board_throttled"] == [0x50005, 0x50005]
    assert "the board reports that its supply voltage is too low" in seen["warnings"]
    assert "the board reports that it is throttled" in seen["warnings"]


def test_the_gpu_is_watched_through_nvidia_smi(tools: Path) -> None:
    program(
        tools / "nvidia-smi",
        'case "$1" in\n'
        '*compute-apps*) echo "4242, /opt/app/bin/train --token secret" ;;\n'
        "*clocks_event*) exit 2 ;;\n"  # what a driver before 535 answers
        "*clocks_throttle*) for reason in 0x0 0x4 0x20 0x1; do echo $reason; done\n"
        '  case "$*" in *--loop=*) exec sleep 60 ;; esac ;;\n'
        "esac",
    )
    seen = host.look(0.5, BOUNDS, gpu=True)
    assert (seen["gpu_slowed_share"], seen["gpu_power_capped_share"]) == (0.25, 0.25)
    assert seen["gpu_processes"] == ["train (pid 4242)"]
    assert "the GPU was slowed down for 25.0% of the time" in seen["warnings"]
    assert "other processes use the GPU: train (pid 4242)" in seen["warnings"]
    assert host.look(0.05, BOUNDS)["gpu_processes"] == []


# --- limits ---------------------------------------------------------------------------------

MIB = 2**20

LIMITED = """
import json, mmap, sys
from slm_benchmark.profiling.limits import apply_limits
threads, limit, wanted = (json.loads(text) for text in sys.argv[1:])
print(json.dumps(apply_limits(threads, limit)), flush=True)
held = bytearray(wanted)
for at in range(0, wanted, 4096):
    held[at] = 1
print("held", flush=True)
"""


def limited(
    group: limits.MemoryGroup | None, limit: int | None, wanted: int, threads: int = 1
) -> tuple[Any, bool, int]:
    """(what `apply_limits` gave, whether ``wanted`` bytes could be held, exit code) of a child."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *(json.dumps(v) for v in (threads, limit, wanted))],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")} | (group.environment if group else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    return json.loads(lines[0]), lines[1:] == ["held"], done.returncode


@linux
@pytest.mark.parametrize("kind", ["group", "rlimit"])
def test_memory_over_the_cap_is_refused_and_under_it_is_given(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "rlimit":
        monkeypatch.setattr(limits, "_parents", lambda: iter([]))
    cap = 200 * MIB
    with limits.memory_group(cap) as group:
        if kind == "group" and group is None:
            pytest.skip("no control group can be made here")
        assert (group is None) == (kind == "rlimit")
        block, held, code = limited(group, cap, 80 * MIB)
        assert (held, code, limits.exceeded(group)) == (True, 0, False)
        assert block["memory"]["limit_bytes"] == cap
        if group is not None:
            assert block["memory"]["enforced_by"] == f"cgroup v{group.version}"
        else:
            assert block["memory"]["enforced_by"] == "RLIMIT_DATA"
            assert "no control group could be made" in block["memory"]["reason"]
        _, held, code = limited(group, cap, 400 * MIB)
        assert not held
        assert (code, limits.exceeded(group)) == ((-signal.SIGKILL, True) if group else (1, False))


@linux
def test_another_kill_is_not_taken_for_the_cap() -> None:
    with limits.memory_group(200 * MIB) as group:
        if group is None:
            pytest.skip("no control group can be made here")
        child = subprocess.Popen(
            [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"],
            env=os.environ | group.environment,
        )
        assert child.wait() == -signal.SIGKILL
        assert not limits.exceeded(group)


@linux
def test_a_group_is_removed_and_so_is_what_a_killed_run_left() -> None:
    with limits.memory_group(200 * MIB) as group:
        if group is None:
            pytest.skip("no control group can be made here")
        assert group.folder.is_dir()
        ended = subprocess.Popen(["true"])
        ended.wait()
        left = group.folder.with_name(f"slm-benchmark-{ended.pid}")
        left.mkdir()
        living = group.folder.with_name(f"slm-benchmark-{os.getppid()}")
        living.mkdir()
    assert not group.folder.exists()
    with limits.memory_group(200 * MIB):
        assert not left.exists()
        assert living.exists()
    living.rmdir()


@linux
def test_files_read_again_because_of_the_cap_are_counted(tmp_path: Path) -> None:
    """Mapped weights never break the cap; that they did not stay in memory must be seen."""
    weights = tmp_path / "weights"
    with open(weights, "wb") as stream:
        for _ in range(96):
            stream.write(os.urandom(MIB))
        os.fsync(stream.fileno())
    limits.drop_cached([weights])
    source = (
        "import sys; from slm_benchmark.profiling.limits import apply_limits\n"
        "apply_limits(1, 64 * 2**20)\n"
        "for _ in range(3):\n with open(sys.argv[1], 'rb') as f:\n  while f.read(2**20): pass\n"
    )
    with limits.memory_group(64 * MIB) as group:
        if group is None or group.reread_bytes() is None:
            pytest.skip("no control group that counts this can be made here")
        assert group.reread_bytes() == 0
        subprocess.run(
            [sys.executable, "-c", source, str(weights)],
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")} | group.environment,
            check=True,
        )
        assert (group.reread_bytes() or 0) > MIB
        assert not limits.exceeded(group)


def test_no_cap_is_no_cap() -> None:
    with limits.memory_group(None) as group:
        assert group is None
        block, held, _ = limited(group, None, 80 * MIB)
    assert held
    assert block["memory"] == {"limit_bytes": None, "enforced_by": "none", "reason": None}


@linux
def test_a_process_is_bound_to_as_many_cpus_as_declared() -> None:
    allowed = os.sched_getaffinity(0)
    source = LIMITED + "import os; print(json.dumps(sorted(os.sched_getaffinity(0))))"
    done = subprocess.run(
        [sys.executable, "-c", source, "1", "null", "1"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    first, _, last = done.stdout.splitlines()
    assert json.loads(first)["affinity"] == json.loads(last)
    assert len(json.loads(last)) == 1
    assert set(json.loads(last)) <= allowed
    with pytest.raises(UserError, match=r"config/hardware\.yaml: threads: .*got 4096.*Fix: use"):
        limits.apply_limits(4096, None)
    assert os.sched_getaffinity(0) == allowed


def test_one_cpu_of_each_core_comes_first_and_fast_cores_before_slow_ones(cpus: Path) -> None:
    assert limits._in_order({3, 1, 2}) == [1, 2, 3]  # nothing is known
    for cpu in range(4):
        put(cpus / f"cpu{cpu}/topology/thread_siblings_list", f"{cpu - cpu % 2}-{cpu | 1}")
    assert limits._in_order(range(4)) == [0, 2, 1, 3]
    assert limits._in_order({1, 2, 3}) == [1, 2, 3]
    for cpu in range(8):
        put(cpus / f"cpu{cpu}/topology/thread_siblings_list", cpu)
        put(cpus / f"cpu{cpu}/cpu_capacity", 1024 if cpu >= 4 else 446)
    assert limits._in_order(range(8))[:4] == [4, 5, 6, 7]


def fake_kernel(tmp_path: Path, cgroup: str, mountinfo: str) -> None:
    put(tmp_path / "proc/cgroup", cgroup)
    put(tmp_path / "proc/mountinfo", mountinfo)


def test_version_2_takes_the_group_around_the_own_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The own group holds this process, so that it cannot have capped groups below it."""
    top = tmp_path / "sys"
    own = top / "user.slice/user-0.slice/session-1.scope"
    own.mkdir(parents=True)
    fake_kernel(
        tmp_path,
        "0::/user.slice/user-0.slice/session-1.scope",
        f"31 23 0:28 / {top} rw,relatime - cgroup2 cgroup2 rw,nsdelegate",
    )
    monkeypatch.setattr(limits, "PROC", tmp_path / "proc")
    assert [(v, p.relative_to(top).parts[-1:]) for v, p in limits._parents()] == [
        (2, ("session-1.scope",)),
        (2, ("user-0.slice",)),
        (2, ("user.slice",)),
        (2, ()),
    ]
    real = limits._write_cap

    def write_cap(folder: Path, version: int, limit_bytes: int) -> None:
        if folder.parent == own:
            raise PermissionError  # what the kernel answers there
        (folder / "memory.swap.max").touch()
        real(folder, version, limit_bytes)

    monkeypatch.setattr(limits, "_write_cap", write_cap)
    group = limits._make_group(1000)
    assert group is not None
    assert group.folder.parent == own.parent
    assert list(own.iterdir()) == []
    assert (group.folder / "memory.max").read_text() == "1000"
    assert (group.folder / "memory.swap.max").read_text() == "0"
    put(group.folder / "memory.events", "low 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 0")
    assert limits.exceeded(group)


def test_a_container_sees_its_own_group_at_the_top_of_the_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = tmp_path / "sys/memory"
    top.mkdir(parents=True)
    fake_kernel(
        tmp_path,
        "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/docker/abc",
        f"30 23 0:27 /docker/abc {tmp_path}/sys/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
        f"31 23 0:28 /docker/abc {top} rw - cgroup cgroup rw,memory",
    )
    monkeypatch.setattr(limits, "PROC", tmp_path / "proc")
    assert list(limits._parents()) == [(1, top)]
