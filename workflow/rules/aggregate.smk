# The leaderboard and the summaries of each model, from the records alone.
rule aggregate:
    input:
        records=asking(names.records, "edition"),
        catalogue=names.catalogue_files(),
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
