"""The workflow in places where other programs fail: one run in several of them at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slm_benchmark.common.errors import UserError
from slm_benchmark.workflow.job import check_folder
from tests.support.checkout import CLOSED_PORT, Checkout, Done, make_checkout
from tests.support.members import member

TARGET = "build/published/leaderboard.json"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in a folder with an awkward name, and an environment inside of it."""
    folder = tmp_path_factory.mktemp("places") / "a user's [1] #é 50% $x"
    made = make_checkout(folder)
    environment = made.path(".venv")
    (environment / "bin").mkdir(parents=True)
    (environment / "lib").symlink_to(Path(sys.prefix) / "lib")
    (environment / "pyvenv.cfg").write_bytes((Path(sys.prefix) / "pyvenv.cfg").read_bytes())
    (environment / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    made.commit("all")
    return made


def snakemake(checkout: Checkout, *arguments: str, folder: str = ".", **changes: str) -> Done:
    """Run Snakemake with the environment that lies in the checkout, under umask 077."""
    python, up = str(checkout.path(".venv/bin/python")), "" if folder == "." else "../"
    done = subprocess.run(
        [python, "-m", "snakemake", "--profile", f"{up}profiles/demo", *arguments],
        cwd=checkout.path(folder),
        env={**checkout.environment, **changes},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        umask=0o077,
        timeout=300,
    )
    return Done(done.returncode, done.stdout)


@pytest.fixture(scope="module")
def run(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A run in the awkward folder, and in awkward process_environment."""
    return snakemake(
        checkout,
        TARGET,
        HOME="/proc/none",
        XDG_CACHE_HOME=str(tmp_path_factory.mktemp("cache")),
        TMPDIR="/proc/none",
        LC_ALL="C",
        PYTHONIOENCODING="ascii",
        SLURM_CPUS_ON_NODE="1",
        SLURM_MEM_PER_NODE="3000",
        HTTP_PROXY=CLOSED_PORT,
        NO_PROXY="",
    )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            "a user's [1] #é 50% $x",
            marks=member(
                "places",
                "a run in a folder with a space, an apostrophe, `[`, `#`, `é`, `%` and `$`",
                "every script starts, and files lie where they belong",
            ),
        ),
        pytest.param(
            "TMPDIR",
            marks=member(
                "places", "a TMPDIR that does not exist", "the system's own folder is used"
            ),
        ),
        pytest.param(
            "umask",
            marks=member("places", "a run under umask 077", "it runs as under any other"),
        ),
    ],
)
def test_a_run_in_an_awkward_place_ends_well(name: str, run: Done, checkout: Checkout) -> None:
    assert run.code == 0, (name, run.output)
    assert checkout.record(TARGET)["rows"] == []


@member(
    "machine",
    "a run inside an allocation of SLURM of one CPU and 3 GB",
    "Snakemake shows one core and 3 GB, and starts no more jobs than fit",
)
def test_a_run_takes_the_allocation(run: Done) -> None:
    assert "Provided cores: 1" in run.output
    assert 'mem_mb=Resource("mem_mb", 3145)' in run.output


@member(
    "places",
    "`snakemake` from a folder inside the repository",
    "one line names the folder to run from",
)
def test_a_run_from_a_subfolder_says_where_to_run(checkout: Checkout) -> None:
    done = snakemake(checkout, TARGET, folder="workflow")
    assert done.code != 0
    (line,) = done.errors()
    assert "the workflow runs from the repository's root alone. Fix: cd " in line


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@member(
    "places",
    "a checkout that cannot be written",
    "`snakemake` refuses in one line before it plans anything",
)
def test_a_checkout_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "read-only"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine may not mount")
    try:
        with pytest.raises(UserError, match=r"read-only: nothing can be written here. Fix: make"):
            check_folder(folder, folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@member("places", "a repository that is reached by a link", "it runs as by its own path")
def test_a_linked_repository_is_its_root(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    check_folder(tmp_path / "real", tmp_path / "link")
