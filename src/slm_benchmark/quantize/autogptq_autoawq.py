"""GPTQ and AWQ through their original libraries, auto-gptq and autoawq: archived, for CUDA only.

These run in envs/quantize-legacy.yaml. They need a GPU and have not been run by this project's
tests; gptqmodel is the default.
"""

from __future__ import annotations

import time
from pathlib import Path

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import atomic_directory
from slm_benchmark.quantize.calibration import Calibration
from slm_benchmark.quantize.manifest_4bit import BITS, SYMMETRIC, FourBitJob, write_4bit_manifest
from slm_benchmark.records.provenance import versions

_LIBRARIES = {"gptq": "auto-gptq", "awq": "autoawq"}


def quantize_4bit_legacy(job: FourBitJob, target: Path, threads: int) -> None:
    """Quantize with auto-gptq (gptq-4bit) or autoawq (awq-4bit).

    Arguments and errors are those of `quantize_4bit`.

    Raises:
        UserError: when there is no GPU, a group size does not fit, or the logits are not finite.
    """
    import torch

    method = job.method
    if not torch.cuda.is_available():
        raise UserError(
            f"{_LIBRARIES[method]} needs a CUDA device",
            file="config/config.yaml",
            field=f"quantization.{method}_backend",
            value=_LIBRARIES[method],
            fix="use gptqmodel",
        )
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    size = job.fitting_group_size()
    began = time.monotonic()
    run = _run_auto_gptq if method == "gptq" else _run_autoawq
    with atomic_directory(target) as work:
        kernel = run(job.base, work, job.calibration, size, job.model.trust_remote_code)
        libraries = versions(_LIBRARIES[method], "torch", "transformers")
        write_4bit_manifest(work, job, size, kernel, libraries, time.monotonic() - began)


def _run_auto_gptq(
    base: Path, work: Path, calibration: Calibration, size: int, trust_remote_code: bool
) -> str:
    import torch
    from auto_gptq import AutoGPTQForCausalLM, BaseQuantizeConfig

    config = BaseQuantizeConfig(bits=BITS, group_size=size, sym=SYMMETRIC["gptq"], desc_act=False)
    loaded = AutoGPTQForCausalLM.from_pretrained(
        str(base), config, trust_remote_code=trust_remote_code
    )
    loaded.quantize(
        [
            {"input_ids": torch.tensor([row]), "attention_mask": torch.ones(1, len(row))}
            for row in calibration.rows
        ]
    )
    loaded.save_quantized(str(work), use_safetensors=True)
    return _check_forward(loaded.model.cuda(), calibration)


def _run_autoawq(
    base: Path, work: Path, calibration: Calibration, size: int, trust_remote_code: bool
) -> str:
    from awq import AutoAWQForCausalLM

    from slm_benchmark.download.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(base)
    loaded = AutoAWQForCausalLM.from_pretrained(str(base), trust_remote_code=trust_remote_code)
    settings = {"zero_point": True, "q_group_size": size, "w_bit": BITS, "version": "GEMM"}
    # The library encodes its texts again, so it gets them as text.
    texts = [tokenizer.decode(row) for row in calibration.rows]
    loaded.quantize(tokenizer, quant_config=settings, calib_data=texts)
    loaded.save_quantized(str(work))
    return _check_forward(loaded.model.cuda(), calibration)


def _check_forward(quantized: object, calibration: Calibration) -> str:
    """One forward pass; the class name of the quantized layers.

    Raises:
        UserError: when a logit is not finite.
    """
    import torch

    assert isinstance(quantized, torch.nn.Module)
    with torch.inference_mode():
        logits = quantized(torch.tensor([calibration.rows[0][:32]]).cuda()).logits
    if not torch.isfinite(logits).all():
        raise UserError(
            "the quantized model's logits are not finite",
            fix="take this variant out of the card's quantizations and report the model",
        )
    names = [type(module).__name__ for module in quantized.modules()]
    return next((name for name in names if "Quant" in name or "WQLinear" in name), "unknown")
