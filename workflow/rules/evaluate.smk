# One task on a variant that Transformers runs: base, GPTQ, AWQ.
rule evaluate_transformers:
    input:
        weights="resources/models/{model}/{variant}/weights.json",
        base="resources/models/{model}/base/weights.json",
        dataset=asking(names.dataset, "task", "protocol"),
    output:
        record="runs/{model}/{variant}/{hardware}/{protocol}/{task}.json",
        documents="runs/{model}/{variant}/{hardware}/{protocol}/{task}.documents.json",
        samples="runs/{model}/{variant}/{hardware}/{protocol}/{task}.samples.parquet",
    log:
        "logs/evaluate/{model}/{variant}/{hardware}/{protocol}/{task}.log",
    wildcard_constraints:
        variant="base|gptq-4bit|awq-4bit",
    priority: asking(names.priority, "model")
    conda:
        "../../envs/evaluate-transformers.yaml"
    threads: asking(names.threads, "hardware")
    resources:
        mem_mb=asking(names.memory_mb, "model"),
        gpu=asking(names.gpus, "variant", "hardware"),
    params:
        scoring=asking(names.scoring, "model", "variant", "protocol", "task"),
    message:
        "Evaluate {wildcards.model} {wildcards.variant} on {wildcards.task} ({wildcards.protocol})"
    script:
        "../scripts/evaluate.py"


# One task on a variant that llama.cpp runs: the GGUF files.
use rule evaluate_transformers as evaluate_llamacpp with:
    wildcard_constraints:
        variant="gguf-f16|gguf-q8_0|gguf-q4_k_m",
    conda:
        "../../envs/evaluate-llamacpp.yaml"
