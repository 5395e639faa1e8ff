"""FuseHub merges fine-tuned models of the Hugging Face Hub into one, without their training data.

    import fusehub

    fusehub.check(["user/expert-1", "user/expert-2"]).ok
    fusehub.collect("user/expert-1", "user/texts", "statistics")      # once, where the texts are
    fusehub.merge(["user/expert-1", "user/expert-2"], "merged", parameters={"alpha": 0.9})
    fusehub.compare(["user/expert-1", "user/expert-2", "merged"], ["A text."])
    fusehub.publish("merged", "you/merged")

Nothing heavy is imported before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusehub.card import model_card
    from fusehub.comparison import Comparison, compare
    from fusehub.compat import check
    from fusehub.engine import MergeResult
    from fusehub.errors import FuseHubError
    from fusehub.evaluation import Evaluation, evaluate
    from fusehub.finding import FoundModel, find
    from fusehub.findings import Report
    from fusehub.hub import fusehub_version
    from fusehub.merging import merge
    from fusehub.methods import METHODS
    from fusehub.plan import Plan, plan_merge
    from fusehub.publishing import Published, publish, publish_statistics
    from fusehub.recipe import Recipe
    from fusehub.shared_body import SharedBody, load_heads
    from fusehub.statistics.adding import add_statistics
    from fusehub.statistics.collect import collect
    from fusehub.statistics.format import Statistics
    from fusehub.statistics.importers import import_statistics
    from fusehub.statistics.inspection import inspect
    from fusehub.statistics.noise import Noise
    from fusehub.statistics.resizing import resize_statistics
    from fusehub.tuning import Tuned, Tuning, tune

# Where each public name lives.
_MODULES = {
    "METHODS": "methods",
    "Comparison": "comparison",
    "Evaluation": "evaluation",
    "FoundModel": "finding",
    "FuseHubError": "errors",
    "MergeResult": "engine",
    "Noise": "statistics.noise",
    "Plan": "plan",
    "Published": "publishing",
    "Recipe": "recipe",
    "Report": "findings",
    "SharedBody": "shared_body",
    "Statistics": "statistics.format",
    "Tuned": "tuning",
    "Tuning": "tuning",
    "add_statistics": "statistics.adding",
    "check": "compat",
    "collect": "statistics.collect",
    "compare": "comparison",
    "evaluate": "evaluation",
    "find": "finding",
    "fusehub_version": "hub",
    "import_statistics": "statistics.importers",
    "inspect": "statistics.inspection",
    "load_heads": "shared_body",
    "merge": "merging",
    "model_card": "card",
    "plan_merge": "plan",
    "publish": "publishing",
    "publish_statistics": "publishing",
    "resize_statistics": "statistics.resizing",
    "tune": "tuning",
}

__all__ = [
    "METHODS",
    "Comparison",
    "Evaluation",
    "FoundModel",
    "FuseHubError",
    "MergeResult",
    "Noise",
    "Plan",
    "Published",
    "Recipe",
    "Report",
    "SharedBody",
    "Statistics",
    "Tuned",
    "Tuning",
    "add_statistics",
    "check",
    "collect",
    "compare",
    "evaluate",
    "find",
    "fusehub_version",
    "import_statistics",
    "inspect",
    "load_heads",
    "merge",
    "model_card",
    "plan_merge",
    "publish",
    "publish_statistics",
    "resize_statistics",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("fusehub.hub").fusehub_version()
    if name not in _MODULES:
        raise AttributeError(f"module 'fusehub' has no attribute '{name}'")
    return getattr(import_module(f"fusehub.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
