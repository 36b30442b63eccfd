# Speed, memory and energy of all variants of a model, in one session with the machine to itself.
rule profile:
    input:
        weights=asking(names.session_weights, "model"),
        base="resources/models/{model}/base/weights.json",
    output:
        "runs/{model}/sessions/{hardware}/{protocol}.json",
    log:
        "logs/profile/{model}/{hardware}/{protocol}.log",
    priority: asking(names.priority, "model")
    conda:
        "../../envs/profile.yaml"
    threads: asking(names.profile_threads(workflow.cores), "hardware")
    resources:
        mem_mb=asking(names.memory_mb, "model"),
        gpu=asking(names.session_gpus, "model", "hardware"),
    params:
        profiling=asking(names.profiling, "model", "hardware", "protocol"),
    message:
        "Profile {wildcards.model} on {wildcards.hardware} ({wildcards.protocol})"
    script:
        "../scripts/profile.py"


# What the session found about one variant; nothing is measured.
rule performance:
    input:
        asking(names.session, "model", "variant", "hardware", "protocol"),
    output:
        "runs/{model}/{variant}/{hardware}/{protocol}/performance.json",
    log:
        "logs/performance/{model}/{variant}/{hardware}/{protocol}.log",
    conda:
        "../../envs/profile.yaml"
    message:
        "Summarise the profile of {wildcards.model} {wildcards.variant} on {wildcards.hardware} ({wildcards.protocol})"
    script:
        "../scripts/performance.py"
