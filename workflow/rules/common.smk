"""Validation first, then the names that all rules use."""

import sys
from pathlib import Path

# The package of this checkout, also where it is not installed.
sys.path.insert(0, str(Path(workflow.basedir).parent / "src"))

from slm_benchmark.workflow.job import (
    ByWildcards,
    check_folder,
    clean_errors,
    hold_the_only_run,
    prepare_jobs,
    share_machine,
    share_memory,
    warn,
)
from slm_benchmark.catalog.catalog import load_catalogue
from slm_benchmark.catalog.run_config import RunConfig
from slm_benchmark.records.provenance import clock_warnings
from slm_benchmark.workflow.rule_inputs import RuleInputs
from slm_benchmark.workflow.rule_params import RuleParams
from slm_benchmark.workflow.rule_resources import RuleResources

with clean_errors():
    check_folder(Path(workflow.basedir).parent)
prepare_jobs()
share_machine(workflow)
with clean_errors():
    run_config = RunConfig.from_config(config, load_catalogue())

inputs = ByWildcards(RuleInputs(run_config))
parameters = ByWildcards(RuleParams(run_config))
resources_of_jobs = RuleResources(run_config, workflow.cores)
needs = ByWildcards(resources_of_jobs)
with clean_errors():
    share_memory(workflow, resources_of_jobs.run_threads())


wildcard_constraints:
    model="[a-z0-9][a-z0-9._-]*",
    variant="base|gptq-4bit|awq-4bit|gguf-f16|gguf-q8_0|gguf-q4_k_m",
    hardware="[a-z0-9_-]+",
    protocol="[a-z0-9_-]+",
    task="[a-z0-9_]+",
    dataset="[A-Za-z0-9._-]+",
    edition="published|preview",
