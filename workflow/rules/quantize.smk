# llama.cpp's converter, from the source archive of the bindings that will run the file.
rule fetch_converter:
    output:
        "resources/tools/llama.cpp/manifest.json",
    log:
        "logs/fetch_converter.log",
    conda:
        "../../envs/gguf.yaml"
    message:
        "Fetch llama.cpp's converter"
    script:
        "../scripts/fetch_converter.py"


# The base model as a float16 GGUF file.
rule convert_to_gguf:
    input:
        base="resources/models/{model}/base/weights.json",
        converter="resources/tools/llama.cpp/manifest.json",
    output:
        manifest="resources/models/{model}/gguf-f16/manifest.json",
        weights="resources/models/{model}/gguf-f16/weights.json",
    log:
        "logs/quantize/{model}/gguf-f16.log",
    conda:
        "../../envs/gguf.yaml"
    resources:
        mem_mb=needs.memory_mb,
    message:
        "Convert {wildcards.model} to GGUF"
    script:
        "../scripts/convert_to_gguf.py"


# Q8_0 and Q4_K_M from the float16 GGUF file.
rule quantize_gguf:
    input:
        base="resources/models/{model}/base/weights.json",
        f16="resources/models/{model}/gguf-f16/weights.json",
    output:
        manifest="resources/models/{model}/{variant}/manifest.json",
        weights="resources/models/{model}/{variant}/weights.json",
    log:
        "logs/quantize/{model}/{variant}.log",
    wildcard_constraints:
        variant="gguf-q8_0|gguf-q4_k_m",
    conda:
        "../../envs/gguf.yaml"
    resources:
        mem_mb=needs.memory_mb,
    message:
        "Quantize {wildcards.model} to {wildcards.variant}"
    script:
        "../scripts/quantize_gguf.py"


# GPTQ with 4 bits, calibrated on the texts of the configuration.
rule quantize_gptq:
    input:
        base="resources/models/{model}/base/weights.json",
        calibration=inputs.calibration,
    output:
        manifest="resources/models/{model}/gptq-4bit/manifest.json",
        weights="resources/models/{model}/gptq-4bit/weights.json",
    log:
        "logs/quantize/{model}/gptq-4bit.log",
    priority: 100
    conda:
        needs.gptq_env
    threads: needs.quantize_threads
    resources:
        mem_mb=needs.memory_mb,
        gpu=needs.gptq_gpus,
    params:
        settings=parameters.gptq,
        variant="gptq-4bit",
    message:
        "Quantize {wildcards.model} to gptq-4bit"
    script:
        "../scripts/quantize_4bit.py"


# AWQ with 4 bits, calibrated on the same texts.
use rule quantize_gptq as quantize_awq with:
    output:
        manifest="resources/models/{model}/awq-4bit/manifest.json",
        weights="resources/models/{model}/awq-4bit/weights.json",
    log:
        "logs/quantize/{model}/awq-4bit.log",
    conda:
        needs.awq_env
    resources:
        mem_mb=needs.memory_mb,
        gpu=needs.awq_gpus,
    params:
        settings=parameters.awq,
        variant="awq-4bit",
    message:
        "Quantize {wildcards.model} to awq-4bit"
