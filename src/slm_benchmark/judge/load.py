"""Loading the judge that config/judges.yaml describes."""

from __future__ import annotations

from slm_benchmark.catalog.types import Judge as JudgeEntry
from slm_benchmark.judge.protocol import Judge


def load_judge(judge_id: str, entry: JudgeEntry, threads: int) -> Judge:
    """A judge, ready to be asked.

    Args:
        judge_id: Its id in config/judges.yaml.
        entry: Its entry there, valid against the schema ``judges``.
        threads: CPU threads of a judge that runs on this machine.

    Raises:
        UserError: when its key, its files or its chat template are missing.
    """
    if entry["kind"] == "endpoint":
        from slm_benchmark.judge.endpoint import EndpointJudge

        return EndpointJudge(judge_id, entry)
    from slm_benchmark.judge.gguf import GgufJudge

    return GgufJudge(judge_id, entry, threads)
