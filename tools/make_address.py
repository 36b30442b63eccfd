"""Write the project's address into the files that need literal copies of it.

python tools/make_address.py           write CITATION.cff
python tools/make_address.py --check   fail when it is not what pyproject.toml says
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import atomic_write_text
from slm_benchmark.common.paths import ROOT, relative
from slm_benchmark.common.project import Address, read_address

CITATION = ROOT / "CITATION.cff"

_BLOCK = re.compile(r"(?<=^# address:start\n)(?:.*\n)*?(?=^# address:end$)", re.MULTILINE)
"""What stands between the two comments that mark generated lines."""


def citation(address: Address) -> str:
    """The lines of CITATION.cff that hold the address."""
    return (
        f"repository-code: {address.repository}\n"
        f"url: {address.pages}\n"
        "contact:\n"
        f"  - name: {address.maintainer}\n"
        f"    website: {address.account}\n"
    )


def insert(text: str, block: str, file: Path) -> str:
    """Replace the generated lines of ``text``.

    Raises:
        UserError: when ``text``, which ``file`` holds, does not mark them exactly once.
    """
    changed, count = _BLOCK.subn(lambda _: block, text)
    if count != 1:
        raise UserError(
            f"generated lines are marked {count} times",
            file=relative(file),
            fix="mark them once, by the comments '# address:start' and '# address:end'",
        )
    return changed


def main() -> int:
    """Write or check; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    arguments = parser.parse_args()
    text = CITATION.read_text(encoding="utf-8")
    try:
        changed = insert(text, citation(read_address()), CITATION)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if changed == text:
        return 0
    if arguments.check:
        print(
            "error: CITATION.cff: not the address of pyproject.toml. "
            "Fix: python tools/make_address.py",
            file=sys.stderr,
        )
        return 1
    atomic_write_text(CITATION, changed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
