# Speed, memory and energy of all variants of a model, in one session with the machine to itself.
rule profile:
    input:
        weights=inputs.session_weights,
        base="resources/models/{model}/base/weights.json",
    output:
        "runs/{model}/sessions/{hardware}/{protocol}.json",
    log:
        "logs/profile/{model}/{hardware}/{protocol}.log",
    priority: needs.priority
    conda:
        "../../envs/profile.yaml"
    threads: needs.profile_threads
    resources:
        mem_mb=needs.memory_mb,
        gpu=needs.session_gpus,
    params:
        profiling=parameters.profiling,
    message:
        "Profile {wildcards.model} on {wildcards.hardware} ({wildcards.protocol})"
    script:
        "../scripts/profile.py"


# What the session found about one variant; nothing is measured.
rule performance:
    input:
        inputs.session,
    output:
        "runs/{model}/{variant}/{hardware}/{protocol}/performance.json",
    log:
        "logs/performance/{model}/{variant}/{hardware}/{protocol}.log",
    conda:
        "../../envs/profile.yaml"
    message:
        "Summarize the performance of {wildcards.model} {wildcards.variant} on {wildcards.hardware} ({wildcards.protocol})"
    script:
        "../scripts/performance.py"
