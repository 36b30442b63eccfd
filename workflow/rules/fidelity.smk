# What the base model says about each position of the fixed text; all variants are compared with it.
rule fidelity_reference:
    input:
        base="resources/models/{model}/base/weights.json",
        text=inputs.fidelity_text,
        calibration=inputs.calibration,
    output:
        "resources/models/{model}/reference/reference.json",
    log:
        "logs/fidelity/{model}/reference.log",
    priority: needs.priority
    conda:
        "../../envs/evaluate-transformers.yaml"
    threads: needs.run_threads
    resources:
        mem_mb=needs.memory_mb,
        gpu=needs.run_gpus,
    params:
        reference=parameters.fidelity_reference,
    message:
        "Keep the logits of {wildcards.model} on the fixed text"
    script:
        "../scripts/fidelity_reference.py"


# How far a variant lies from its base: GPTQ and AWQ, on Transformers.
rule fidelity_transformers:
    input:
        weights="resources/models/{model}/{variant}/weights.json",
        base="resources/models/{model}/base/weights.json",
        reference="resources/models/{model}/reference/reference.json",
    output:
        "runs/{model}/{variant}/fidelity.json",
    log:
        "logs/fidelity/{model}/{variant}.log",
    wildcard_constraints:
        variant="gptq-4bit|awq-4bit",
    priority: needs.priority
    conda:
        "../../envs/evaluate-transformers.yaml"
    threads: needs.run_threads
    resources:
        mem_mb=needs.memory_mb,
        gpu=needs.run_gpus,
    params:
        fidelity=parameters.fidelity,
    message:
        "Compare {wildcards.model} {wildcards.variant} with its base, token by token"
    script:
        "../scripts/fidelity.py"


# The same on llama.cpp: the GGUF files.
use rule fidelity_transformers as fidelity_llamacpp with:
    wildcard_constraints:
        variant="gguf-f16|gguf-q8_0|gguf-q4_k_m",
    conda:
        "../../envs/evaluate-llamacpp.yaml"
    resources:
        mem_mb=needs.memory_mb,
        gpu=0,
