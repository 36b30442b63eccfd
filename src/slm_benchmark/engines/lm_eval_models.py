"""The engines under the names that ``lm_eval --model`` knows them by.

`slm_benchmark.engines.lm_eval_plugin` makes the names known; importing this module does too.
"""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slm_benchmark.common import progress
from slm_benchmark.common.errors import UserError, require_known
from slm_benchmark.common.files import digest, sha256_file
from slm_benchmark.common.machine import default_threads
from slm_benchmark.engines import lm_eval_plugin
from slm_benchmark.engines.identity import Name, sources_sha256
from slm_benchmark.engines.journal import Journal
from slm_benchmark.engines.lm import BenchmarkLM
from slm_benchmark.engines.load import load_engine
from slm_benchmark.engines.settings import Settings
from slm_benchmark.records.hardware import describe, fingerprint
from slm_benchmark.records.provenance import RECORDED_PACKAGES, environment_identity
from slm_benchmark.records.types import EngineBlock

DEFAULT_MAX_LENGTH = 4096
"""Window where none is asked for and the model allows more; memory grows with it."""

_TOKENIZER_FILES = (
    ("tokenizer.json", "tokenizer_config.json"),
    ("generation_config.json", "config.json"),  # with the tokens that end an answer
)
"""What a tokenizer's folder must hold: one of each."""

_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth")
"""Endings of files in a tokenizer's folder that no tokenizer reads."""


@dataclass(frozen=True)
class RegisteredEngine:
    """What the harness's registry holds: makes a language model from ``--model_args``.

    Attributes:
        name: As in ``lm_eval --model``.
        engine: As in `load_engine`.
        arguments: Names of the arguments that it takes.
    """

    name: str
    engine: Name
    arguments: tuple[str, ...]

    def create_from_arg_string(
        self, arg_string: str, additional_config: Mapping[str, Any] | None = None
    ) -> BenchmarkLM:
        """As the harness's ``LM.create_from_arg_string``."""
        from lm_eval.utils import simple_parse_args_string

        return self.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    def create_from_arg_obj(
        self, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> BenchmarkLM:
        """As the harness's ``LM.create_from_arg_obj``.

        Args:
            arg_dict: What ``--model_args`` says.
            additional_config: batch_size, max_batch_size and device, of options of their own.
        """
        return self(**{**(additional_config or {}), **arg_dict})

    def __call__(self, **arguments: Any) -> BenchmarkLM:
        """Load a model.

        Raises:
            UserError: for an unknown argument, a bad value, or files that are not there.
        """
        for option in ("batch_size", "max_batch_size"):
            if arguments.pop(option, None) not in (None, 1, "1"):
                progress.say(
                    f"{self.name}: {option} has no effect; which tokens run together follows from "
                    "a document alone, so that its scores do too"
                )
        model_args = {key: value for key, value in arguments.items() if value is not None}
        for key in model_args:
            require_known("argument", key, self.arguments, "--model_args", key)
        if "pretrained" not in model_args:
            raise _bad("pretrained", None, "no model is named", "add pretrained=PATH")
        weights = self._weights(_path(model_args["pretrained"]))
        tokenizer = self._tokenizer(model_args.get("tokenizer"), weights)
        settings = self._settings(model_args, weights)
        # gptqmodel crashes with fewer, and reads this when it is imported.
        os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(max(2, settings.threads)))

        def open_journal(engine: EngineBlock) -> Journal:
            identity = {"engine": engine, **_decisive(weights, tokenizer, settings)}
            path = _path(model_args["resume"]) / f"{self.name}-{digest(identity)[:16]}.jsonl"
            journal = Journal(path, identity)
            progress.say(f"{path}: {len(journal)} answers from before")
            return journal

        engine = load_engine(
            self.engine,
            weights,
            tokenizer,
            settings,
            progress=progress.documents(weights.name),
            journal=open_journal if "resume" in model_args else None,
        )
        lm: BenchmarkLM = engine.lm
        info = {"engine": engine.identity}
        # The harness copies this into its results.
        lm.get_model_info = lambda: info
        weakref.finalize(lm, lm.model.close)
        return lm

    def _weights(self, path: Path) -> Path:
        """The GGUF file, or the folder in Transformers format."""
        if not path.exists():
            raise _bad(
                "pretrained",
                str(path),
                "there is no such file or folder",
                "give the path of a model on this machine; nothing is downloaded here",
            )
        is_transformers = (path / "config.json").exists()
        files = [path] if path.suffix == ".gguf" else sorted(path.glob("*.gguf"))
        if self.engine == "transformers":
            if is_transformers:
                return path
            fix = "use --model slm-llamacpp" if files else "give a folder with a config.json"
            raise _bad("pretrained", str(path), "not a folder in Transformers format", fix)
        if files and (files == [path] or files == _parts(files[0])):
            return files[0]
        if files:
            names = ", ".join(file.name for file in files)
            raise _bad("pretrained", str(path), "several GGUF models", f"give one file of {names}")
        fix = "use --model slm-transformers" if is_transformers else "give a GGUF file"
        raise _bad("pretrained", str(path), "not a GGUF file, and no folder with one", fix)

    def _tokenizer(self, folder_argument: Any, weights: Path) -> Path:
        if folder_argument is None and self.engine == "llama.cpp":
            raise _bad(
                "tokenizer",
                None,
                "a GGUF model needs the folder of its base model's tokenizer, which encodes for "
                "every format, so that all formats answer the same tokens",
                "add tokenizer=FOLDER, with the tokenizer.json and config.json of the base model",
            )
        folder = weights if folder_argument is None else _path(folder_argument)
        for either in _TOKENIZER_FILES:
            if not any((folder / name).exists() for name in either):
                missing = f"the folder has no {' or '.join(either)}"
                raise _bad("tokenizer", str(folder), missing, "give the base model's folder")
        return folder

    def _settings(self, model_args: Mapping[str, Any], weights: Path) -> Settings:
        trust = _choice(model_args, "trust_remote_code", (False, True))
        if self.engine == "llama.cpp":
            window = _gguf_window(weights)
        else:
            window = _transformers_window(weights, trust)
        max_length = _number(model_args, "max_length", 2) or min(
            window or DEFAULT_MAX_LENGTH, DEFAULT_MAX_LENGTH
        )
        if window and max_length > window:
            fix = f"use at most {window}"
            raise _bad("max_length", max_length, "longer than the model's window", fix)
        budget_mb = _number(model_args, "memory_budget_mb", 1)
        return Settings(
            max_length=max_length,
            threads=_number(model_args, "threads", 1) or default_threads(),
            dtype=_choice(model_args, "dtype", ("auto", "float32", "bfloat16", "float16")),
            device=self._device(model_args),
            trust_remote_code=trust,
            seed=_number(model_args, "seed", 0) or 0,
            memory_budget_bytes=None if budget_mb is None else budget_mb * 1_000_000,
        )

    def _device(self, model_args: Mapping[str, Any]) -> str:
        # lm_eval says cuda:0 where nobody chose a device.
        chosen = {k: v for k, v in model_args.items() if k == "device" and v != "cuda:0"}
        if self.engine == "llama.cpp":
            return str(_choice(chosen, "device", ("cpu",)))
        import torch

        devices = ("cuda", "cpu") if torch.cuda.is_available() else ("cpu",)
        return str(_choice(chosen, "device", devices))


_ARGUMENTS = ("pretrained", "tokenizer", "max_length", "threads", "memory_budget_mb", "seed")
_LAST = ("resume", "device", "trust_remote_code", "batch_size", "max_batch_size")

SlmLlamaCpp = RegisteredEngine("slm-llamacpp", "llama.cpp", (*_ARGUMENTS, *_LAST))
SlmTransformers = RegisteredEngine(
    "slm-transformers", "transformers", (*_ARGUMENTS, "dtype", *_LAST)
)


def _decisive(weights: Path, tokenizer: Path, settings: Settings) -> dict[str, object]:
    """Everything but the engine that decides an answer; the memory budget does not."""
    files = _parts(weights) if weights.is_file() else _all_files(weights)
    others = [file for file in _all_files(tokenizer) if file.suffix not in _WEIGHTS]
    return {
        "weights": {file.name: sha256_file(file) for file in files},
        "tokenizer": {file.name: sha256_file(file) for file in others},
        "settings": {k: v for k, v in asdict(settings).items() if k != "memory_budget_bytes"},
        "environment": environment_identity(RECORDED_PACKAGES),
        "machine": fingerprint(describe()),
        "sources": sources_sha256(),
    }


def _bad(argument: str, value: Any, message: str, fix: str) -> UserError:
    if value is None:
        return UserError(message, file="--model_args", field=argument, fix=fix)
    return UserError(message, file="--model_args", field=argument, value=value, fix=fix)


def _path(value: Any) -> Path:
    # The harness turns a name such as 2024 into a number; the shell expands no ~ after a =.
    return Path(str(value)).expanduser()


def _number(model_args: Mapping[str, Any], argument: str, least: int) -> int | None:
    value = model_args.get(argument)
    if value is None or (type(value) is int and value >= least):
        return value
    raise _bad(argument, value, "not a number that can be used", f"give a whole number ≥ {least}")


def _choice(model_args: Mapping[str, Any], argument: str, allowed: tuple[Any, ...]) -> Any:
    """The given value; the first of the allowed ones where there is none."""
    value = model_args.get(argument, allowed[0])
    if value in allowed:
        return value
    fix = f"use {' or '.join(map(str, allowed))}"
    raise _bad(argument, value, "the engine does not have this here", fix)


def _parts(file: Path) -> list[Path]:
    """The files of a GGUF model, which may be split into several."""
    stem, parts = re.subn(r"-\d{5}-of-(\d{5})$", r"-?????-of-\1", file.stem)
    return sorted(file.parent.glob(f"{stem}.gguf")) if parts else [file]


def _all_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file())


def _gguf_window(file: Path) -> int | None:
    """Longest context that a GGUF file names, in tokens."""
    from llama_cpp import llama_cpp as api

    from slm_benchmark.engines.llama_binding import load_model, metadata_number

    parameters = api.llama_model_default_params()
    parameters.vocab_only = True
    try:
        model, _ = load_model(file, parameters)
    except UserError:
        return None  # loading the weights says why
    window = metadata_number(model, "context_length")
    api.llama_model_free(model)
    return window


def _transformers_window(folder: Path, trust_remote_code: bool) -> int | None:
    """Longest context that a model's configuration names, in tokens."""
    from lm_eval.models.utils import resolve_max_length
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    return int(resolve_max_length(config, default=0)) or None


lm_eval_plugin.register()
