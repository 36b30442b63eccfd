# How far a score moves under perturbations that should not matter, on Transformers.
rule noise_transformers:
    input:
        weights="resources/models/{model}/{variant}/weights.json",
        base="resources/models/{model}/base/weights.json",
        dataset=inputs.dataset,
    output:
        "runs/{model}/{variant}/{hardware}/{protocol}/noise/{task}.json",
    log:
        "logs/noise/{model}/{variant}/{hardware}/{protocol}/{task}.log",
    wildcard_constraints:
        variant="base|gptq-4bit|awq-4bit",
        task=inputs.loglikelihood_tasks,
    priority: needs.priority
    conda:
        "../../envs/evaluate-transformers.yaml"
    threads: needs.threads
    resources:
        mem_mb=needs.memory_mb,
        gpu=needs.gpus,
    params:
        scoring=parameters.scoring,
        noise=parameters.noise,
    message:
        "Measure the noise of {wildcards.model} {wildcards.variant} on {wildcards.task} ({wildcards.protocol})"
    script:
        "../scripts/noise.py"


# The same on llama.cpp.
use rule noise_transformers as noise_llamacpp with:
    wildcard_constraints:
        variant="gguf-f16|gguf-q8_0|gguf-q4_k_m",
        task=inputs.loglikelihood_tasks,
    conda:
        "../../envs/evaluate-llamacpp.yaml"


# The noise floor of every planned score that config/noise.yaml names.
rule noise:
    input:
        inputs.noise,
