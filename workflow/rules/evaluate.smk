# One task of likelihoods on a variant that Transformers runs: base, GPTQ, AWQ.
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
    message:
        "Evaluate {wildcards.model} {wildcards.variant} on {wildcards.task} ({wildcards.protocol})"
    script:
        "../scripts/evaluate.py"


# The same on a variant that llama.cpp runs: the GGUF files.
use rule evaluate_transformers as evaluate_llamacpp with:
    wildcard_constraints:
        variant="gguf-f16|gguf-q8_0|gguf-q4_k_m",
        task=names.task_pattern("loglikelihood"),
    conda:
        "../../envs/evaluate-llamacpp.yaml"


# The texts that a variant on Transformers answers to one task; nothing is scored yet.
rule generate_transformers:
    input:
        weights="resources/models/{model}/{variant}/weights.json",
        base="resources/models/{model}/base/weights.json",
        dataset=asking(names.dataset, "task", "protocol"),
        resources=asking(names.resources, "task"),
    output:
        record="runs/{model}/{variant}/{hardware}/{protocol}/{task}.answers.json",
        answers="runs/{model}/{variant}/{hardware}/{protocol}/{task}.answers.parquet",
    log:
        "logs/generate/{model}/{variant}/{hardware}/{protocol}/{task}.log",
    wildcard_constraints:
        variant="base|gptq-4bit|awq-4bit",
        task=names.task_pattern("generate"),
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
        "Generate {wildcards.model} {wildcards.variant} on {wildcards.task} ({wildcards.protocol})"
    script:
        "../scripts/generate.py"


# The same for the GGUF files on llama.cpp.
use rule generate_transformers as generate_llamacpp with:
    wildcard_constraints:
        variant="gguf-f16|gguf-q8_0|gguf-q4_k_m",
        task=names.task_pattern("generate"),
    conda:
        "../../envs/evaluate-llamacpp.yaml"


# The score of kept answers: no model, on this machine or another one.
rule score:
    input:
        answers=asking(
            names.answers, "model", "variant", "hardware", "protocol", "task"
        ),
        dataset=asking(names.dataset, "task", "protocol"),
        texts=asking(names.texts, "model", "variant", "hardware", "protocol", "task"),
        tools=asking(names.scorer, "task", "protocol"),
    output:
        record="runs/{model}/{variant}/{hardware}/{protocol}/{task}.json",
        documents="runs/{model}/{variant}/{hardware}/{protocol}/{task}.documents.json",
        samples="runs/{model}/{variant}/{hardware}/{protocol}/{task}.samples.parquet",
    log:
        "logs/score/{model}/{variant}/{hardware}/{protocol}/{task}.log",
    wildcard_constraints:
        task=names.task_pattern("generate"),
    priority: asking(names.priority, "model")
    conda:
        "../../envs/score.yaml"
    threads: asking(names.judge_threads, "task", "hardware")
    resources:
        mem_mb=4000,
    params:
        scoring=asking(names.judging, "task", "protocol"),
    message:
        "Score {wildcards.model} {wildcards.variant} on {wildcards.task} ({wildcards.protocol})"
    script:
        "../scripts/score.py"
