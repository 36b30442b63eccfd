"""The files of a model that lies on this machine, and every way in which they can be missing."""

from __future__ import annotations

import os
from pathlib import Path

from slm_benchmark.catalog.model_cards import Model
from slm_benchmark.common.errors import UserError
from slm_benchmark.common.paths import ROOT
from slm_benchmark.download.origin import Origin


def local_source(model: Model) -> Path:
    """The folder, or the GGUF file, that a card with ``source.type: local`` names.

    Raises:
        UserError: when it is not there, is the other of the two, is empty or cannot be read.
    """
    origin = Origin.of(model)
    path = ROOT / str(model.source["path"])
    fix = "correct the path, relative to the repository's root or absolute"
    gguf = model.source["format"] == "gguf"
    if not path.exists():
        raise origin.refuse("there is no such " + ("file" if gguf else "folder"), fix)
    if gguf and path.is_dir():
        files = sorted(file.name for file in path.glob("*.gguf"))
        inside = f"which holds {', '.join(files)}" if files else "which holds no GGUF file"
        raise origin.refuse(f"this is a folder, {inside}", "name one GGUF file" if files else fix)
    if not gguf and not path.is_dir():
        what = "this is a file, and the format transformers is a folder"
        fitting = "write format: gguf" if path.suffix == ".gguf" else "name the folder of the file"
        raise origin.refuse(what, fitting)
    inside_it = [path] if gguf else [file for file in path.rglob("*") if file.is_file()]
    if not inside_it:
        raise origin.refuse("this folder is empty", "name the folder that holds the model")
    for file in [path, *inside_it]:
        if not os.access(file, os.R_OK):
            raise UserError(
                "no permission to read this file of the model",
                file=file,
                fix="give yourself permission to read it (chmod)",
            )
    return path
