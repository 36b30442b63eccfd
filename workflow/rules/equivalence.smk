# The gate before GGUF rows: the F16 file and the base model agree on fixed documents.
rule check_equivalence:
    input:
        base="resources/models/{model}/base/weights.json",
        f16="resources/models/{model}/gguf-f16/weights.json",
        datasets=inputs.equivalence_datasets,
    output:
        "runs/{model}/equivalence.json",
    log:
        "logs/equivalence/{model}.log",
    priority: needs.priority
    conda:
        "../../envs/equivalence.yaml"
    threads: needs.run_threads
    resources:
        mem_mb=needs.memory_mb,
        gpu=needs.run_gpus,
    params:
        comparison=parameters.comparison,
    message:
        "Check that the F16 file of {wildcards.model} equals its base"
    script:
        "../scripts/check_equivalence.py"
