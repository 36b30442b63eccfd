# Speed, memory and energy of a variant on Transformers; it takes all cores, so it runs alone.
rule profile_transformers:
    input:
        weights="resources/models/{model}/{variant}/weights.json",
        base="resources/models/{model}/base/weights.json",
    output:
        "runs/{model}/{variant}/{hardware}/performance.json",
    log:
        "logs/profile/{model}/{variant}/{hardware}.log",
    wildcard_constraints:
        variant="base|gptq-4bit|awq-4bit",
    priority: asking(names.priority, "model")
    conda:
        "../../envs/evaluate-transformers.yaml"
    threads: asking(names.profile_threads(workflow.cores), "hardware")
    resources:
        mem_mb=asking(names.memory_mb, "model"),
        gpu=asking(names.gpus, "variant", "hardware"),
    params:
        profiling=asking(names.profiling, "model", "variant", "hardware"),
    message:
        "Profile {wildcards.model} {wildcards.variant} on {wildcards.hardware}"
    script:
        "../scripts/profile.py"


# The same for the GGUF files on llama.cpp.
use rule profile_transformers as profile_llamacpp with:
    wildcard_constraints:
        variant="gguf-f16|gguf-q8_0|gguf-q4_k_m",
    conda:
        "../../envs/evaluate-llamacpp.yaml"
