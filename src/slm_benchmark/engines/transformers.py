"""Base, GPTQ and AWQ models on Transformers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

SCHEDULE = "one request per forward, no padding, no cache shared between requests"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Loaded:
    """A model on its device.

    Attributes:
        model: The Transformers model, in evaluation mode.
        kernel: Class name of the layers that hold the quantized (or plain linear) weights.
        dtype: Number format of the activations.
    """

    model: Any
    kernel: str
    dtype: str


def load_transformers(
    folder: Path, variant: str, dtype: str, device: str, trust_remote_code: bool = False
) -> Loaded:
    """Load a folder in Transformers format.

    Args:
        folder: The base model or a 4-bit variant of it.
        variant: Which of them.
        dtype: float32, bfloat16, float16, or auto (float16 on CUDA, float32 on a CPU).
        device: cpu or cuda.
        trust_remote_code: Whether the model's own code may run.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if dtype == "auto":
        dtype = "float16" if device == "cuda" else "float32"
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        device_map=device,
        trust_remote_code=trust_remote_code,
    )
    model.eval()
    classes = [type(module) for module in model.modules()]
    quantized = [c.__name__ for c in classes if c.__module__.startswith("gptqmodel")]
    linear = [name for name in quantized if "Linear" in name]
    return Loaded(model, linear[0] if linear else "Linear", str(model.dtype).removeprefix("torch."))


class ProgressHFLM(HFLM):  # type: ignore[misc]
    """The harness's own Transformers backend, one document at a time, telling how far it is.

    With one request in a forward and no padding, a document's numbers do not depend on which
    other documents are evaluated.

    Args:
        loaded: The model.
        tokenizer: Folder of the base model, whose tokenizer encodes for every weight format.
        max_length: Longest context and continuation together, in tokens.
        progress: Called after each document.
    """

    def __init__(
        self, loaded: Loaded, tokenizer: Path, max_length: int, progress: Progress
    ) -> None:
        from transformers import AutoTokenizer

        super().__init__(
            pretrained=loaded.model,
            tokenizer=AutoTokenizer.from_pretrained(tokenizer),
            batch_size=1,
            max_length=max_length,
        )
        self.progress = progress

    def _by_document(self, method: Callable[..., list[Any]], requests: list[Instance]) -> list[Any]:
        documents = [
            list(group)
            for _, group in itertools.groupby(requests, key=lambda r: (r.task_name, r.doc_id))
        ]
        answers: list[Any] = []
        for done, document in enumerate(documents, start=1):
            answers += method(document, disable_tqdm=True)
            self.progress(done, len(documents))
        return answers

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Any]:
        return self._by_document(super().loglikelihood, requests)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Any]:
        return self._by_document(super().generate_until, requests)
