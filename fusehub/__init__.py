"""FuseHub merges fine-tuned models of the Hugging Face Hub into one, without their training data.

    import fusehub

    fusehub.check(["user/expert-1", "user/expert-2"]).ok
    fusehub.recommend(["user/expert-1", "user/expert-2"]).reason
    fusehub.collect("user/expert-1", "user/texts", "statistics")      # once, where the texts are
    fusehub.merge(["user/expert-1", "user/expert-2"], "merged", parameters={"alpha": 0.9})
    fusehub.compare(["user/expert-1", "user/expert-2", "merged"], ["A text."])
    fusehub.publish("merged", "you/merged")

Nothing heavy is imported before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fusehub.utils import logging as logging  # What FUSEHUB_VERBOSITY says holds from the beginning.

if TYPE_CHECKING:
    from fusehub.checking.check import check
    from fusehub.checking.report import Report
    from fusehub.collecting.collect import collect
    from fusehub.collecting.noise import Noise
    from fusehub.comparing.compare import Comparison, compare
    from fusehub.comparing.evaluate import evaluate
    from fusehub.comparing.evaluation import Evaluation
    from fusehub.comparing.layer_changes import LayerChanges, layer_changes
    from fusehub.comparing.trials import Tuned, Tuning
    from fusehub.comparing.tuning import tune
    from fusehub.data.preview import DataPreview, preview_data
    from fusehub.errors import FuseHubError
    from fusehub.finding import FoundModel, find
    from fusehub.hub.client import fusehub_version
    from fusehub.merging.merge import merge
    from fusehub.merging.plan import Plan, plan_merge
    from fusehub.merging.recipe import Recipe
    from fusehub.merging.result import MergeResult
    from fusehub.methods import METHODS
    from fusehub.models.multi_head import SharedBody, load_heads
    from fusehub.models.ref import ModelRef
    from fusehub.models.resolve import resolve
    from fusehub.publishing.cards.merge_card import model_card
    from fusehub.publishing.publish import Published, publish, publish_statistics
    from fusehub.publishing.recipe_alone import publish_recipe
    from fusehub.recommending.recommend import recommend
    from fusehub.recommending.recommendation import Recommendation
    from fusehub.statistics.adding import add_statistics
    from fusehub.statistics.file import Statistics
    from fusehub.statistics.importers import import_statistics
    from fusehub.statistics.inspection import inspect
    from fusehub.statistics.resizing import resize_statistics

# Where each public name lives.
_MODULES = {
    "METHODS": "methods",
    "Comparison": "comparing.compare",
    "DataPreview": "data.preview",
    "Evaluation": "comparing.evaluation",
    "FoundModel": "finding",
    "FuseHubError": "errors",
    "LayerChanges": "comparing.layer_changes",
    "MergeResult": "merging.result",
    "ModelRef": "models.ref",
    "Noise": "collecting.noise",
    "Plan": "merging.plan",
    "Published": "publishing.publish",
    "Recipe": "merging.recipe",
    "Recommendation": "recommending.recommendation",
    "Report": "checking.report",
    "SharedBody": "models.multi_head",
    "Statistics": "statistics.file",
    "Tuned": "comparing.trials",
    "Tuning": "comparing.trials",
    "add_statistics": "statistics.adding",
    "check": "checking.check",
    "collect": "collecting.collect",
    "compare": "comparing.compare",
    "evaluate": "comparing.evaluate",
    "find": "finding",
    "fusehub_version": "hub.client",
    "import_statistics": "statistics.importers",
    "inspect": "statistics.inspection",
    "layer_changes": "comparing.layer_changes",
    "load_heads": "models.multi_head",
    "merge": "merging.merge",
    "model_card": "publishing.cards.merge_card",
    "plan_merge": "merging.plan",
    "preview_data": "data.preview",
    "publish": "publishing.publish",
    "publish_recipe": "publishing.recipe_alone",
    "publish_statistics": "publishing.publish",
    "recommend": "recommending.recommend",
    "resolve": "models.resolve",
    "resize_statistics": "statistics.resizing",
    "tune": "comparing.tuning",
}

__all__ = [
    "METHODS",
    "Comparison",
    "DataPreview",
    "Evaluation",
    "FoundModel",
    "FuseHubError",
    "LayerChanges",
    "MergeResult",
    "ModelRef",
    "Noise",
    "Plan",
    "Published",
    "Recipe",
    "Recommendation",
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
    "layer_changes",
    "load_heads",
    "merge",
    "model_card",
    "plan_merge",
    "preview_data",
    "publish",
    "publish_recipe",
    "publish_statistics",
    "recommend",
    "resize_statistics",
    "resolve",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("fusehub.hub.client").fusehub_version()
    if name not in _MODULES:
        raise AttributeError(f"module 'fusehub' has no attribute '{name}'")
    return getattr(import_module(f"fusehub.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
