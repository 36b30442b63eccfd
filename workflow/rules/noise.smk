# How far a score moves under perturbations that should not matter, on Transformers.
rule noise_transformers:
    input:
        weights="resources/models/{model}/{variant}/weights.json",
        base="resources/models/{model}/base/weights.json",
        dataset=asking(names.dataset, "task", "protocol"),
    output:
        "runs/{model}/{variant}/{hardware}/{protocol}/noise/{task}.json",
    log:
        "logs/noise/{model}/{variant}/{hardware}/{protocol}/{task}.log",
    wildcard_constraints:
        variant="base|gptq-4bit|awq-4bit",
        task=names.task_pattern("loglikelihood"),
    priority: asking(names.priority, "model")
    conda:
        "../../envs/evaluate-transformers.yaml"
    threads: asking(names.threads, "hardware")
    resources:
        mem_mb=asking(names.memory_mb, "model"),
        gpu=asking(names.gpus, "variant", "hardware"),
    params:
        scoring=asking(names.scoring, "model", "variant", "protocol", "task"),
        noise=asking(names.noise_choices, "task", "protocol"),
    message:
        "Measure the noise of {wildcards.model} {wildcards.variant} on {wildcards.task} ({wildcards.protocol})"
    script:
        "../scripts/noise.py"


# The same on llama.cpp.
use rule noise_transformers as noise_llamacpp with:
    wildcard_constraints:
        variant="gguf-f16|gguf-q8_0|gguf-q4_k_m",
        task=names.task_pattern("loglikelihood"),
    conda:
        "../../envs/evaluate-llamacpp.yaml"


# The noise floor of every planned score that config/noise.yaml names.
rule noise:
    input:
        names.noise(),
