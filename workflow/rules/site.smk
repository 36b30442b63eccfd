# The pages: leaderboard, models, methodology, data.
rule build_site:
    input:
        leaderboard="build/{edition}/leaderboard.json",
        table="build/{edition}/leaderboard.csv",
        pages=names.page_files(),
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
