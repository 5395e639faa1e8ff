"""Options and weights of a merge that are chosen by what it scores on validation data; every trial is told.

    tuned = tune(["user/expert-1", "user/expert-2"], {"films": "user/films/validation"})
    tuned.best.values, tuned.best.mean           # {"alpha": 0.7}, 0.81
    merge(tuned.plan, "merged")                  # the recipe that it writes has the values, and needs no data

The search is small and always the same. First the recipe as it is; then each combination of the values of the options
that are searched; then, if weights are, one model's weight after the other through `SHARES`, round and round until no
change makes it better. The best mean over the data sets wins, of equals the one that was tried first. Statistics are
found once, and read again for every trial; each trial is the merge that would be written, scored by `evaluate`.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.checking.heads import Heads
from fusehub.comparing.evaluate import evaluate
from fusehub.comparing.evaluation import LESS_IS_BETTER
from fusehub.comparing.predictor import check_one_task, known_labels
from fusehub.comparing.trials import Trial, Tuned, Tuning
from fusehub.data.examples import Examples, load_examples
from fusehub.data.tables.sources import split_named
from fusehub.errors import BadData, BadRecipe, Incompatible, unknown
from fusehub.hub.access import STORED, Access
from fusehub.merging.merge import merge, plan_of
from fusehub.merging.plan import Plan, replan
from fusehub.merging.recipe import DType, Recipe
from fusehub.models.ref import ModelRef
from fusehub.models.tasks import task_of
from fusehub.utils.devices import Device
from fusehub.utils.findings import Allowed
from fusehub.utils.folders.holding import scratch
from fusehub.utils.processes import Processes
from fusehub.utils.progress import Progress, silent

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# What is searched of methods that add updates, and have nothing else that is, where nobody says.
WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
SHARES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)


def tune(
    models: Sequence[str | ModelRef] | Recipe | Path | Plan,
    data: Mapping[str, str] | Tuning,
    *,
    method: str | None = None,
    base_model: str | ModelRef | None = None,
    weights: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
    statistics: Mapping[str, str] | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
    heads: Heads | None = None,
    scale: float | None = None,
    dtype: DType | torch.dtype | None = None,
    out_dtype: DType | torch.dtype | None = None,
    seed: int | None = None,
    limit: int | None = None,
    max_length: int | None = None,
    text_column: str | None = None,
    as_adapter: bool | None = None,
    tokenizer_source: str | None = None,
    chat_template: str | None = None,
    plugins: Sequence[str | Path] = (),
    allow_unrelated: bool = False,
    allow_other_weights: bool = False,
    ignore: Sequence[str] = (),
    device: Device | None = None,
    token: bool | str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    progress: Progress = silent,
) -> Tuned:
    """Chooses the options of a merge of `models` by its scores on `data`.

    The other arguments are those of `merge`.

    Args:
        models: Two or more models, a recipe, a recipe's file or a plan.
        data: Names of labelled validation data -> SOURCE (its split is `validation` unless it names one), or a
            `Tuning`, which says more.

    Returns:
        All trials, and the plan of the best, for `merge`.

    Raises:
        FuseHubError: Something cannot be tried; said before anything is merged.
        BadData: Only a test split would be left to tune on.

    Examples:
        >>> search = fusehub.Tuning({"texts": "user/texts"}, over={"alpha": [0.5]}, limit=5)
        >>> tuned = fusehub.tune(["user/expert-1", "user/expert-2"], search)
        >>> merged = fusehub.merge(tuned.plan, "tuned")
    """
    access = Access(token, cache_dir, local_files_only)
    if isinstance(models, Plan):
        plan = models
    else:
        allowed = Allowed.of(unrelated=allow_unrelated, other_weights=allow_other_weights, ignore=ignore)
        plan = plan_of(
            models, method, plugins, allowed, access,
            base_model=base_model, weights=weights, parameters=parameters, statistics=statistics, labels=labels,
            heads=heads, scale=scale, dtype=dtype, out_dtype=out_dtype, seed=seed, limit=limit,
            max_length=max_length, text_column=text_column, as_adapter=as_adapter, tokenizer_source=tokenizer_source,
            chat_template=chat_template,
        )  # fmt: skip
    search = Search(plan, data if isinstance(data, Tuning) else Tuning(data), access, device=device)
    return search.run(progress)


class Search:
    """A search whose data was read and whose values were checked; `run` makes the trials."""

    def __init__(self, plan: Plan, tuning: Tuning, access: Access = STORED, *, device: Device | None = None) -> None:
        self.plan, self.tuning, self.device = plan, tuning, device
        if Processes.started() > 1:
            raise BadRecipe(
                f"Tuning tries one merge after the other, and {Processes.started()} processes were started.",
                "Start one with --save-plan PLAN.json, and then several that carry out the plan.",
            )
        if tuning.trials < 1:
            raise BadRecipe(f"{tuning.trials} trials try nothing.", "Give 1 or more.")
        self.over = dict(tuning.over) or ({} if tuning.weights else _default(plan))
        self.weights = _weights_of(plan) if tuning.weights else None
        self.grid = self._grid()
        if len(self.grid) > tuning.trials:
            raise BadRecipe(
                f"{len(self.grid)} combinations of {', '.join(self.over)} are more than {tuning.trials} trials.",
                "Search fewer values, or allow more trials.",
            )
        # What cannot be is refused before the first merge.
        self.plans = [self._planned(values, self.weights) for values in self.grid]
        self.sets = self._read(access)

    def run(self, progress: Progress = silent) -> Tuned:
        """Makes all trials."""
        trials: list[Trial] = []
        seen: dict[Any, Trial] = {}
        most = self.tuning.trials if self.weights else len(self.grid)

        def tried(values: dict[str, Any], weights: tuple[float, ...] | None) -> Trial | None:
            """The trial of these, made now or before; None where no more may be made."""
            key = (tuple(values.items()), _proportions(self.plan, weights))
            if key not in seen:
                if len(trials) >= self.tuning.trials:
                    return None
                progress(len(trials), most, "trials")
                seen[key] = self._try(values, weights)
                trials.append(seen[key])
            return seen[key]

        for values in self.grid:
            tried(values, self.weights)
        complete = True
        if self.weights:
            complete = self._walk(max(trials, key=self._worth), tried)
        progress(most, most, "trials")
        chosen = max(range(len(trials)), key=lambda place: (self._worth(trials[place]), -place))
        best = trials[chosen]
        plan = self._planned(best.values, best.weights)
        record = self._record(trials, chosen, complete)
        return Tuned(replace(plan, tuning=record), trials, chosen, self.metric)

    def described(self) -> str:
        """What will be tried, and on what, in one line."""
        parts = [f"{name} {', '.join(str(value) for value in values)}" for name, values in self.over.items()]
        if self.weights:
            parts.append(f"weights {', '.join(f'{share:g}' for share in SHARES)}")
        data = ", ".join(f"{name} ({len(examples):,} examples)" for name, examples in self.sets.items())
        most = self.tuning.trials if self.weights else len(self.grid)
        return f"{'at most ' if self.weights else ''}{most} trials of {'; '.join(parts)}, scored on {data}"

    def _walk(self, best: Trial, tried: Any) -> bool:
        """Changes one weight after the other for as long as that makes it better; False where trials ran out."""
        while True:
            start = best
            for model in range(len(self.plan.experts)):
                found, before = best, best.weights
                assert before is not None  # Where weights are searched, every trial has some.
                for share in SHARES:
                    weights = tuple(share if at == model else own for at, own in enumerate(before))
                    if not any(weights):
                        continue
                    trial = tried(best.values, weights)
                    if trial is None:
                        return False
                    if self._worth(trial) > self._worth(found):
                        found = trial
                best = found
            if best is start:
                return True

    def _grid(self) -> list[dict[str, Any]]:
        """The values of every trial but those of weights; first those that the recipe has."""
        own = self.plan.method.own_options.fields()
        written = {**self.plan.settings.written(), "scale": self.plan.recipe.scale}
        known = {name: field.default for name, field in own.items()} | written
        for name, values in self.over.items():
            if name not in known:
                raise unknown(f"option of {self.plan.method.name} to search", name, known)
            if not values:
                raise BadRecipe(f"There is no value of {name} to try.", f"Name some: {name}=0.1,0.5.")
            if any(name in said for said in self.plan.settings.models):
                raise BadRecipe(
                    f"{name} is said of single models, and what is searched is one value for all of them.",
                    f"Leave it out of the recipe, or do not search {name}.",
                )
        first = {name: known[name] for name in self.over}
        combinations = [dict(zip(self.over, values, strict=True)) for values in itertools.product(*self.over.values())]
        return [first, *(values for values in combinations if values != first)]

    def _planned(self, values: Mapping[str, Any], weights: Sequence[float] | None) -> Plan:
        recipe = self.plan.recipe
        parameters = {**recipe.parameters, **{name: value for name, value in values.items() if name != "scale"}}
        changes: dict[str, Any] = {"parameters": parameters}
        if "scale" in values:
            changes["scale"] = float(values["scale"])
        if weights is not None:
            changes["models"] = tuple(
                entry.model_copy(update={"parameters": {**entry.parameters, "weight": weight}})
                for entry, weight in zip(recipe.models, weights, strict=True)
            )
        return replan(self.plan, recipe.model_copy(update=changes))

    def _try(self, values: dict[str, Any], weights: tuple[float, ...] | None) -> Trial:
        plan = self._planned(values, weights)
        # Adapters are scored as whole models, which are the same.
        plan = replace(plan, recipe=plan.recipe.model_copy(update={"as_adapter": False}))
        scores: dict[str, float] = {}
        with scratch() as temporary:
            folder = merge(plan, temporary / "merged", device=self.device).folder
            models = {str(folder): self.sets}
            if plan.labels.policy == "keep":
                models = {str(folder / name): {name: self.sets[name]} for name in plan.names}
            for model, sets in models.items():
                found = evaluate(
                    [model],
                    sets,
                    max_length=self.tuning.max_length,
                    seed=self.tuning.seed,
                    resamples=0,
                    device=self.device,
                )
                for score in found.scores:
                    scores[score.data] = score.main
                    self._metrics[score.data] = next(iter(score.metrics))
        if len({metric in LESS_IS_BETTER for metric in self._metrics.values()}) > 1:
            raise Incompatible(
                f"{', '.join(sorted(set(self._metrics.values())))} have no mean: of one less is better.",
                "Tune on the data of one kind of task.",
            )
        return Trial(values, weights, scores, math.fsum(scores.values()) / len(scores))

    @property
    def metric(self) -> str:
        """The metric, or the metrics, that decided."""
        return " and ".join(dict.fromkeys(self._metrics.values()))

    def _worth(self, trial: Trial) -> float:
        if not math.isfinite(trial.mean):
            return -math.inf
        return -trial.mean if any(metric in LESS_IS_BETTER for metric in self._metrics.values()) else trial.mean

    def _read(self, access: Access) -> dict[str, Examples]:
        self._metrics: dict[str, str] = {}
        tuning, plan = self.tuning, self.plan
        if not tuning.data:
            raise BadData("There is no data to tune on.", "Name labelled validation data: --tune NAME=SOURCE")
        if plan.labels.policy == "keep":
            if set(tuning.data) != set(plan.names):
                raise BadData(
                    f"Each model keeps its head, so each wants its own data, and there is {', '.join(tuning.data)}.",
                    "Name it after the heads: " + " ".join(f"--tune {name}=SOURCE" for name in plan.names),
                )
            tasks = {
                name: task_of(ref.config, ref.name).name for name, ref in zip(plan.names, plan.experts, strict=True)
            }
        else:
            tasks = dict.fromkeys(tuning.data, check_one_task(plan.experts))
        experts = dict(zip(plan.names, plan.experts, strict=False))
        sets = {}
        for name, source in tuning.data.items():
            sets[name] = load_examples(
                source,
                tasks[name],
                limit=tuning.limit,
                seed=tuning.seed,
                text_column=tuning.text_column,
                label_column=tuning.label_column,
                need_labels=True,
                default_split="validation",
                access=access,
                labels=known_labels([experts.get(name, plan.experts[0])]),
            )
            _require_no_test(name, source, sets[name])
        return sets

    def _record(self, trials: Sequence[Trial], chosen: int, complete: bool) -> dict[str, Any]:
        """The whole search, as the report beside the merge has it."""
        return {
            "data": [
                {
                    "name": name,
                    "source": examples.source,
                    "split": examples.split,
                    "revision": examples.revision,
                    "examples": len(examples),
                }
                for name, examples in self.sets.items()
            ],
            "metric": self.metric,
            "over": {name: list(values) for name, values in self.over.items()},
            "weights": list(SHARES) if self.weights else None,
            "most_trials": self.tuning.trials,
            "complete": complete,
            "trials": [trial.to_dict() for trial in trials],
            "chosen": chosen,
        }


def _default(plan: Plan) -> dict[str, Sequence[Any]]:
    """What is searched where nobody says."""
    method = plan.method
    if method.tune_over:
        return dict(method.tune_over)
    if method.base == "needed" and "weight" in method.own_options.fields():
        return {"weight": WEIGHTS}
    raise BadRecipe(
        f"{method.title} has no option that is searched unless you say which.",
        "Say --tune-over OPTION=VALUE,VALUE"
        + (", or --tune-weights." if "weight" in method.own_options.fields() else "."),
    )


def _weights_of(plan: Plan) -> tuple[float, ...]:
    """Each model's weight as the recipe has it."""
    if "weight" not in plan.method.own_options.fields():
        raise BadRecipe(f"{plan.method.title} has no weights.", "Leave out --tune-weights.")
    weights = plan.weights
    if not all(isinstance(weight, int | float) for weight in weights):
        raise BadRecipe("Weights that differ by layer are not searched.", "Give each model one weight, or none.")
    return tuple(map(float, weights))


def _proportions(plan: Plan, weights: Sequence[float] | None) -> tuple[float, ...] | None:
    """What of the weights counts: only their proportions, but where the method says that more does."""
    if weights is None:
        return None
    absolute = any(plan.method.has_absolute_weights(tensor.options) for tensor in plan.tensors.values())
    total = 1.0 if absolute else math.fsum(weights)
    return tuple(round(weight / total, 12) for weight in weights)


def _require_no_test(name: str, source: str, examples: Examples) -> None:
    """Refuses to fall back on a test split, and warns where one was asked for."""
    asked = split_named(source)
    if examples.split == "test" and asked != "test":
        raise BadData(
            f"{source} has no validation split, and tuning on its test split would spoil it as a test.",
            f"Name another split, such as {source}/train, or data that nothing else is scored on.",
        )
    if asked == "test":
        logger.warning("%s: %s is called a test split. What is tuned on it is not tested by it.", name, source)
