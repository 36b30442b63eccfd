"""Small datasets with the fields of the real ones, every sentence written for these tests.

`REPOSITORIES` has the repositories of all benchmarks as the hub has them; `write_hub` puts them
where `tests.hub.serve` finds them. Most documents are made from a number, so that there are enough
of them for a guesser's score to mean something.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import yaml

from tests.support.benchmark_data import (
    code,
    instruction,
    knowledge,
    multilingual,
    reasoning,
    safety,
)
from tests.support.benchmark_data.types import Configs, Row, Splits

__all__ = ["REPOSITORIES", "Configs", "Row", "Splits", "write_hub", "write_repository"]

REPOSITORIES: dict[str, Configs] = {
    **knowledge.repositories(),
    **reasoning.repositories(),
    **code.repositories(),
    **multilingual.repositories(),
    **instruction.repositories(),
    **safety.repositories(),
}
"""Repository → configuration → split → rows. A repository without named ones has ``default``."""


def write_hub(root: Path, only: Iterable[str] | None = None) -> None:
    """Write repositories below ``root``, each as `write_repository` does.

    Args:
        root: Folder of a stand-in of the hub.
        only: Names of the repositories; None = all.
    """
    for repository in REPOSITORIES if only is None else only:
        write_repository(root / repository, REPOSITORIES[repository])


def write_repository(folder: Path, configs: Configs) -> None:
    """Write one repository: a parquet file for each configuration and split, and a card."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    listed = []
    for config, splits in configs.items():
        files = []
        for split, rows in splits.items():
            file = f"{config}/{split}-00000-of-00001.parquet"
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(rows), folder / file)
            files.append({"split": split, "path": file})
        listed.append({"config_name": config, "data_files": files})
    card = yaml.safe_dump({"configs": listed}, sort_keys=False)
    (folder / "README.md").write_text(f"---\n{card}---\n", encoding="utf-8")
