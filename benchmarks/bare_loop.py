"""What anyone would write to time a model in Transformers: the baseline of our repetition."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch


def bare(model: Any, prompt: Sequence[int], steps: int) -> tuple[float, float, list[int]]:
    """One forward over the prompt, then ``steps`` greedy forwards of one token, on the CPU.

    Nothing looks at a clock inside the loop. Logits are of the last token only, as the
    library's own loop asks for them.

    Args:
        model: A causal language model.
        prompt: Token ids.
        steps: Forwards after the prompt's.

    Returns:
        Seconds for the prompt, seconds for the steps, and the ``steps + 1`` generated tokens.
    """
    tokens = []
    with torch.inference_mode():
        began = time.perf_counter()
        out = model(input_ids=torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
        prompted = time.perf_counter()
        for _ in range(steps):
            tokens.append(out.logits[:, -1:].argmax(-1))
            cache = out.past_key_values
            out = model(input_ids=tokens[-1], past_key_values=cache, use_cache=True)
        tokens.append(out.logits[:, -1:].argmax(-1))
        ended = time.perf_counter()
    return prompted - began, ended - prompted, [int(token) for token in tokens]


def whole(model: Any, prompt: Sequence[int], steps: int) -> float:
    """Seconds that ``generate()`` takes for as many tokens, on the CPU.

    It puts off the end of the text, which the other loops ignore: from there on its tokens may be
    others.

    Raises:
        RuntimeError: when it generates fewer tokens.
    """
    ids, count = torch.tensor([prompt]), steps + 1
    began = time.perf_counter()
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        min_new_tokens=count,
        max_new_tokens=count,
    )
    seconds = time.perf_counter() - began
    if out.shape[1] != len(prompt) + count:
        raise RuntimeError(f"generate() made {out.shape[1] - len(prompt)} tokens, not {count}")
    return seconds
