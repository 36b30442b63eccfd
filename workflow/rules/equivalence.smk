# The gate before GGUF rows: the F16 file and the base model agree on fixed documents.
rule check_equivalence:
    input:
        base="resources/models/{model}/base/weights.json",
        f16="resources/models/{model}/gguf-f16/weights.json",
        datasets=names.equivalence_datasets(),
    output:
        "runs/{model}/equivalence.json",
    log:
        "logs/equivalence/{model}.log",
    priority: asking(names.priority, "model")
    conda:
        "../../envs/equivalence.yaml"
    threads: names.threads(plan.hardware)
    resources:
        mem_mb=asking(names.memory_mb, "model"),
        gpu=names.gpus("base", plan.hardware),
    params:
        comparison=asking(names.comparison, "model"),
    message:
        "Check that the F16 file of {wildcards.model} equals its base"
    script:
        "../scripts/check_equivalence.py"
