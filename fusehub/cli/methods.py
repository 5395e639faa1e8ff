"""The methods to merge by: all that there are, and which of them is for the models at hand."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusehub.cli import console
from fusehub.cli.console import command, print_json, say, table
from fusehub.cli.options import Base, Json
from fusehub.cli.program import app
from fusehub.cli.ways_out import command_of

if TYPE_CHECKING:
    from fusehub.recommending.measured import Gain
    from fusehub.recommending.recommendation import Recommendation, Way


@app.command(
    epilog="Example: fusehub methods textattack/bert-base-uncased-imdb textattack/bert-base-uncased-yelp-polarity"
)
@command
def methods(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help="The models that are to be merged.", show_default=False),
    ] = None,
    base: Base = None,
    statistics: Annotated[
        list[str] | None,
        typer.Option("--statistics", metavar="MODEL=STATISTICS", help="As `fusehub merge` takes them."),
    ] = None,
    plugin: Annotated[
        list[Path] | None,
        typer.Option("--plugin", metavar="FILE", help="A Python file with a method of your own, which is run."),
    ] = None,
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As docs/methods.md has them.")] = False,
) -> None:
    """List the ways to merge: what they do, when to use them, and their options.

    Of models that are named: which way is recommended, why, and what each of the others would need.
    """
    from fusehub.cli.methods_document import document, facts
    from fusehub.methods import METHODS
    from fusehub.methods.plugins import load_plugins

    load_plugins(plugin or ())
    if models:
        from fusehub.recommending.recommend import recommend

        found = recommend(models, base_model=base, statistics=console.pairs(statistics, "--statistics", models))
        print_json(found.to_dict()) if as_json else _print_recommendation(found, models)
        return
    if markdown:
        console.out.print(document(), markup=False, highlight=False, soft_wrap=True, end="")
        return
    if as_json:
        described = {
            name: {
                "title": method.title,
                "summary": method.summary,
                "when": method.when,
                "paper": method.paper,
                "statistics": method.statistics,
                "base": method.base,
                "base_with": method.base_with,
                "models": method.models,
                "negative_weights": method.negative_weights,
                "elementwise": method.is_elementwise,
                "biases_with": method.biases_with,
                "as_adapter": method.factors is not None,
                "plugin": method.plugin,
                "needs_statistics": method.needs_statistics and not method.needs_data,
                "needs_data": method.needs_data,
                "options": method.options.model_json_schema().get("properties", {}),
                "model_options": method.own_options.model_json_schema().get("properties", {}),
            }
            for name, method in METHODS.items()
        }
        print_json(described)
        return
    for method in METHODS.values():
        console.out.print(f"[bold]{method.name}[/bold]  {method.title}  [dim]{method.paper or ''}[/dim]")
        console.out.print(f"  {method.summary}", markup=False)
        if method.when:
            console.out.print(f"  When: {method.when}", markup=False)
        told = "; ".join(f"{name}: {text.replace('`', '')}" for name, text in facts(method).items())
        console.out.print(f"  {told}", markup=False)
        for prefix, kind in (("", method.options), ("each model's ", method.own_options)):
            for name, option in kind.fields().items():
                default = str(option.default).lower() if isinstance(option.default, bool) else option.default
                console.out.print(f"  {prefix}--param {name}={default}", style="cyan", markup=False, end="")
                console.out.print(f"  {option.description}", markup=False)
        console.out.print()


def _print_recommendation(found: Recommendation, models: Sequence[str]) -> None:
    """The recommended way and the mean, then the others by what they need, each with what it lacks."""
    from fusehub.recommending.recommendation import NEEDS

    first = [found.recommended, *([found.baseline] if found.baseline is not found.recommended else [])]
    columns = ["method", "against the mean", "can run", "what it does"]
    table("Recommended", columns, [_row(way) for way in first])
    say(found.reason)
    for need, ways in found.alternatives.items():
        table(NEEDS[need], columns, [_row(way) for way in ways])
        for lacking in dict.fromkeys(obstacle for way in ways for obstacle in way.obstacles):
            say(f"  {lacking.what} {command_of(lacking.action)}", "dim")
    way = found.recommended
    words = [
        "fusehub",
        "merge",
        *models,
        "--method",
        way.method,
        *(["--base", way.base_model] if way.base_model else []),
    ]
    words += [word for name, value in way.options.items() for word in ("--param", f"{name}={value}")]
    say(f"next: {shlex.join([*words, '--out', 'merged'])}")


def _row(way: Way) -> list[str]:
    return [way.method, _gain(way.gain), "yes" if way.can_run else "no", way.sentence]


def _gain(gain: Gain | None) -> str:
    return f"{gain.points:+.1f} ({gain.above} of {gain.runs})" if gain else "not measured"
