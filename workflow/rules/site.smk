# The pages (leaderboard, comparison, charts, models, methodology, docs) and the API.
rule build_site:
    input:
        leaderboard="build/{edition}/leaderboard.json",
        table="build/{edition}/leaderboard.csv",
        reports="build/{edition}/quantization",
        pages=inputs.page_files,
    output:
        "build/{edition}/site/index.html",
    log:
        "logs/site/{edition}.log",
    conda:
        "../../envs/report.yaml"
    message:
        "Build the {wildcards.edition} pages"
    script:
        "../scripts/build_site.py"
