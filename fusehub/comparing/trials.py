"""What a search over merges is asked for, what it tried, and what came of it: see `fusehub.comparing.tuning`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Unpack

from fusehub.hub.upload import ModelPushOptions, Published
from fusehub.merging.merge import merge
from fusehub.merging.plan import Plan
from fusehub.merging.recipe import Recipe
from fusehub.utils.folders.holding import scratch


@dataclass(frozen=True)
class Tuning:
    """What is searched, and what decides.

    Attributes:
        data: Names of data sets -> SOURCE; where every model keeps its head, the names are those of the heads.
        over: Options (`scale` too) -> the values to try.
        weights: Whether each model's weight is searched.
        trials: The most merges that are made.
        limit: How many examples of each data set are drawn; all where it is not said.
        seed: For that draw.
        text_column: The column that has the texts; guessed where it is not said.
        label_column: The column that has the labels; guessed where it is not said.
        max_length: Where texts are cut, in tokens.

    Examples:
        >>> search = fusehub.Tuning({"texts": "user/texts"}, over={"alpha": [0.5, 1.0]}, limit=5)
        >>> tuned = fusehub.tune(["user/expert-1", "user/expert-2"], search)
        >>> [trial.values for trial in tuned.trials]  # first of all the recipe as it is
        [{'alpha': 0.9}, {'alpha': 0.5}, {'alpha': 1.0}]
    """

    data: Mapping[str, str]
    over: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    weights: bool = False
    trials: int = 30
    limit: int | None = None
    seed: int = 0
    text_column: str | None = None
    label_column: str | None = None
    max_length: int | None = None


@dataclass(frozen=True)
class Trial:
    """One merge that was tried: the values that were searched, each model's weight where these were, its scores."""

    values: dict[str, Any]
    weights: tuple[float, ...] | None
    scores: dict[str, float]
    mean: float

    def to_dict(self) -> dict[str, Any]:
        """The trial as plain data.

        Returns:
            Each attribute by its name; a score that does not exist is None.
        """
        scores = {name: value if math.isfinite(value) else None for name, value in self.scores.items()}
        mean = self.mean if math.isfinite(self.mean) else None
        return {"values": self.values, "weights": self.weights, "scores": scores, "mean": mean}


@dataclass(frozen=True)
class Tuned:
    """A search that is done.

    Attributes:
        plan: The plan with the best values, whose report will tell of all trials.
        trials: All that was tried.
        chosen: Which of them was the best.
        metric: What decided.

    Examples:
        >>> search = fusehub.Tuning({"texts": "user/texts"}, over={"alpha": [0.5]}, limit=5)
        >>> tuned = fusehub.tune(["user/expert-1", "user/expert-2"], search)
        >>> tuned.recipe.parameters == tuned.best.values
        True
        >>> tuned.best.mean == max(trial.mean for trial in tuned.trials)
        True
    """

    plan: Plan
    trials: list[Trial]
    chosen: int
    metric: str

    @property
    def best(self) -> Trial:
        """The trial whose values were taken."""
        return self.trials[self.chosen]

    @property
    def recipe(self) -> Recipe:
        """The recipe with the values that were chosen."""
        return self.plan.recipe

    def push_to_hub(self, repo_id: str, **options: Unpack[ModelPushOptions]) -> Published:
        """Merges by the plan into a folder of its own, and pushes that, as `fusehub.publish` does.

        Args:
            repo_id: `user/name`, or `name` for your own.
            **options: The other arguments of `fusehub.publish`.

        Returns:
            Where it is.

        Raises:
            FuseHubError: What `fusehub.merge` and `fusehub.publish` raise.
        """
        with scratch() as folder:
            return merge(self.plan, folder / "merged").push_to_hub(repo_id, **options)
