"""Merging."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fusehub.cli import console
from fusehub.cli.console import bar, command, print_json, say
from fusehub.cli.options import (
    AllowOtherWeights,
    Base,
    Device,
    Json,
    LabelColumn,
    Labels,
    MaxLength,
    TextColumn,
    labels_by_model,
)
from fusehub.cli.printing import describe_actions, print_findings, print_plan, print_tuning, summarise
from fusehub.cli.program import app

if TYPE_CHECKING:
    from fusehub.comparing.tuning import Search
    from fusehub.merging.plan import Plan
    from fusehub.models.ref import ModelRef

_RECIPE = (".yaml", ".yml")
_PLAN = ".json"
_BESIDE_A_PLAN = ("models", "out", "plugin", "device", "dry_run", "save_plan", "as_json")


@app.command(
    epilog="Example: fusehub merge textattack/bert-base-uncased-imdb textattack/bert-base-uncased-yelp-polarity "
    "--out merged"
)
@command
def merge(
    context: typer.Context,
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL | RECIPE.yaml | REPO | PLAN.json",
            help="Two or more models, one recipe, one repo of the Hub that has a recipe, or one plan.",
            show_default=False,
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="New folder for the merged model.")] = None,
    method: Annotated[
        str | None,
        typer.Option(help="See `fusehub methods`; the one that `fusehub methods MODEL...` recommends if not said."),
    ] = None,
    base: Base = None,
    statistics: Annotated[
        list[str] | None,
        typer.Option(
            "--statistics",
            metavar="MODEL=STATISTICS",
            help="A file, folder or repo of them, if not found on the Hub; or data-free, without any (needs --base).",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="MODEL=SOURCE",
            help="Texts of a model's domain, for a method that runs the model over them (regmean_plus_plus).",
        ),
    ] = None,
    weight: Annotated[
        list[str] | None, typer.Option("--weight", metavar="MODEL=NUMBER", help="A model's share; 1 if not said.")
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option("--param", metavar="KEY=VALUE", help="An option of the method.")
    ] = None,
    tune: Annotated[
        list[str] | None,
        typer.Option(
            "--tune",
            metavar="NAME=SOURCE",
            help="Labelled validation data that options are chosen by: alpha, if nothing else is said.",
        ),
    ] = None,
    tune_over: Annotated[
        list[str] | None,
        typer.Option("--tune-over", metavar="KEY=VALUE,VALUE", help="With --tune: an option, and the values to try."),
    ] = None,
    tune_weights: Annotated[
        bool, typer.Option("--tune-weights", help="With --tune: try other weights of each model, one after the other.")
    ] = False,
    tune_trials: Annotated[int, typer.Option(min=1, help="With --tune: the most merges that are tried.")] = 30,
    tune_limit: Annotated[
        int | None, typer.Option(min=1, help="With --tune: take that many examples of each, drawn by --seed.")
    ] = None,
    label_column: LabelColumn = None,
    plugin: Annotated[
        list[Path] | None,
        typer.Option("--plugin", metavar="FILE", help="A Python file with a method of your own, which is run."),
    ] = None,
    labels: Labels = None,
    heads: Annotated[
        Literal["auto", "merge", "keep"] | None, typer.Option(help="merge, keep or auto (see `fusehub check --help`).")
    ] = None,
    scale: Annotated[float | None, typer.Option(help="How far to go from the base; needs --base.")] = None,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16", "float64", "float8"] | None, typer.Option(help="For the result.")
    ] = None,
    as_adapter: Annotated[
        bool, typer.Option("--as-adapter", help="Write a merge of LoRA adapters over one base as an adapter.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Take that many examples of each --data.")] = None,
    max_length: MaxLength = None,
    text_column: TextColumn = None,
    seed: Annotated[
        int | None, typer.Option(help="For methods that draw random numbers, and for which examples --limit draws.")
    ] = None,
    max_shard_size: Annotated[str, typer.Option(help="Largest weight file, as 5GB or 500MB.")] = "5GB",
    device: Device = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and what it will cost; merge nothing.")
    ] = False,
    save_plan: Annotated[
        Path | None,
        typer.Option(
            "--save-plan",
            metavar="PLAN.json",
            help="Write the plan, and merge nothing: `fusehub merge PLAN.json --out DIR` does that later.",
        ),
    ] = None,
    allow_unrelated: Annotated[
        bool, typer.Option("--allow-unrelated", help="Go on where the weights look as if of different bases.")
    ] = False,
    allow_other_weights: AllowOtherWeights = False,
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="CODE", help="Go on although `check` finds this (the error names its code)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Merge models into one. Nothing is downloaded before the plan stands; the result appears when it is complete.

    `fusehub merge RECIPE.yaml OUT` is read, too. A plan is refused where what it was made from has changed since.
    """
    from fusehub.hub.access import Access
    from fusehub.merging.hub_recipe import may_have_recipe, recipe_at_hub
    from fusehub.merging.merge import recipe_of
    from fusehub.merging.plan import Plan, plan_by
    from fusehub.merging.recipe import Recipe
    from fusehub.models.resolve import refs_of
    from fusehub.recommending.recommend import recommend_of, suiting
    from fusehub.utils.findings import Allowed
    from fusehub.utils.memory import use_one_heap

    use_one_heap()  # Before there are threads: to look at models takes some.
    is_recipe = models[0].endswith(_RECIPE)
    if is_recipe and len(models) == 2 and out is None and not models[1].endswith(_RECIPE):
        out = Path(models.pop())  # As mergekit-yaml has it: the recipe, then the folder.
    if is_recipe and len(models) > 1:
        raise typer.BadParameter(f"{models[0]} is a recipe, which names all models", param_hint=" ".join(models[1:]))
    if out is None and not dry_run and not save_plan:
        raise typer.BadParameter("say where the merged model goes", param_hint="--out")
    processes = console.leave_it_to_the_main_process()
    if models[0].endswith(_PLAN) and len(models) == 1:
        _require_as_it_is(context)
        _merge(Plan.load(models[0], plugins=plugin or ()), out, None, device, dry_run, save_plan, as_json)
        return
    access = Access()
    source: Recipe | list[str] = models
    if is_recipe:
        source = Recipe.read(models[0])
    elif len(models) == 1 and may_have_recipe(models[0]):
        source, is_recipe = recipe_at_hub(models[0], access), True
    names = [entry.model for entry in source.models] if isinstance(source, Recipe) else models
    sources = console.pairs(statistics, "--statistics", names)
    texts = console.pairs(data, "--data", names)
    shares = {name: console.scalar(value) for name, value in console.pairs(weight, "--weight", names).items()}
    said = {key: console.scalar(value) for key, value in console.pairs(param, "--param").items()}
    known: dict[str, ModelRef] = {}
    if method is None and not is_recipe:
        from fusehub.methods.plugins import load_plugins

        load_plugins(plugin or ())
        tuned = [*_values(tune_over), *(["weight"] if tune_weights else [])] if tune else None
        among = suiting(
            parameters=said, weights=shares, statistics=sources, data=texts, as_adapter=as_adapter, tuned=tuned
        )
        refs = refs_of(models, access)
        known = dict(zip(models, refs, strict=True))
        found = recommend_of(models, refs, base_model=base, statistics=sources, data=texts, among=among)
        way = found.recommended
        method, base, said = way.method, base or way.base_model, {**way.options, **said}
        if not as_json:
            say(f"method: {way.title} ({method}), as none was said. {found.reason}")
    recipe = recipe_of(
        source,
        method,
        plugins=plugin or (),
        base_model=base,
        heads=heads,
        scale=scale,
        dtype=dtype,
        seed=seed,
        as_adapter=as_adapter or None,
        statistics=sources,
        data=texts,
        limit=limit,
        max_length=max_length,
        text_column=text_column if data or not tune else None,
        weights=shares,
        labels=labels_by_model(labels, names),
        parameters=said,
    )
    allowed = Allowed.of(unrelated=allow_unrelated, other_weights=allow_other_weights, ignore=ignore or ())
    most = console.parse_size(max_shard_size, "--max-shard-size")
    # What the Hub was asked for the recommendation is not asked again.
    with processes.together():
        plan = plan_by(
            recipe, access, allowed=allowed, max_shard_size=most, resolved=known, processes=processes,
            made=not dry_run or save_plan is not None,
        )  # fmt: skip
    search = None
    if tune:
        from fusehub.comparing.tuning import Search, Tuning

        tuning = Tuning(
            console.pairs(tune, "--tune", plan.names), over=_values(tune_over), weights=tune_weights,
            trials=tune_trials, limit=tune_limit, seed=seed or 0, text_column=text_column, label_column=label_column,
            max_length=max_length,
        )  # fmt: skip
        search = Search(plan, tuning, device=device)
    elif tune_over or tune_weights or tune_limit or label_column:
        raise typer.BadParameter("name the data that decides", param_hint="--tune")
    _merge(plan, out, search, device, dry_run, save_plan, as_json)


def _require_as_it_is(context: typer.Context) -> None:
    """A plan is carried out as it was made: what is said of a merge beside it is wrong usage."""
    for param in context.command.params:
        source = context.get_parameter_source(param.name)
        if source is not None and source.name == "COMMANDLINE" and param.name not in _BESIDE_A_PLAN:
            raise typer.BadParameter("a plan is carried out as it is", param_hint=param.opts[0])


def _merge(
    plan: Plan,
    out: Path | None,
    search: Search | None,
    device: str,
    dry_run: bool,
    save_plan: Path | None,
    as_json: bool,
) -> None:
    """Prints, saves or carries out a plan, or the best one that the search finds."""
    from fusehub.merging.merge import merge as merge_models

    if dry_run:
        print_json(plan.to_dict()) if as_json else print_plan(plan)
        if search and not as_json:
            say(f"tuning: {search.described()}")
        if save_plan:
            plan.save(save_plan)
        return
    if not as_json:
        print_findings(plan.report.findings)
        for note in plan.notes:
            say(f"note: {note}")
    if search:
        with bar(f"Tuning {len(plan.experts)} models", quiet=as_json) as progress:
            tuned = search.run(progress)
        plan = tuned.plan
        if not as_json:
            print_tuning(tuned)
    if save_plan:
        plan.save(save_plan)
        if as_json:
            print_json(summarise(plan))
        say(f"next: fusehub merge {shlex.quote(str(save_plan))} --out DIR")
        return
    assert out is not None  # It may be left out with --dry-run and --save-plan alone.
    with bar(f"Merging {len(plan.experts)} models", quiet=as_json) as progress:
        result = merge_models(plan, out, device=device, progress=progress)
    notes = {name: [asdict(note) for note in own] for name, own in result.notes.items()}
    if as_json:
        told = {"folder": str(out), "notes": notes, "sha256": dict(result.hashes)}
        print_json({**told, **summarise(plan)})
        return
    for text in result.told:
        say(f"note: {text}")
    say(
        f"Merged {len(plan.experts)} models by {plan.method.title}: {describe_actions(result.tensors)} -> {out}/",
        "green",
    )
    for number, line in enumerate([*_comparisons(plan, out), f"fusehub publish {shlex.quote(str(out))} USER/NAME"]):
        say(f"{'' if number else 'next:':5} {line}")


def _comparisons(plan: Plan, out: Path) -> list[str]:
    """How what was merged is compared with the experts; heads of different tasks each with their own."""
    from fusehub.models.tasks import task_of

    models = [entry.model for entry in plan.recipe.models]
    merged = [str(out / name) for name in plan.names] if plan.labels.policy == "keep" else [str(out)]
    if len({task_of(ref.config, ref.name).name for ref in plan.experts}) > 1:
        pairs = zip(models, merged, strict=True)
        return [f'fusehub compare {shlex.join([model, head])} --text "..."' for model, head in pairs]
    return [f'fusehub compare {shlex.join([*models, *merged])} --ensemble --text "..."']


def _values(given: list[str] | None) -> dict[str, list[Any]]:
    """`["alpha=0.1,0.5"]` -> `{"alpha": [0.1, 0.5]}`."""
    return {
        key: [console.scalar(value) for value in text.split(",") if value.strip()]
        for key, text in console.pairs(given, "--tune-over").items()
    }
