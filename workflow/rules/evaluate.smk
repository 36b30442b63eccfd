# One task of likelihoods on a variant that Transformers runs: base, GPTQ, AWQ.
rule evaluate_transformers:
    input:
        weights="resources/models/{model}/{variant}/weights.json",
        base="resources/models/{model}/base/weights.json",
        dataset=inputs.dataset,
    output:
        record="runs/{model}/{variant}/{hardware}/{protocol}/{task}.json",
        documents="runs/{model}/{variant}/{hardware}/{protocol}/{task}.documents.json",
        samples="runs/{model}/{variant}/{hardware}/{protocol}/{task}.samples.parquet",
    log:
        "logs/evaluate/{model}/{variant}/{hardware}/{protocol}/{task}.log",
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
    message:
        "Evaluate {wildcards.model} {wildcards.variant} on {wildcards.task} ({wildcards.protocol})"
    script:
        "../scripts/evaluate.py"


# The same on a variant that llama.cpp runs: the GGUF files.
use rule evaluate_transformers as evaluate_llamacpp with:
    wildcard_constraints:
        variant="gguf-f16|gguf-q8_0|gguf-q4_k_m",
        task=inputs.loglikelihood_tasks,
    conda:
        "../../envs/evaluate-llamacpp.yaml"


# The texts that a variant on Transformers answers to one task; nothing is scored yet.
rule generate_transformers:
    input:
        weights="resources/models/{model}/{variant}/weights.json",
        base="resources/models/{model}/base/weights.json",
        dataset=inputs.dataset,
        resources=inputs.task_resources,
    output:
        record="runs/{model}/{variant}/{hardware}/{protocol}/{task}.answers.json",
        answers="runs/{model}/{variant}/{hardware}/{protocol}/{task}.answers.parquet",
    log:
        "logs/generate/{model}/{variant}/{hardware}/{protocol}/{task}.log",
    wildcard_constraints:
        variant="base|gptq-4bit|awq-4bit",
        task=inputs.generation_tasks,
    priority: needs.priority
    conda:
        "../../envs/evaluate-transformers.yaml"
    threads: needs.threads
    resources:
        mem_mb=needs.memory_mb,
        gpu=needs.gpus,
    params:
        scoring=parameters.scoring,
    message:
        "Generate {wildcards.model} {wildcards.variant} on {wildcards.task} ({wildcards.protocol})"
    script:
        "../scripts/generate.py"


# The same for the GGUF files on llama.cpp.
use rule generate_transformers as generate_llamacpp with:
    wildcard_constraints:
        variant="gguf-f16|gguf-q8_0|gguf-q4_k_m",
        task=inputs.generation_tasks,
    conda:
        "../../envs/evaluate-llamacpp.yaml"


# The score of stored generations: no model, on this machine or another one.
rule score:
    input:
        answers=inputs.generations,
        dataset=inputs.dataset,
        texts=inputs.generation_rows,
        tools=inputs.scoring_inputs,
    output:
        record="runs/{model}/{variant}/{hardware}/{protocol}/{task}.json",
        documents="runs/{model}/{variant}/{hardware}/{protocol}/{task}.documents.json",
        samples="runs/{model}/{variant}/{hardware}/{protocol}/{task}.samples.parquet",
    log:
        "logs/score/{model}/{variant}/{hardware}/{protocol}/{task}.log",
    wildcard_constraints:
        task=inputs.generation_tasks,
    priority: needs.priority
    conda:
        "../../envs/score.yaml"
    threads: needs.judge_threads
    resources:
        mem_mb=4000,
    params:
        scoring=parameters.judging,
    message:
        "Score {wildcards.model} {wildcards.variant} on {wildcards.task} ({wildcards.protocol})"
    script:
        "../scripts/score.py"
