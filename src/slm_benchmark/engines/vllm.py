"""Base, GPTQ and AWQ models on vLLM, through the harness's own backend: for throughput on a GPU.

vLLM decides for itself which requests run together, and is not batch-invariant: a score may depend
on what else is in its batch. That is why it is an engine of its own, which only a protocol that
names it uses.
"""

from __future__ import annotations

import importlib.util
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from slm_benchmark.common.errors import NotApplicable, UserError
from slm_benchmark.common.files import read_json
from slm_benchmark.engines.engine import Engine
from slm_benchmark.engines.identity import VERSIONS
from slm_benchmark.engines.settings import Settings
from slm_benchmark.records.types import EngineBlock

MEMORY_SHARE = 0.9
"""Share of the GPU's memory that vLLM takes for the weights and its cache."""

SEQUENCES = 256
"""Most sequences that run together: a fixed number, where vLLM would choose by the GPU."""

BATCH_INVARIANT = "VLLM_BATCH_INVARIANT"
"""Variable of the environment that, set to 1, makes vLLM take kernels that do not depend on the
batch, on the GPUs that it has them for (docs.vllm.ai, Batch Invariance)."""


class VllmEngine(Engine):
    """A model on vLLM, ready to be asked by the harness."""

    def close(self) -> None:
        """Nothing: vLLM gives its memory back when the process ends."""


def vllm_arguments(weights: Path, tokenizer: Path, settings: Settings) -> dict[str, Any]:
    """Arguments of lm_eval's ``VLLM`` for a variant.

    Args:
        weights: Folder of the base model or of a 4-bit variant.
        tokenizer: Folder of the base model.
        settings: How to run it; ``auto`` is float16, as for every model on CUDA here.
    """
    return {
        "pretrained": str(weights),
        "tokenizer": str(tokenizer),
        "dtype": "float16" if settings.dtype == "auto" else settings.dtype,
        # Named, so that the kernel is the same on every GPU; vLLM would choose by the GPU.
        "quantization": _quantization(weights),
        "max_model_len": settings.max_length,
        "seed": settings.seed,
        "trust_remote_code": settings.trust_remote_code,
        "batch_size": "auto",
        "max_num_seqs": SEQUENCES,
        "gpu_memory_utilization": MEMORY_SHARE,
        # What is cached would depend on the documents before.
        "enable_prefix_caching": False,
    }


def load_vllm(weights: Path, tokenizer: Path, settings: Settings) -> VllmEngine:
    """Load a variant on vLLM.

    Args:
        weights: Folder of the base model or of a 4-bit variant.
        tokenizer: Folder of the base model.
        settings: How to run it.

    Raises:
        UserError: when vLLM is not installed, or there is no CUDA device.
    """
    _check_gpu()
    arguments = vllm_arguments(weights, tokenizer, settings)
    invariant = os.environ.get(BATCH_INVARIANT) == "1"
    identity: EngineBlock = {
        "name": "vllm",
        "version": f"{version('vllm')} (engine {VERSIONS['vllm']})",
        "kernel": arguments["quantization"],
        "dtype": arguments["dtype"],
        "threads": settings.threads,
        "schedule": f"vLLM's own batches of up to {SEQUENCES} sequences, no prefix reused; "
        + ("kernels that do not depend on the batch" if invariant else "depends on the batch"),
    }
    return VllmEngine(_backend_class()(**arguments), identity, settings)


def _backend_class() -> Any:
    """The harness's backend, with what an evaluation asks about requests."""
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.models.vllm_causallms import VLLM

    from slm_benchmark.download.chat_template import ChatTemplate
    from slm_benchmark.download.tokenizer import load_tokenizer
    from slm_benchmark.engines.base_tokenizer import BaseTokenizer
    from slm_benchmark.engines.lm import (
        DEFAULT_MAX_GEN_TOKS,
        BenchmarkLM,
        Document,
        count_reasoning,
        thinks_before_options,
    )
    from slm_benchmark.engines.reasoning import opens_reasoning

    class BenchmarkVLLM(VLLM):  # type: ignore[misc]
        encode = BenchmarkLM.encode
        chat_template = BenchmarkLM.chat_template
        apply_chat_template = BenchmarkLM.apply_chat_template
        unfinished = None  # the harness keeps texts only

        def __init__(self, **arguments: Any) -> None:
            folder, trust = Path(arguments["tokenizer"]), arguments["trust_remote_code"]
            hub = load_tokenizer(folder, trust)
            super().__init__(**arguments)
            self.text = BaseTokenizer(folder, hub)
            self.chat = ChatTemplate(hub, folder)
            self.reasoning: dict[Document, int] = {}
            if self.text.hub.eos_token_id is None:
                raise NotApplicable(
                    "vLLM's backend needs an EOS token",
                    file=folder / "tokenizer_config.json",
                    field="eos_token",
                    value=None,
                    fix="choose a protocol with another engine",
                )
            self.truncated: set[Document] = set()

        def tok_encode(
            self, string: Any, add_special_tokens: bool | None = None, **options: Any
        ) -> Any:
            """Token ids of a text, or of each text of several."""
            if not isinstance(string, str):
                return [self.tok_encode(one, add_special_tokens) for one in string]
            if add_special_tokens is None:
                return self.text.encode(string)
            return self.text.encode_plain(string, add_special_tokens)

        def modify_gen_kwargs(self, *arguments: Any, **options: Any) -> Any:
            """As the harness's, with every end token and without empty stop strings."""
            settings, until, limit = VLLM.modify_gen_kwargs(*arguments, **options)
            settings["stop_token_ids"] = sorted(self.text.end_tokens)
            return settings, [stop for stop in until if stop], limit

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> Any:
            if self.chat.in_use and any(opens_reasoning(request.args[0]) for request in requests):
                raise thinks_before_options(self.chat)
            for request in requests:
                # vLLM reads the last token too, and generates one.
                tokens = sum(map(len, self.encode(*request.args))) + 1
                self._note(request, tokens)
            return super().loglikelihood(requests, disable_tqdm)

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> Any:
            for request in requests:
                prompt, gen_kwargs = request.args
                if gen_kwargs.get("num_beams", 1) != 1:
                    raise NotApplicable(
                        "vLLM's backend has no beams",
                        field="generation_kwargs.num_beams",
                        value=gen_kwargs["num_beams"],
                        fix="choose a protocol with another engine",
                    )
                gen_kwargs.pop("num_beams", None)
                limit = normalize_gen_kwargs(dict(gen_kwargs), DEFAULT_MAX_GEN_TOKS)["max_gen_toks"]
                self._note(request, len(self.tok_encode(prompt)) + int(limit))
            texts = super().generate_until(requests, disable_tqdm)
            if not self.chat.in_use:
                return texts
            pairs = zip(requests, texts, strict=True)
            return [count_reasoning(self.reasoning, request, text) for request, text in pairs]

        def _note(self, request: Any, tokens: int) -> None:
            if tokens > self.max_length:
                self.truncated.add((request.task_name, request.doc_id))

        def tokens(self) -> None:
            """Null: vLLM does not tell what it forwards."""

    return BenchmarkVLLM


def _check_gpu() -> None:
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            "vLLM is not installed; it needs an environment of its own, with CUDA",
            fix="install lm-eval[vllm] there (docs/how-to/lm-eval.md), or choose another protocol",
        )
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            "vLLM needs a CUDA device, and PyTorch finds none",
            fix="run on a machine with a GPU and PyTorch's CUDA build, or choose another protocol",
        )


def _quantization(weights: Path) -> str | None:
    """gptq or awq, as a 4-bit variant's configuration says; None for a base model.

    Raises:
        UserError: for a folder without a config.json, such as that of a GGUF variant.
    """
    described = read_json(weights / "config.json").get("quantization_config")
    return None if described is None else str(described["quant_method"])
