"""Makes this project's engines known to lm_eval by name; the standard library only.

lm-evaluation-harness looks models up in a registry and discovers no plug-ins. `watch` waits until
a program imports ``lm_eval.models``, and then adds our names to that registry as references that
are resolved when they are used. The file that tools/install.py puts into the environment calls it
at every start of Python, so it must be quick and must import nothing else.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # that of typing costs more than all the rest of this file
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

ENGINES = {
    "slm-llamacpp": "slm_benchmark.engines.lm_eval_models:SlmLlamaCpp",
    "slm-transformers": "slm_benchmark.engines.lm_eval_models:SlmTransformers",
}
"""What ``lm_eval --model`` calls an engine, and the class behind it."""

_REGISTRY = "lm_eval.models"


class _Watch:
    """A finder that finds nothing itself: it adds `register` to the loading of the registry."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _REGISTRY:
            return None
        sys.meta_path.remove(self)
        from importlib.util import find_spec

        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                register()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def watch() -> None:
    """Register the engines as soon as ``lm_eval.models`` is imported."""
    if not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())


def register() -> None:
    """Add the engines to the harness's registry, after the harness's own; once is enough."""
    # The harness only fills a registry that is still empty.
    import lm_eval.models  # noqa: F401
    from lm_eval.api.registry import model_registry

    for name, target in ENGINES.items():
        if name not in model_registry:
            model_registry.register(name, target=target)
