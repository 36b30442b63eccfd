# The leaderboard and the summaries of each model, from the records alone.
rule aggregate:
    input:
        records=inputs.records,
        catalogue=inputs.catalogue_files,
    output:
        leaderboard="build/{edition}/leaderboard.json",
        table="build/{edition}/leaderboard.csv",
        models=directory("build/{edition}/models"),
    log:
        "logs/aggregate/{edition}.log",
    conda:
        "../../envs/report.yaml"
    message:
        "Aggregate the {wildcards.edition} records"
    script:
        "../scripts/aggregate.py"


# What quantization costs each model: every variant beside its base, on the same documents.
rule compare:
    input:
        records=inputs.compared,
        catalogue=inputs.catalogue_files,
    output:
        directory("build/{edition}/quantization"),
    log:
        "logs/compare/{edition}.log",
    conda:
        "../../envs/report.yaml"
    message:
        "Compare the variants of the {wildcards.edition} records with their bases"
    script:
        "../scripts/compare.py"
