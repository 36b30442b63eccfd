"""llama.cpp's own ``llama-bench``: built from the bindings' source, run, and its answers read."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm_benchmark.common.errors import RunEnvironmentError
from slm_benchmark.common.files import atomic_directory, atomic_write_json, read_json
from slm_benchmark.common.paths import ROOT, relative
from slm_benchmark.download.wheels import Archive, fetch_wheel
from slm_benchmark.profiling.launch import environment
from slm_benchmark.quantize.converter import PACKAGE, SHA256, VERSION
from tools.install import clean_environment, exclusive, llama_cmake

BATCH, FORWARD = 2048, 512
"""Most tokens in one call and in one forward, as in the profiler's engine."""

FOLDER = ROOT / "build" / "llama-bench" / VERSION


@dataclass(frozen=True)
class Work:
    """What is timed, in any program: a prompt from an empty cache, then one token at a time.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        output_tokens: Forwards of one token each, with the prompt in the cache.
        threads: CPU threads.
    """

    prompt_tokens: int
    output_tokens: int
    threads: int

    def settings(self, phase: str) -> dict[str, Any]:
        """The fields of llama-bench's answer that show that it did this work.

        Args:
            phase: ``prompt`` or ``generation``.
        """
        counts = {
            "prompt": (self.prompt_tokens, 0, 0),
            "generation": (0, self.output_tokens, self.prompt_tokens),
        }
        return {
            **dict(zip(("n_prompt", "n_gen", "n_depth"), counts[phase], strict=True)),
            "n_threads": self.threads,
            "n_batch": BATCH,
            "n_ubatch": FORWARD,
            "n_gpu_layers": 0,
            "type_k": "f16",
            "type_v": "f16",
            "flash_attn": -1,  # as llama.cpp sees fit, which is its default
            "load_mode": "mmap",
            "repack": True,
        }


_OPTIONS = {
    "n_prompt": "-p",
    "n_gen": "-n",
    "n_depth": "-d",
    "n_threads": "-t",
    "n_batch": "-b",
    "n_ubatch": "-ub",
    "n_gpu_layers": "-ngl",
    "type_k": "-ctk",
    "type_v": "-ctv",
    "flash_attn": "-fa",
    "load_mode": "-lm",
    "repack": "--repack",
}
"""Field of the answer → the option that asks for it."""


def build(jobs: int, folder: Path = FOLDER) -> Path:
    """The program, compiled as the bindings are: same source, same settings, same build files.

    A build that was killed goes on where it stopped; a finished one is used as it is.

    Args:
        jobs: Files compiled at once.
        folder: Where source, objects and program are kept.

    Raises:
        UserError: when the source archive's hash is not the pinned one.
        RunEnvironmentError: when the package index cannot be reached, or the build fails.
    """
    settings = [
        "CMAKE_BUILD_TYPE=Release",
        *llama_cmake(platform.machine()),
        "LLAMA_BUILD_TOOLS=ON",
    ]
    wanted = {"package": PACKAGE, "version": VERSION, "sha256": SHA256, "settings": settings}
    manifest, program = folder / "manifest.json", folder / "work" / "bin" / "llama-bench"
    with exclusive(folder / ".lock", "another build of llama-bench runs; waiting for it"):
        if manifest.exists() and program.exists() and read_json(manifest) == wanted:
            return program
        manifest.unlink(missing_ok=True)
        source = folder / "source"
        if not source.exists():
            _unpack(source)
        configure = ["cmake", "-S", str(source), "-B", str(folder / "work"), "-G", "Ninja"]
        _run([*configure, "-Wno-dev", *(f"-D{setting}" for setting in settings)])
        compile_it = ["cmake", "--build", str(folder / "work"), "--target", "llama-bench"]
        _run([*compile_it, "--parallel", str(jobs)])
        atomic_write_json(manifest, wanted)
    return program


def bindings_libraries() -> Path:
    """Folder of the libraries that the bindings load.

    Raises:
        RunEnvironmentError: without the bindings.
    """
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise RunEnvironmentError("llama-cpp-python is not installed", fix="run . ./activate")
    return Path(spec.origin).parent / "lib"


def command(program: Path, file: Path, work: Work, phase: str, repetitions: int) -> list[str]:
    """The command that times ``phase`` of ``work`` so many times, after one warm-up."""
    options = [
        text
        for field, value in work.settings(phase).items()
        for text in (_OPTIONS[field], str(int(value)) if isinstance(value, bool) else str(value))
    ]
    return [str(program), "-m", str(file), *options, "-r", str(repetitions), "-o", "json"]


def run(program: Path, file: Path, work: Work, phase: str, repetitions: int) -> list[float]:
    """Seconds of each repetition of ``phase``, in a fresh process on the CPUs of this one.

    On Linux it loads llama.cpp's libraries from the bindings: the very files that ours loads.

    Args:
        program: `build`'s.
        file: GGUF file.
        work: What to time.
        phase: ``prompt`` or ``generation``.
        repetitions: How often.

    Raises:
        RunEnvironmentError: when the program fails.
        RuntimeError: when it did other work than asked.
    """
    arguments = command(program, file, work, phase, repetitions)
    bound = os.environ | environment("cpu", work.threads)
    # On a copy of its own, from the same source, it was 1.5 % faster: not the clock's doing.
    libraries = [str(bindings_libraries()), os.environ.get("LD_LIBRARY_PATH")]
    bound["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
    done = subprocess.run(arguments, capture_output=True, text=True, env=bound)
    if done.returncode != 0:
        raise RunEnvironmentError(
            f"llama-bench ended with exit code {done.returncode}: {done.stderr.strip()[-300:]}",
            file=file,
            fix=f"delete {relative(FOLDER)} to have it compiled again",
        )
    return parse(done.stdout, work, phase, repetitions)


def parse(text: str, work: Work, phase: str, repetitions: int) -> list[float]:
    """Seconds of each repetition, from llama-bench's JSON.

    Raises:
        RuntimeError: when the answer is of other work, or of more or fewer repetitions.
    """
    (answer,) = json.loads(text)
    wanted = work.settings(phase)
    differing = {name: answer.get(name) for name in wanted if answer.get(name) != wanted[name]}
    if differing:
        raise RuntimeError(f"llama-bench timed other work: {differing}, wanted {wanted}")
    seconds = [ns / 1e9 for ns in answer["samples_ns"]]
    if len(seconds) != repetitions:
        raise RuntimeError(f"llama-bench repeated {len(seconds)} times, not {repetitions}")
    return seconds


def _unpack(source: Path) -> None:
    """The bindings' source distribution, without its outermost folder."""
    archive = fetch_wheel(
        Archive(PACKAGE, VERSION, SHA256, file=relative(__file__), is_wheel=False)
    )
    with atomic_directory(source) as work:
        shutil.unpack_archive(archive, work)
        (inner,) = work.iterdir()
        for path in inner.iterdir():
            path.rename(work / path.name)
        inner.rmdir()


def _run(arguments: Sequence[str]) -> None:
    """A step of the build; its output is progress.

    Raises:
        RunEnvironmentError: when the program is missing or fails.
    """
    try:
        subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=2,
            env=clean_environment(compiling=True),
            check=True,
        )
    except FileNotFoundError as error:
        raise RunEnvironmentError(
            f"{arguments[0]} is not installed", fix="pip install cmake, or apt-get install cmake"
        ) from error
    except subprocess.CalledProcessError as error:
        raise RunEnvironmentError(
            f"llama-bench cannot be built: {arguments[0]} ended with exit code {error.returncode}",
            fix="see its messages above, then run the same command again; it resumes",
        ) from error
