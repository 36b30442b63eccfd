"""What may be used of a machine, whatever can be seen of it: quotas, limits, schedulers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slm_benchmark.catalog.catalog import load_catalogue
from slm_benchmark.catalog.run_config import RunConfig
from slm_benchmark.common import machine
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import read_yaml
from slm_benchmark.common.machine import System
from slm_benchmark.common.paths import CONFIG
from slm_benchmark.engines import memory
from slm_benchmark.profiling import host, limits, record
from slm_benchmark.records import hardware
from slm_benchmark.workflow import job, rule_resources
from slm_benchmark.workflow.rule_resources import RuleResources
from tests.support.members import member

GB = 10**9
V2 = "31 23 0:28 / /sys/fs/cgroup rw,nsdelegate - cgroup2 cgroup2 rw\n"


@pytest.fixture(autouse=True)
def large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 64 CPUs and 256 GB, of which this process may use everything."""
    monkeypatch.setattr(machine, "visible_cpus", lambda: 64)
    monkeypatch.setattr(machine, "visible_memory_bytes", lambda: 256 * GB)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


def kernel(
    root: Path, group: str, files: Mapping[str, str], mounts: str = V2, **environment: str
) -> System:
    """A system whose kernel shows ``files`` below /sys/fs/cgroup to a process in ``group``."""
    own = root / "proc" / "self"
    own.mkdir(parents=True)
    (own / "cgroup").write_text(group)
    (own / "mountinfo").write_text(mounts)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return System(root, environment)


V1_MOUNTS = (
    "30 23 0:27 /docker/abc /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "31 23 0:28 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)
V1_GROUP = "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n"


@pytest.mark.parametrize(
    ("group", "files", "mounts", "cpus", "memory_bytes"),
    [
        pytest.param(
            "0::/user.slice/job",
            {"user.slice/cpu.max": "300000 100000", "user.slice/job/cpu.max": "max 100000"},
            V2,
            3,
            256 * GB,
            marks=member(
                "machine",
                "CPU quota of a group around that of the process (cgroup v2)",
                "threads and cores follow the quota; `max` is no limit",
            ),
        ),
        pytest.param(
            "0::/a/b/c",
            {
                "a/cpu.max": "800000 100000",
                "a/b/cpu.max": "200000 100000",
                "a/b/c/cpu.max": "400000 100000",
                "a/memory.max": "max",
                "a/b/memory.max": f"{64 * GB}",
                "a/b/c/memory.max": f"{8 * GB}",
                "a/b/c/memory.high": f"{6 * GB}",
            },
            V2,
            2,
            6 * GB,
            marks=member(
                "machine",
                "nested containers with a limit each (cgroup v2)",
                "the least along the path counts, `memory.high` included",
            ),
        ),
        pytest.param(
            V1_GROUP,
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "150000",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": f"{4 * GB}",
            },
            V1_MOUNTS,
            1,
            4 * GB,
            marks=member(
                "machine",
                "Docker with `--cpus 1.5 --memory 4g` (cgroup v1)",
                "one thread, as a half CPU is no CPU, and budgets within 4 GB",
            ),
        ),
        pytest.param(
            V1_GROUP,
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            V1_MOUNTS,
            64,
            256 * GB,
            marks=member(
                "machine", "container without a limit", "the whole machine is used, as without one"
            ),
        ),
        pytest.param(
            "0::/",
            {"cpu.max": "50000 100000"},
            V2,
            1,
            256 * GB,
            marks=member("machine", "quota of half a CPU", "one thread, never none"),
        ),
    ],
)
def test_the_least_limit_of_the_groups_counts(
    group: str, files: Mapping[str, str], mounts: str, cpus: int, memory_bytes: int, tmp_path: Path
) -> None:
    system = kernel(tmp_path, group, files, mounts)
    shown = machine.usable(system)
    assert (shown["cpus"], shown["memory_bytes"]) == (cpus, memory_bytes)
    limited = {limit["of"] for limit in shown["limits"]}
    assert limited == {
        name
        for name, less in (("cpus", cpus < 64), ("memory_bytes", memory_bytes < 256 * GB))
        if less
    }


@pytest.mark.parametrize(
    ("environment", "cpus", "memory_bytes"),
    [
        pytest.param(
            {"SLURM_CPUS_PER_TASK": "4", "SLURM_MEM_PER_NODE": "16384"},
            4,
            16384 << 20,
            marks=member(
                "machine",
                "SLURM's CPUs of a task and memory of a node",
                "cores, threads and memory are those of the allocation",
            ),
        ),
        ({"SLURM_CPUS_PER_TASK": "1", "SLURM_TASKS_PER_NODE": "8(x2)"}, 8, 256 * GB),
        pytest.param(
            {"SLURM_JOB_CPUS_PER_NODE": "16(x2),8", "SLURM_MEM_PER_CPU": "2000"},
            16,
            2000 << 20,
            marks=member(
                "machine",
                "SLURM's memory of a CPU, and CPUs of several nodes",
                "the first node's CPUs, and no more memory than is sure to be allocated",
            ),
        ),
        ({"SLURM_CPUS_ON_NODE": "3", "SLURM_MEM_PER_CPU": "1000"}, 3, 3000 << 20),
        pytest.param(
            {"PBS_JOBID": "7.head", "NCPUS": "6"},
            6,
            256 * GB,
            marks=member("machine", "an allocation of PBS", "its number of CPUs"),
        ),
        ({"NCPUS": "6"}, 64, 256 * GB),
        pytest.param(
            {"NSLOTS": "5"},
            5,
            256 * GB,
            marks=member("machine", "an allocation of Grid Engine", "its number of slots"),
        ),
        ({"LSB_DJOB_NUMPROC": "2"}, 2, 256 * GB),
        pytest.param(
            {"SLURM_CPUS_PER_TASK": "many", "SLURM_MEM_PER_NODE": "0", "NSLOTS": ""},
            64,
            256 * GB,
            marks=member(
                "machine",
                "an allocation of 0 (all memory), or one that is no number",
                "no limit",
            ),
        ),
    ],
)
def test_an_allocation_counts(
    environment: dict[str, str], cpus: int, memory_bytes: int, tmp_path: Path
) -> None:
    system = System(tmp_path, environment)
    assert machine.usable_cpus(system) == cpus
    assert machine.usable_memory_bytes(system) == memory_bytes
    assert machine.free_memory_bytes(system) <= memory_bytes


@member(
    "machine", "OMP_NUM_THREADS", "the threads of `lm_eval` and of commands where none are chosen"
)
def test_threads_nobody_chose(tmp_path: Path) -> None:
    assert machine.default_threads(System(tmp_path, {})) == 64
    assert machine.default_threads(System(tmp_path, {"OMP_NUM_THREADS": "4,2"})) == 4
    assert machine.default_threads(System(tmp_path, {"OMP_NUM_THREADS": "0"})) == 64
    both = {"OMP_NUM_THREADS": "8", "SLURM_CPUS_PER_TASK": "2"}
    assert machine.default_threads(System(tmp_path, both)) == 2


def test_what_a_group_holds_is_not_free(tmp_path: Path) -> None:
    """Pages of files that the kernel would drop are free."""
    files = {
        "job/memory.max": "3000000000",
        "job/memory.current": "2500000000",
        "job/memory.stat": "anon 1000000000\ninactive_file 1500000000",
    }
    assert machine.free_memory_bytes(kernel(tmp_path, "0::/job", files)) == 2 * GB
    version_1 = {
        "memory/memory.limit_in_bytes": "3000000000",
        "memory/memory.usage_in_bytes": "2500000000",
        "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 500000000",
    }
    system = kernel(tmp_path / "v1", V1_GROUP, version_1, V1_MOUNTS)
    assert machine.free_memory_bytes(system) == GB


def in_a_process(command: str, before: str = "") -> Any:
    """What ``command`` prints, as JSON, in a shell of its own that first runs ``before``."""
    done = subprocess.run(
        ["bash", "-c", f'{before} exec "$0" -c "$1"', sys.executable, command],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


SHOW = (
    "import json; from slm_benchmark.common.machine import *;"
    "from slm_benchmark.records.hardware import describe, fingerprint;"
    "shown = describe(); limited = fingerprint(shown); shown.pop('usable');"
    "print(json.dumps([usable(), free_memory_bytes(), limited == fingerprint(shown)]))"
)


@pytest.mark.skipif(
    (os.cpu_count() or 1) < 2 or not shutil.which("taskset"), reason="needs two CPUs and taskset"
)
@member(
    "machine",
    "taskset",
    "the CPUs of the affinity; a record names both numbers, and its fingerprint is another",
)
def test_affinity_is_a_limit() -> None:
    usable, _, same = in_a_process(SHOW, "taskset -cp 0 $$ > /dev/null;")
    assert usable["cpus"] == 1
    assert {"of": "cpus", "value": 1, "source": "affinity"} in usable["limits"]
    assert not same


@member("machine", "ulimit -v", "budgets of memory stay within the address space that is left")
def test_a_limit_of_the_address_space_counts() -> None:
    usable, free_bytes, _ = in_a_process(SHOW, "ulimit -v 4000000;")
    assert usable["memory_bytes"] <= 4000000 * 1024
    assert free_bytes < 4000000 * 1024


def test_a_record_without_limits_keeps_its_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a machine that is used whole are compared with those from before."""
    whole: machine.Usable = {"cpus": 64, "memory_bytes": 256 * GB, "limits": []}
    monkeypatch.setattr(hardware, "usable", lambda: whole)
    monkeypatch.setattr(hardware, "visible_cpus", lambda: 64)
    description = hardware.describe()
    earlier = description.copy()
    del earlier["usable"]
    assert hardware.fingerprint(description) == hardware.fingerprint(earlier)
    description["usable"] = {**whole, "cpus": 2}
    assert hardware.fingerprint(description) != hardware.fingerprint(earlier)


@member(
    "machine",
    "a CPU quota that stops the process while it is measured",
    "the seconds are recorded, and the measurement is flagged",
)
def test_throttling_by_a_quota_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = "nr_periods 90\nnr_throttled 70\nthrottled_usec 2500000"
    files = {"job/cpu.max": "100000 100000", "job/cpu.stat": stat}
    assert machine.throttled_s(kernel(tmp_path, "0::/job", files)) == 2.5
    seconds = iter([1.0, 3.5])
    monkeypatch.setattr(host, "throttled_s", lambda: next(seconds))
    bounds: Any = {
        "before": "flag",
        "settle_s": 0,
        "wait_s": 0,
        "other_work_cores": 99,
        "steal_share": 1,
        "pressure_share": 1,
        "min_frequency_share": 0,
        "swap_bytes": 1 << 50,
    }
    state = host.look(0.01, bounds)
    assert state["quota_stopped_s"] == 2.5
    assert "a CPU quota stopped this process's group for 2.50 s" in state["warnings"]


@member(
    "machine",
    "declared memory of a machine (`edge`) in a container with less",
    "`profile` refuses and names both numbers",
)
def test_a_declared_machine_must_fit_into_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    entry: Any = {"threads": None, "memory_limit_bytes": 4 << 30}
    monkeypatch.setattr(record, "usable_memory_bytes", lambda: 2 * GB)
    with pytest.raises(UserError, match=r"memory_limit_bytes: more memory .*2000000000.*got 4294"):
        record._memory_limit_bytes(entry)


@member(
    "machine",
    "several jobs at once",
    "their caches share the memory that is free, each job one part",
)
def test_jobs_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory_bytes", lambda: 8 * GB)
    monkeypatch.delenv(machine.JOBS_AT_ONCE, raising=False)
    assert memory.budget_bytes(None) == 4 * GB
    monkeypatch.setenv(machine.JOBS_AT_ONCE, "4")
    assert memory.budget_bytes(None) == GB
    assert memory.budget_bytes(3 * GB) == 3 * GB


class Workflow:
    """What `share_machine` asks of Snakemake's workflow."""

    is_main_process = True

    def __init__(self, cores: int, nodes: int | None = None, **resources: int) -> None:
        self.nodes = nodes
        self.global_resources: dict[str, int] = {"_cores": cores, **resources}

    @property
    def cores(self) -> int:
        """Cores of the run."""
        return self.global_resources["_cores"]

    def register_resource(self, name: str, value: int) -> None:
        """Set a resource of the run."""
        self.global_resources[name] = value


@member(
    "machine",
    "`--cores all` under a limit, and jobs that together need more memory than there is",
    "cores and `mem_mb` of the run are what may be used; what the user chose stays",
)
def test_a_run_takes_what_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    utils = SimpleNamespace(available_cpu_count=lambda: 64)
    monkeypatch.setitem(sys.modules, "snakemake.utils", utils)
    monkeypatch.setattr(job, "usable_cpus", lambda: 3)
    monkeypatch.setattr(job, "usable_memory_bytes", lambda: 5 * GB)
    every, chosen, cluster = Workflow(64), Workflow(8, mem_mb=123), Workflow(64, nodes=100)
    for workflow in (every, chosen, cluster):
        job.share_machine(workflow)
    assert every.global_resources == {"_cores": 3, "mem_mb": 5000}
    assert chosen.global_resources == {"_cores": 8, "mem_mb": 123}
    assert cluster.global_resources == {"_cores": 64}
    monkeypatch.delenv(machine.JOBS_AT_ONCE, raising=False)
    job.share_memory(every, 1)
    assert os.environ.pop(machine.JOBS_AT_ONCE) == "3"
    job.share_memory(cluster, 1)
    assert os.environ.pop(machine.JOBS_AT_ONCE) == "1"


@member(
    "machine",
    "a model that needs more memory than the container has",
    "a warning before the first job names both numbers",
)
def test_a_model_that_does_not_fit_is_said_first(monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = load_catalogue()
    config = read_yaml(CONFIG / "config.yaml") | {"models": ["smollm2-135m-instruct"]}
    resources = RuleResources(RunConfig.from_config(config, catalogue), 2)
    monkeypatch.setattr(rule_resources, "usable_memory_bytes", lambda: 2 * GB)
    (warning,) = resources.memory_warnings()
    assert re.search(
        r"smollm2-135m-instruct: its jobs may need \d+ MB .*2000 MB may be used", warning
    )
    monkeypatch.setattr(rule_resources, "usable_memory_bytes", lambda: 64 * GB)
    assert resources.memory_warnings() == []


@member(
    "machine",
    "a real control group with half a GB (as root)",
    "what is read is what the kernel enforces",
)
def test_a_real_group_is_read(tmp_path: Path) -> None:
    limit = 512 << 20
    with limits.memory_group(limit) as group:
        if group is None:
            pytest.skip("this machine may make no control group")
        usable, free_bytes, _ = in_a_process(SHOW, f"echo $$ > {group.folder}/cgroup.procs;")
    assert usable["memory_bytes"] == limit
    assert 0 < free_bytes < limit
    (memory_limit,) = [one for one in usable["limits"] if one["of"] == "memory_bytes"]
    assert memory_limit["source"] == f"memory limit of the control group {group.folder}"
