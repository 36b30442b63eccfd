"""Between Snakemake and the library."""
