"""What axe-core finds in a page: rules of WCAG 2 A and AA, and best practice.

axe-core is no package of Python and no part of the site. `.ci/run` puts it where `SCRIPT` says, and
CONTRIBUTING.md has the line that does so by hand.
"""

from __future__ import annotations

import os

import pytest
from playwright.sync_api import Page

from slm_benchmark.common.paths import ROOT

SCRIPT = ROOT / "build" / "checkers" / "axe" / "node_modules" / "axe-core" / "axe.min.js"

TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]

THEME = (
    ":is(.md-header, .md-tabs, .md-footer, .md-sidebar, .md-toggle, .md-overlay, .md-skip, "
    "[data-md-component])"
    ":not(.md-content, .md-content *, :has(.md-content)), .md-code__nav"
)
"""Markup of the theme, which is not ours to mend. What lies in ``.md-content`` is ours, but for the
buttons that the theme adds to code."""

RUN = """
async ([within, theme, tags]) => {
  const context = {include: [[within ?? "html"]]};
  if (document.querySelector(theme)) context.exclude = [[theme]];
  const {violations} = await axe.run(context, {
    runOnly: {type: "tag", values: tags},
    resultTypes: ["violations"],
    iframes: false,
    preload: false,  // of styles, which a page in a folder may not read
  });
  return violations.flatMap(rule => rule.nodes.map(node =>
    `${rule.id} (${node.impact}) ${node.target.join(" ")}: ${rule.help}`));
}
"""


def violations(page: Page, within: str | None = None) -> list[str]:
    """One line for each element that breaks a rule: rule, impact, selector, and what is asked.

    The test is skipped where axe-core is not at hand, and fails with ``CI`` set.

    Args:
        page: A page that is ready to be looked at.
        within: CSS selector of the parts to look at; the whole page but the theme's otherwise.
    """
    if not SCRIPT.is_file():
        # As without a browser: a laptop passes, the checks of every change may not leave this out.
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up("no axe-core to look for barriers with: bash .ci/run fetches it with npm")
    if not page.evaluate("'axe' in window"):
        page.evaluate(SCRIPT.read_text(encoding="utf-8"))
    found: list[str] = page.evaluate(RUN, [within, THEME, TAGS])
    return found
