"""The locked environment, the conda environments, the set-up and the links to the profiles."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.utils import canonicalize_name

from slm_benchmark.common.paths import ROOT
from slm_benchmark.workflow.profile_links import PROFILES, config_folder, link_profiles
from tests.support.members import member


def load_tool(name: str) -> ModuleType:
    """A module of tools/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


install = load_tool("install")
make_envs = load_tool("make_envs")


def pip_lines(environment: Path) -> list[str]:
    """What conda would hand to pip."""
    dependencies = yaml.safe_load(environment.read_text())["dependencies"]
    (pip,) = [entry["pip"] for entry in dependencies if isinstance(entry, dict)]
    return [str(line) for line in pip]


# --- the lock and the conda environments ---------------------------------------------------------


def test_the_running_environment_is_the_locked_one() -> None:
    lock = make_envs.read_lock()
    assert len(lock) > 100
    # A new interpreter: importing setuptools, as other tests do, shows what that brings along too.
    show = (
        "from importlib.metadata import distributions\n"
        "for found in distributions(): print(found.name, found.version)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", show], capture_output=True, text=True, check=True
    ).stdout
    installed = {
        canonicalize_name(name): version.split("+")[0]
        for name, version in map(str.split, shown.splitlines())
    }
    assert {name: installed.get(name) for name in lock} == lock


def test_envs_follow_from_the_lock() -> None:
    command = [sys.executable, str(ROOT / "tools" / "make_envs.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.stdout, result.returncode) == ("", 0)


def test_a_changed_version_in_an_environment_is_noticed(tmp_path: Path) -> None:
    for part in ("tools", "envs"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "requirements.lock", tmp_path)
    report = tmp_path / "envs" / "report.yaml"
    report.write_text(report.read_text().replace("altair==", "altair==0.0.", 1))
    command = [sys.executable, str(tmp_path / "tools" / "make_envs.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "envs/report.yaml: out of date. Fix: python tools/make_envs.py" in result.stdout


def test_every_line_of_every_environment_is_an_exact_pin() -> None:
    environments = sorted((ROOT / "envs").glob("*.yaml"))
    assert len(environments) >= 7
    for environment in environments:
        for line in pip_lines(environment):
            assert re.fullmatch(
                r"[\w.-]+==[\w.]+( --config-settings=cmake\.define\.\w+=\w+)*", line
            )


def test_llama_cpp_is_compiled_alike_everywhere() -> None:
    for name in ("gguf", "evaluate-llamacpp", "equivalence"):
        (line,) = [line for line in pip_lines(ROOT / "envs" / f"{name}.yaml") if "llama" in line]
        assert "GGML_NATIVE=OFF" in line
        assert "AMX" not in line
        for setting in install.llama_cmake("x86_64"):
            assert f"--config-settings=cmake.define.{setting}" in line
    assert not any("AVX" in setting for setting in install.llama_cmake("aarch64"))
    assert "GGML_NATIVE=OFF" in install.llama_cmake("aarch64")
    assert "GGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16" in install.llama_cmake("aarch64")


BLOCK = """
import importlib, importlib.machinery, json, sys
names, find_spec = json.loads(sys.argv[1]), importlib.machinery.PathFinder.find_spec
def find(name, path=None, target=None):
    return None if name.split(".")[0] in names else find_spec(name, path, target)
importlib.machinery.PathFinder.find_spec = staticmethod(find)
for module in sys.argv[2:]:
    importlib.import_module(module)
"""
"""Imports modules as if the packages whose top-level names are given were not installed."""


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        (
            "download",
            "slm_benchmark.download.base_model slm_benchmark.download.datasets "
            "datasets transformers",
        ),
        ("quantize", "slm_benchmark.quantize.gptqmodel slm_benchmark.engines.transformers"),
        ("gguf", "slm_benchmark.quantize.gguf slm_benchmark.engines.llamacpp llama_cpp"),
        ("evaluate-transformers", "slm_benchmark.evaluation.loglikelihood lm_eval.evaluator"),
        ("evaluate-llamacpp", "slm_benchmark.evaluation.loglikelihood lm_eval.evaluator"),
        (
            "profile",
            "slm_benchmark.profiling.record slm_benchmark.profiling.process "
            "slm_benchmark.profiling.roofline slm_benchmark.profiling.llamacpp "
            "slm_benchmark.profiling.transformers optimum",
        ),
        (
            "equivalence",
            "slm_benchmark.evaluation.equivalence slm_benchmark.engines.llamacpp "
            "slm_benchmark.engines.transformers lm_eval.evaluator",
        ),
        ("report", "slm_benchmark.site altair mkdocs"),
    ],
)
def test_an_environment_holds_what_its_stage_imports(name: str, modules: str) -> None:
    """Without conda: the packages that the environment lacks are made unimportable."""
    pinned = {line.split("==")[0] for line in pip_lines(ROOT / "envs" / f"{name}.yaml")}
    absent = [
        top
        for top, distributions in metadata.packages_distributions().items()
        if not {canonicalize_name(found) for found in distributions} & {*pinned, "slm-benchmark"}
    ]
    assert "snakemake" in absent
    command = [sys.executable, "-c", BLOCK, json.dumps(absent), *modules.split()]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["report", "download"])
def test_conda_and_ambient_environments_resolve_to_the_same_versions(
    name: str, tmp_path: Path
) -> None:
    """What pip, asked for an environment's lines, would install is what runs here."""
    wanted = tmp_path / "requirements.txt"
    wanted.write_text("\n".join(pip_lines(ROOT / "envs" / f"{name}.yaml")) + "\n")
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    subprocess.run([*command, "--report", report, "-r", wanted], check=True, capture_output=True)
    resolved = {
        canonicalize_name(entry["metadata"]["name"]): entry["metadata"]["version"].split("+")[0]
        for entry in json.loads(report.read_text())["install"]
    }
    # A CUDA build of torch brings its libraries along; they are pinned by that build, not by us.
    resolved = {
        package: version
        for package, version in resolved.items()
        if not package.startswith(("nvidia-", "cuda-", "triton"))
    }
    assert len(resolved) >= 30
    ambient = {name: metadata.version(name).split("+")[0] for name in resolved}
    assert resolved == ambient


# --- the set-up ----------------------------------------------------------------------------------


def clone(folder: Path) -> Path:
    """The parts of a checkout that the set-up reads, without an environment."""
    (folder / "tools").mkdir(parents=True)
    for name in ("activate", "requirements.lock", "pyproject.toml", "tools/install.py"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    source = folder / "src" / "slm_benchmark"
    (source / "workflow").mkdir(parents=True)
    for name in ("__init__.py", "workflow/__init__.py", "workflow/profile_links.py"):
        shutil.copy(ROOT / "src" / "slm_benchmark" / name, source / name)
    return folder


def programs(folder: Path, **scripts: str) -> Path:
    """A folder for PATH with the few tools that `activate` needs, and ``scripts``."""
    folder.mkdir()
    for name in ("dirname", "cat"):
        found = shutil.which(name)
        assert found
        (folder / name).symlink_to(found)
    for name, text in scripts.items():
        path = folder / name.replace("_", ".")
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return folder


def source(shell: str, repo: Path, path: Path | str, then: str = "") -> tuple[str, str]:
    """Source `activate` in a bare environment; returns (standard output, standard error)."""
    home = repo / "home"
    home.mkdir(exist_ok=True)
    result = subprocess.run(
        [shutil.which(shell) or shell, "-c", f'. ./activate; echo "status $? options $-"; {then}'],
        cwd=repo,
        env={"PATH": str(path), "HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout, result.stderr


SHELLS = [shell for shell in ("sh", "bash", "zsh") if shutil.which(shell)]


@pytest.mark.parametrize("shell", SHELLS)
def test_no_python_is_one_clear_error_and_the_shell_lives(shell: str, tmp_path: Path) -> None:
    """A shim that exists but does not run, as pyenv leaves them, does not count."""
    path = programs(tmp_path / "bin", python3_12="echo not installed >&2; exit 127")
    output, error = source(shell, clone(tmp_path / "clone"), path)
    assert "status 1" in output
    assert error.startswith("set-up: error: no Python 3.11 or newer was found. Fix: ")
    assert len(error.splitlines()) == 1


def test_an_old_python_is_refused(tmp_path: Path) -> None:
    old = programs(tmp_path / "bin", python3='case "$2" in *version_info*) exit 1;; esac')
    output, error = source("sh", clone(tmp_path / "clone"), old)
    assert "status 1" in output
    assert "no Python 3.11" in error


def test_no_compiler_is_said_before_anything_is_downloaded(tmp_path: Path) -> None:
    path = programs(tmp_path / "bin", python3_11=f'exec {sys.executable} "$@"')
    repo = clone(tmp_path / "clone")
    output, error = source("sh", repo, path)
    assert "status 1" in output
    assert "no C++ compiler was found" in error
    assert "Fix: apt-get install g++" in error
    assert not (repo / ".venv").exists()


def test_a_python_without_ensurepip_is_said_with_its_fix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ensurepip" else find(name)
    )
    with pytest.raises(install.SetupError, match=r"ensurepip .* apt-get install python3\.\d+-venv"):
        install.check_machine()


def finished_clone(folder: Path) -> Path:
    """A clone whose set-up looks finished, with this Python in the place of its .venv."""
    repo = clone(folder)
    (repo / ".venv" / "bin").mkdir(parents=True)
    (repo / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (repo / ".venv" / "bin" / "activate").write_text("SLM_TEST_ACTIVE=yes\n")
    print_stamp = "import install; print(install.wanted_stamp(), end='')"
    stamp = subprocess.run(
        [sys.executable, "-c", print_stamp], cwd=repo / "tools", capture_output=True, check=True
    )
    (repo / ".venv" / "installed-from").write_bytes(stamp.stdout)
    return repo


@pytest.mark.parametrize("shell", SHELLS)
def test_a_finished_set_up_is_skipped_and_leaves_no_trace_in_the_shell(
    shell: str, tmp_path: Path
) -> None:
    repo = finished_clone(tmp_path / "clone")
    left = "echo active $SLM_TEST_ACTIVE; set | grep -i '^_slm_' || echo clean"
    output, error = source(shell, repo, os.environ["PATH"], left)
    assert error == ""
    assert output.splitlines()[1:] == ["active yes", "clean"]
    status, options = re.findall(r"status (\d+) options (\S*)", output)[0]
    assert status == "0"
    assert "e" not in options
    assert "u" not in options
    links = repo / "home" / ".config" / "snakemake"
    assert sorted(link.name for link in links.iterdir()) == sorted(PROFILES)


@pytest.mark.parametrize("shell", [shell for shell in SHELLS if shell != "sh"])
def test_it_can_be_sourced_from_elsewhere_under_set_eu(shell: str, tmp_path: Path) -> None:
    repo = finished_clone(tmp_path / "clone")
    result = subprocess.run(
        [shell, "-c", f"set -eu; . '{repo}/activate'; echo active $SLM_TEST_ACTIVE"],
        cwd="/",
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (result.stdout, result.stderr, result.returncode) == ("active yes\n", "", 0)


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml"])
def test_a_changed_lock_is_not_skipped(name: str, tmp_path: Path) -> None:
    repo = finished_clone(tmp_path / "clone")
    with open(repo / name, "a") as stream:
        stream.write("# changed\n")
    path = programs(tmp_path / "bin")  # no compiler: the set-up stops at its first check
    _, error = source("sh", repo, path)
    assert "no C++ compiler was found" in error


@member(
    "places",
    "`activate` with CRLF, as git writes it with core.autocrlf",
    "one line says so and names the setting",
)
@pytest.mark.parametrize("shell", SHELLS)
def test_an_activate_with_crlf_says_so(shell: str, tmp_path: Path) -> None:
    repo = clone(tmp_path / "clone")
    lines = (repo / "activate").read_bytes()
    (repo / "activate").write_bytes(lines.replace(b"\n", b"\r\n"))
    output, error = source(shell, repo, os.environ["PATH"])
    assert "status 1" in output
    assert len(error.splitlines()) == 1
    assert "CRLF" in error
    assert "Fix: clone it again, with: git clone -c core.autocrlf=input" in error


@member(
    "places",
    "a clone by a git with core.autocrlf=true",
    "the files keep LF, so that `activate` runs and published digests hold",
)
def test_a_clone_keeps_its_line_ends(tmp_path: Path) -> None:
    origin, copy = tmp_path / "origin", tmp_path / "copy"
    (origin / "results").mkdir(parents=True)
    for name in ("activate", ".gitattributes"):
        shutil.copy(ROOT / name, origin / name)
    (origin / "results" / "manifest.json").write_text("{\n}\n")
    author = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "all"]):
        subprocess.run(["git", "-C", str(origin), *command], check=True)
    setting = ["-c", "core.autocrlf=true", "-c", "core.eol=crlf"]
    subprocess.run(["git", *setting, "clone", "-q", str(origin), str(copy)], check=True)
    for name in ("activate", "results/manifest.json"):
        assert (copy / name).read_bytes() == (origin / name).read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            "a:b",
            marks=member("places", "a colon in the path", "`activate` refuses at once in one line"),
        ),
        pytest.param(
            "a{b}",
            marks=member("places", "braces in the path", "`activate` refuses at once in one line"),
        ),
        "a\tb",
    ],
)
def test_a_path_that_cannot_work_is_refused_at_once(name: str, tmp_path: Path) -> None:
    repo = clone(tmp_path / name)
    output, error = source("sh", repo, os.environ["PATH"])
    assert "status 1" in output
    (line,) = error.splitlines()
    assert "set-up: error: the path of this clone has" in line
    assert "Fix: move the clone" in line
    assert not (repo / ".venv").exists()


@member(
    "places",
    "a path with a space, an apostrophe, brackets or letters beyond ASCII",
    "it works: the environment lies in the cache, and .venv is a link to it",
)
@pytest.mark.parametrize("name", ["my folder", "a user's", "[1] #50%", "été"])
def test_the_environment_of_an_awkward_path_lies_in_a_plain_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, cache = tmp_path / name, tmp_path / "cache"
    make_environments(monkeypatch, root, cache)
    install.make_venv()
    assert (root / ".venv").is_symlink()
    assert (root / ".venv").resolve().is_relative_to(cache)
    assert install.environment_python().parent == (root / ".venv").resolve() / "bin"
    install.check_place()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "my cache"))
    with pytest.raises(install.SetupError, match=r"neither this clone nor .* Fix: XDG_CACHE_HOME"):
        install.check_place()


def make_environments(monkeypatch: pytest.MonkeyPatch, root: Path, cache: Path) -> list[Path]:
    """Let `install` make environments without packages for a clone at ``root``; returns them."""
    root.mkdir(exist_ok=True)
    monkeypatch.setattr(install, "ROOT", root)
    monkeypatch.setattr(install, "VENV", root / ".venv")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    made: list[Path] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        if "venv" not in command:
            return subprocess.CompletedProcess(command, 0, "True\n", "")
        folder = Path(command[-1])
        made.append(folder)
        (folder / "bin").mkdir(parents=True, exist_ok=True)
        (folder / "bin" / "python").touch()
        words = " ".join(map(str, command))
        (folder / "pyvenv.cfg").write_text(f"version = 3.11\ncommand = {words}\n")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(install.subprocess, "run", run)
    return made


@member(
    "places",
    "a clone that was moved after its set-up",
    "`activate` makes .venv anew, as its programs name the old place",
)
def test_a_moved_clone_gets_a_new_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_environments(monkeypatch, tmp_path / "a", tmp_path / "cache")
    install.make_venv()
    install.make_venv()
    assert made == [tmp_path / "a" / ".venv"]
    (tmp_path / "a").rename(tmp_path / "b")
    made = make_environments(monkeypatch, tmp_path / "b", tmp_path / "cache")
    install.make_venv()
    assert made == [tmp_path / "b" / ".venv"]


@member(
    "places",
    "a copy of a clone, or one with a link to another clone's .venv",
    "it gets an environment of its own, and the first clone keeps its",
)
@pytest.mark.parametrize("linked", [True, False])
def test_a_copy_does_not_use_the_environment_of_the_first_clone(
    linked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_environments(monkeypatch, tmp_path / "a", tmp_path / "cache")
    install.make_venv()
    first = tmp_path / "a" / ".venv" / "pyvenv.cfg"
    before = first.read_text()
    (tmp_path / "b").mkdir()
    if linked:
        (tmp_path / "b" / ".venv").symlink_to(tmp_path / "a" / ".venv")
    else:
        shutil.copytree(tmp_path / "a" / ".venv", tmp_path / "b" / ".venv")
    made = make_environments(monkeypatch, tmp_path / "b", tmp_path / "cache")
    install.make_venv()
    assert made == [tmp_path / "b" / ".venv"]
    assert not (tmp_path / "b" / ".venv").is_symlink()
    assert first.read_text() == before


@member(
    "places",
    "a disk, or a folder for temporary files, that is nearly full",
    "`activate` refuses before anything is downloaded, with what is left and what is needed",
)
def test_too_little_room_is_said_at_once(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install.tempfile, "gettempdir", lambda: str(small_disk))
    with pytest.raises(install.SetupError, match=r"0.0 GB left; temporary files .TMPDIR. needs"):
        install.check_room()
    monkeypatch.setattr(install, "ROOT", small_disk)
    monkeypatch.setattr(install, "VENV", small_disk / ".venv")
    with pytest.raises(install.SetupError, match=r"0.0 GB left; the environment needs 5 GB.* Fix"):
        install.check_room()


@member(
    "places",
    "a TMPDIR from which no program may be started (noexec)",
    "`activate` refuses before it compiles, and names TMPDIR",
)
def test_a_temporary_folder_without_programs_is_said(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert install._runs_programs(small_disk)
    if subprocess.run(["mount", "-o", "remount,noexec", str(small_disk)], check=False).returncode:
        pytest.skip("a file system without programs needs root")
    monkeypatch.setattr(install, "llama_wheel", lambda: None)
    monkeypatch.setattr(install, "TEMPORARY_BYTES", 0)
    monkeypatch.setattr(install, "ROOM_BYTES", 0)
    monkeypatch.setattr(install.tempfile, "gettempdir", lambda: str(small_disk))
    monkeypatch.setattr(install.tempfile, "tempdir", str(small_disk))
    with pytest.raises(install.SetupError, match=r"cannot be run in .*noexec.* Fix: TMPDIR=FOLDER"):
        install.check_room()


@member(
    "places",
    "a home that is missing or cannot be written",
    "caches lie in the clone; a line says so, and how profiles are named without their links",
)
@pytest.mark.parametrize("shell", SHELLS)
def test_without_a_home_the_caches_lie_in_the_clone(shell: str, tmp_path: Path) -> None:
    repo = finished_clone(tmp_path / "clone")
    result = subprocess.run(
        [shell, "-c", '. ./activate; echo "$? $XDG_CACHE_HOME"'],
        cwd=repo,
        env={"PATH": os.environ["PATH"], "HOME": "/proc/none"},
        capture_output=True,
        text=True,
    )
    assert result.stdout == f"0 {repo}/.cache\n"
    profiles, cache = result.stderr.splitlines()
    assert "'/proc/none/.cache' cannot be written" in cache
    assert "snakemake --profile profiles/NAME" in profiles


def test_a_truncated_wheel_in_the_cache_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = install.llama_folder()
    folder.mkdir(parents=True)
    (folder / "llama_cpp_python-0-py3-none-any.whl").write_bytes(b"PK\x03\x04 cut short")
    assert install.llama_wheel() is None


def test_a_package_whose_installation_was_killed_is_installed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    for name, files in (("whole", ("METADATA", "RECORD")), ("killed", ("METADATA",))):
        (packages / f"{name}-1.0.dist-info").mkdir(parents=True)
        for file in files:
            (packages / f"{name}-1.0.dist-info" / file).touch()
    monkeypatch.setattr(install, "VENV", tmp_path)
    install.drop_unfinished()
    assert [folder.name for folder in packages.iterdir()] == ["whole-1.0.dist-info"]


def test_settings_that_redirect_pip_or_the_compiler_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PIP_TARGET", "/elsewhere")
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_NATIVE=ON")
    monkeypatch.setenv("PIP_INDEX_URL", "file:///mirror")
    kept = install.clean_environment(compiling=True)
    assert "PIP_TARGET" not in kept
    assert "CMAKE_ARGS" not in kept
    assert kept["PIP_INDEX_URL"] == "file:///mirror"


# --- the engines' names in lm_eval ---------------------------------------------------------------


@pytest.fixture
def names_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The .pth file in a new environment."""
    monkeypatch.setattr(install, "VENV", tmp_path)
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    packages = tmp_path / "lib" / python / "site-packages"
    packages.mkdir(parents=True)
    install.name_engines()
    (written,) = packages.iterdir()
    assert written.suffix == ".pth"
    return written


def test_the_names_are_written_once(names_file: Path) -> None:
    before = names_file.stat()
    install.name_engines()
    assert names_file.stat() == before
    names_file.write_text("import something_else")
    install.name_engines()
    assert "lm_eval_plugin" in names_file.read_text()


def start_python(names_file: Path, *paths: Path) -> subprocess.CompletedProcess[str]:
    """Start a Python whose only packages are those of the file's folder and of ``paths``."""
    program = (
        f"import site, sys; sys.path[:0] = {[str(path) for path in paths]!r}\n"
        "before = set(sys.modules)\n"
        f"site.addsitedir({str(names_file.parent)!r})\n"
        "print(*sorted(set(sys.modules) - before))\n"
        "print(*[type(finder).__name__ for finder in sys.meta_path])"
    )
    command = [sys.executable, "-I", "-S", "-c", program]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_names_leave_no_module_when_python_starts(names_file: Path) -> None:
    done = start_python(names_file, ROOT / "src")
    assert (done.stderr, done.returncode) == ("", 0)
    modules, finders = done.stdout.splitlines()
    assert modules.split() == ["__future__"]
    assert finders.split()[0] == "_Watch"


def test_python_starts_when_the_package_is_gone(names_file: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    (old / "slm_benchmark").mkdir(parents=True)
    (old / "slm_benchmark" / "__init__.py").touch()
    for paths in ([], [old]):
        done = start_python(names_file, *paths)
        assert (done.stderr, done.returncode) == ("", 0)
        assert "_Watch" not in done.stdout


# --- the profiles --------------------------------------------------------------------------------


def fake_clone(folder: Path) -> Path:
    for name in PROFILES:
        (folder / "profiles" / name).mkdir(parents=True)
    (folder / "src" / "slm_benchmark").mkdir(parents=True)
    (folder / "src" / "slm_benchmark" / "__init__.py").touch()
    return folder


def test_the_folder_is_the_one_that_snakemake_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    from platformdirs import AppDirs

    for chosen in ("", "/somewhere"):
        monkeypatch.setenv("XDG_CONFIG_HOME", chosen)
        assert str(config_folder()) == AppDirs("snakemake", "snakemake").user_config_dir


def test_links_are_made_once(tmp_path: Path) -> None:
    repo, folder = fake_clone(tmp_path / "repo"), tmp_path / "config" / "snakemake"
    for _ in range(2):
        assert link_profiles(folder, repo) == []
        for name in PROFILES:
            assert (folder / name).samefile(repo / "profiles" / name)


@pytest.mark.parametrize("replace", [False, True])
def test_foreign_entries_are_kept_and_named(tmp_path: Path, replace: bool) -> None:
    repo, folder = fake_clone(tmp_path / "repo"), tmp_path / "config"
    folder.mkdir()
    (folder / "demo").mkdir()
    (folder / "local").write_text("mine")
    other = tmp_path / "elsewhere" / "profiles" / "colab"
    other.mkdir(parents=True)
    (folder / "colab").symlink_to(other)
    warnings = link_profiles(folder, repo, replace=replace)
    assert [warning.split(":")[0] for warning in warnings] == [
        str(folder / name) for name in ("demo", "local", "colab")
    ]
    assert all("Fix: rename it" in warning for warning in warnings)
    assert (folder / "demo").is_dir()
    assert not (folder / "demo").is_symlink()
    assert (folder / "local").read_text() == "mine"
    assert (folder / "colab").readlink() == other
    assert (folder / "slurm").samefile(repo / "profiles" / "slurm")


def test_links_of_another_clone_are_replaced_on_demand_and_those_to_nowhere_always(
    tmp_path: Path,
) -> None:
    repo, folder = fake_clone(tmp_path / "repo"), tmp_path / "config"
    other = fake_clone(tmp_path / "other")
    assert link_profiles(folder, other) == []
    (folder / "slurm").unlink()
    (folder / "slurm").symlink_to(tmp_path / "gone" / "profiles" / "slurm")
    warnings = link_profiles(folder, repo)
    assert len(warnings) == len(PROFILES) - 1
    assert f"links to another clone, {other}" in warnings[0]
    assert (folder / "slurm").samefile(repo / "profiles" / "slurm")
    assert all("slm-benchmark link-profiles --replace" in warning for warning in warnings)
    assert (folder / "demo").samefile(other / "profiles" / "demo")

    assert link_profiles(folder, repo, replace=True) == []
    assert all((folder / name).samefile(repo / "profiles" / name) for name in PROFILES)


def test_an_unwritable_home_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where the home folder should be")
    (warning,) = link_profiles(tmp_path / "home" / ".config" / "snakemake", fake_clone(tmp_path))
    assert "Fix: make your home folder writable" in warning


def read_profile(name: str) -> dict[str, object]:
    parsed: dict[str, object] = yaml.safe_load((ROOT / f"profiles/{name}/profile.yaml").read_text())
    return parsed


def test_no_profile_switches_conda_on_and_the_default_is_neutral() -> None:
    for name in (*PROFILES, "default"):
        keys = read_profile(name).keys()
        assert keys
        assert not {key for key in keys if "conda" in key or key.startswith(("sdm", "software"))}
    assert (
        not {"config", "configfile", "cores", "jobs", "executor"} & read_profile("default").keys()
    )


@pytest.mark.parametrize("name", PROFILES)
def test_snakemake_finds_the_profile_by_name(name: str, tmp_path: Path) -> None:
    """As typed, through the link; its choices survive a --config of the user."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "Snakefile").write_text(
        'import json, pathlib\npathlib.Path("seen.json").write_text(json.dumps(config))\n'
        'rule all:\n    output: "out"\n    shell: "touch {output}"\n'
    )
    assert link_profiles(tmp_path / "config" / "snakemake", ROOT) == []
    program = Path(sys.executable).with_name("snakemake")
    result = subprocess.run(
        [program, "--profile", name, "--dry-run", "--config", "extra=1"],
        cwd=work,
        env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert f"Using profile {name} " in result.stderr
    choices = yaml.safe_load((ROOT / f"profiles/{name}/choices.yaml").read_text())
    assert choices["hardware"]
    assert json.loads((work / "seen.json").read_text()) == {**choices, "extra": 1}


# --- the papers of the project -------------------------------------------------------------------


def test_citation_and_licences_agree_with_the_package() -> None:
    from slm_benchmark import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert (citation["version"], citation["license"]) == (__version__, "Apache-2.0")
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert "CC-BY-4.0" in (ROOT / "results" / "LICENSE").read_text()
