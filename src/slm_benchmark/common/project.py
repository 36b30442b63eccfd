"""Where the project lives and who keeps it, as pyproject.toml says, the only file that does."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.paths import ROOT, relative


@dataclass(frozen=True)
class Address:
    """Where to find the project.

    Attributes:
        repository: Web address of the repository, without a slash at its end.
        pages: Web address of the published site, with one.
        maintainer: Account of the maintainer, at the host of the repository.
    """

    repository: str
    pages: str
    maintainer: str

    @property
    def account(self) -> str:
        """Web address of the maintainer's account."""
        return f"{self.repository.rsplit('/', 2)[0]}/{self.maintainer}"


def read_address(file: Path = ROOT / "pyproject.toml") -> Address:
    """Read ``[project.urls]`` and the first of ``maintainers``.

    Raises:
        UserError: for a file that lacks one of them, or whose addresses are none.
    """
    with file.open("rb") as stream:
        project: dict[str, Any] = tomllib.load(stream).get("project", {})
    urls = {key: project.get("urls", {}).get(key, "") for key in ("Repository", "Homepage")}
    for key, url in urls.items():
        if not url.startswith("https://"):
            raise UserError(
                "not a web address",
                file=relative(file),
                field=f"project.urls.{key}",
                value=url,
                fix="write one that begins with https://",
            )
    maintainer = next((person.get("name") for person in project.get("maintainers", ())), None)
    if not maintainer:
        raise UserError(
            "nobody keeps the project",
            file=relative(file),
            field="project.maintainers",
            fix='name an account: [{ name = "…" }]',
        )
    return Address(
        repository=urls["Repository"].rstrip("/"),
        pages=urls["Homepage"].rstrip("/") + "/",
        maintainer=maintainer,
    )
