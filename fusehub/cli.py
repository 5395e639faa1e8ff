"""The command line: one command a step, each a thin layer over the function of the package that does it.

Heavy libraries are imported inside the commands, so that help and wrong usage answer at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fusehub import console
from fusehub.console import bar, command, print_json, say, size, table
from fusehub.printing import describe_actions, print_findings, print_plan, print_report, summarise

app = typer.Typer(
    name="fusehub",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Merge fine-tuned models of the Hugging Face Hub into one, without their training data.\n\n"
    "The steps: [b]find[/b] models, [b]check[/b] that they fit, [b]collect[/b] statistics (or use published ones), "
    "[b]merge[/b], [b]compare[/b] and [b]evaluate[/b], [b]publish[/b].\n\n"
    "A MODEL is user/name, user/name@revision or a folder. A SOURCE of data is a file (.txt, .csv, .jsonl, .parquet), "
    "a folder, or user/dataset\\[:config]\\[/split].",
)

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, and nothing else there.")]
Base = Annotated[str | None, typer.Option("--base", metavar="MODEL", help="The pretrained model they share.")]
Models = Annotated[list[str], typer.Argument(metavar="MODEL...", help="Two or more models.", show_default=False)]
TextColumn = Annotated[
    str | None, typer.Option(help="Column of the text; 'premise,hypothesis' for pairs. Guessed if not said.")
]
LabelColumn = Annotated[str | None, typer.Option(help="Column of the label. Guessed if not said.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Take that many examples, drawn by --seed.")]
MaxLength = Annotated[int | None, typer.Option(min=1, help="Cut texts to that many tokens.")]
Labels = Annotated[
    list[str] | None,
    typer.Option("--labels", metavar="MODEL=A,B,...", help="Names of the rows of a model's head, where it has none."),
]
HeadsOption = Annotated[
    str, typer.Option(help="merge heads by label name, keep each model's own, or auto: merge where labels agree.")
]


def main() -> None:
    """Entry point of `fusehub`, `hf-fusehub` and `python -m fusehub`."""
    app()


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        from fusehub.hub import fusehub_version

        console.out.print(f"fusehub {fusehub_version()}")
        raise typer.Exit


@app.command(epilog="Example: fusehub find sentiment --base google-bert/bert-base-uncased --with-statistics")
@command
def find(
    query: Annotated[str | None, typer.Argument(help="Words in the name.")] = None,
    base: Base = None,
    task: Annotated[str | None, typer.Option(help="text-classification or token-classification.")] = None,
    with_statistics: Annotated[bool, typer.Option(help="Only models whose statistics are published.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most that many.")] = 20,
    as_json: Json = False,
) -> None:
    """Find models on the Hub that can go into a merge."""
    from fusehub.finding import find as find_models

    found = find_models(query, base=base, task=task, with_statistics=with_statistics, limit=limit)
    if as_json:
        print_json({"models": [model.to_dict() for model in found]})
        return
    columns = ["model", "task", "base", "licence", "downloads", "statistics"]
    rows = [
        (m.id, m.task, m.base, m.licence, m.downloads, m.statistics_at or ("yes" if m.statistics else "no"))
        for m in found
    ]
    table(None, columns, rows, numbers=["downloads"])
    if not found:
        say("Nothing found. Try fewer words, or leave out --base.")
    elif len(found) > 1:
        say(f"next: fusehub check {found[0].id} {found[1].id}")


@app.command(
    epilog="Example: fusehub check textattack/bert-base-uncased-imdb textattack/bert-base-uncased-yelp-polarity"
)
@command
def check(
    models: Models,
    base: Base = None,
    heads: HeadsOption = "auto",
    labels: Labels = None,
    as_json: Json = False,
) -> None:
    """Tell whether models can be merged, from their configs and headers, before any weights are downloaded."""
    from fusehub.compat import check as check_models

    report = check_models(models, base=base, heads=heads, labels=_labels(labels))
    if as_json:
        print_json(report.to_dict())
    else:
        print_report(report)
        if report.ok:
            say(f"They can be merged. Weights still to download: {size(report.download)}.", "green")
            say(f"next: fusehub merge {' '.join(models)} --method regmean --out merged")
    if not report.ok:
        if not as_json:
            say("They cannot be merged as they are.", "bold red")
        raise typer.Exit(1)


@app.command(epilog="Example: fusehub collect user/expert --data user/texts --limit 1000 --out statistics")
@command
def collect(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model whose statistics are wanted.")],
    data: Annotated[str, typer.Option(metavar="SOURCE", help="Texts of the domain that the model was trained for.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write them into.")] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Push them to the Hub, into the model's own repo.")
    ] = False,
    repo: Annotated[
        str | None, typer.Option("--repo", help="Push them into this companion repo instead (with --publish).")
    ] = None,
    pull_request: Annotated[bool, typer.Option(help="As a pull request, for a model that is not yours.")] = False,
    limit: Limit = None,
    max_length: MaxLength = None,
    seed: Annotated[int, typer.Option(help="Which examples --limit draws.")] = 0,
    text_column: TextColumn = None,
    force: Annotated[bool, typer.Option("--force", help="Publish although few rows can give texts away.")] = False,
    description: Annotated[
        str | None, typer.Option(help="What the file says of the data, instead of where it is.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a model over texts and write the statistics of its layers' inputs; the texts themselves are not kept."""
    import tempfile

    from fusehub.publishing import publish_statistics
    from fusehub.refs import resolve
    from fusehub.statistics.collect import collect as collect_statistics

    if out is None and not publish:
        raise typer.BadParameter("say where they go: a folder, or --publish", param_hint="--out")
    if repo and not publish:
        raise typer.BadParameter("--repo goes with --publish", param_hint="--repo")
    ref = resolve(model)
    with tempfile.TemporaryDirectory() as temporary, bar("Reading texts", quiet=as_json) as progress:
        folder = out or Path(temporary)
        made = collect_statistics(
            ref,
            data,
            folder,
            limit=limit,
            max_length=max_length,
            seed=seed,
            text_column=text_column,
            description=description,
            progress=progress,
        )
        if made is None:
            return  # One of several processes, and not the one that speaks and publishes.
        summary = {
            "model": ref.id,
            "examples": made.metadata["examples"],
            "tokens": made.metadata["tokens"],
            "layers": len(made.layers),
            "uncounted": made.metadata["uncounted"],
            "bytes": made.nbytes,
            "folder": str(folder) if out else None,
        }
        made.close()
        if publish:
            published = publish_statistics(folder, repo, model=ref, pull_request=pull_request, force=force)
            summary |= {"url": published.url}
    if as_json:
        print_json(summary)
        return
    where = summary.get("url") or f"{folder}/"
    say(
        f"Statistics of {len(made.layers)} layers from {summary['examples']} texts ({summary['tokens']} tokens), "
        f"{size(summary['bytes'])} -> {where}"
    )
    if made.metadata["uncounted"]:
        say(f"No input was seen for {', '.join(made.metadata['uncounted'][:5])}: these layers will be averaged.")
    origin = "" if publish else f" --statistics {model}={folder}"
    say(f"next: fusehub merge {model} OTHER --method regmean{origin} --out merged")


@app.command(epilog="Example: fusehub inspect statistics/")
@command
def inspect(
    statistics: Annotated[
        str, typer.Argument(metavar="STATISTICS", help="A file, a folder, or a repo that holds them.")
    ],
    as_json: Json = False,
) -> None:
    """Show what a statistics file holds, and whether it is sound."""
    from fusehub.statistics.inspection import inspect as inspect_statistics

    with bar("Checking layers", quiet=as_json) as progress:
        summary = inspect_statistics(statistics, progress=progress)
    if as_json:
        print_json(summary.to_dict())
        return
    facts = summary.metadata
    data = facts["data"]
    at = f" at {facts['model']['commit'][:12]}" if facts["model"].get("commit") else ""
    say(f"{statistics}: statistics of {facts['model']['id']}{at} ({facts['model']['architecture']})")
    say(
        f"from {facts['examples']} texts, {facts['tokens']} tokens, of {data['source']}; "
        f"format version {facts['version']}, {size(summary.nbytes)}"
    )
    rows = [(x.name, x.size, x.rows, x.rank, x.condition, len(x.aliases)) for x in summary.layers]
    columns = ["layer", "inputs", "rows", "rank", "condition", "shared by"]
    table(None, columns, [(n, i, r, k, f"{c:.1e}", a + 1) for n, i, r, k, c, a in rows], numbers=columns[1:])


@app.command(
    epilog="Example: fusehub merge textattack/bert-base-uncased-imdb textattack/bert-base-uncased-yelp-polarity "
    "--method regmean --param alpha=0.9 --out merged"
)
@command
def merge(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL... | RECIPE.yaml", help="Two or more models, or one recipe.", show_default=False
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="New folder for the merged model.")] = None,
    method: Annotated[str | None, typer.Option(help="See `fusehub methods`. [dim]\\[default: regmean][/dim]")] = None,
    base: Base = None,
    statistics: Annotated[
        list[str] | None,
        typer.Option(
            "--statistics", metavar="MODEL=SOURCE", help="Where a model's statistics are, if not on the Hub."
        ),
    ] = None,
    weight: Annotated[
        list[str] | None, typer.Option("--weight", metavar="MODEL=NUMBER", help="A model's share; 1 if not said.")
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option("--param", metavar="KEY=VALUE", help="An option of the method.")
    ] = None,
    labels: Labels = None,
    heads: Annotated[str | None, typer.Option(help="merge, keep or auto (see `fusehub check --help`).")] = None,
    scale: Annotated[float | None, typer.Option(help="How far to go from the base; needs --base.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16 for the result.")] = None,
    seed: Annotated[int | None, typer.Option(help="For methods that draw random numbers.")] = None,
    max_shard_size: Annotated[str, typer.Option(help="Largest weight file, as 5GB or 500MB.")] = "5GB",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and what it will cost; merge nothing.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Go on where models look unrelated or statistics are of other weights.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Merge models into one. Nothing is downloaded before the plan stands; the result appears when it is complete."""
    from fusehub.merging import merge as merge_models
    from fusehub.merging import recipe_of
    from fusehub.plan import plan_merge

    if out is None and not dry_run:
        raise typer.BadParameter("say where the merged model goes", param_hint="--out")
    is_recipe = len(models) == 1 and models[0].endswith((".yaml", ".yml"))
    recipe = recipe_of(
        Path(models[0]) if is_recipe else models,
        method,
        base_model=base,
        heads=heads,
        scale=scale,
        dtype=dtype,
        seed=seed,
        statistics=console.pairs(statistics, "--statistics"),
        weights={name: console.scalar(value) for name, value in console.pairs(weight, "--weight").items()},
        labels=_labels(labels),
        parameters={key: console.scalar(value) for key, value in console.pairs(param, "--param").items()},
    )
    plan = plan_merge(recipe, force=force, max_shard_size=console.parse_size(max_shard_size, "--max-shard-size"))
    if dry_run:
        print_json(plan.to_dict()) if as_json else print_plan(plan)
        return
    if not as_json:
        print_findings(plan.report)
        for note in plan.notes:
            say(f"note: {note}")
    with bar(f"Merging {len(plan.experts)} models", quiet=as_json) as progress:
        result = merge_models(plan, out, progress=progress)
    if as_json:
        print_json({"folder": str(out), "notes": result.notes, "sha256": result.hashes, **summarise(plan)})
        return
    for text in sorted({note for notes in result.notes.values() for note in notes})[:5]:
        say(f"note: {text}")
    say(f"Merged {len(plan.experts)} models by {plan.method.title}: {describe_actions(plan)} -> {out}/", "green")
    names = [str(out / name) for name in plan.names] if plan.labels.policy == "keep" else [str(out)]
    sources = " ".join(entry.model for entry in recipe.models)
    say(f'next: fusehub compare {sources} {" ".join(names)} --ensemble --text "..."')
    say(f"      fusehub publish {out} USER/NAME")


@app.command(epilog="Example: fusehub methods")
@command
def methods(as_json: Json = False) -> None:
    """List the ways to merge, with their options."""
    from fusehub.methods import METHODS

    if as_json:
        described = {
            name: {
                "title": method.title,
                "summary": method.summary,
                "paper": method.paper,
                "needs_statistics": method.needs_statistics,
                "options": method.options.model_json_schema()["properties"],
            }
            for name, method in METHODS.items()
        }
        print_json(described)
        return
    for method in METHODS.values():
        console.out.print(f"[bold]{method.name}[/bold]  {method.title}  [dim]{method.paper or ''}[/dim]")
        console.out.print(f"  {method.summary}")
        for name, option in method.options.model_fields.items():
            default = str(option.default).lower() if isinstance(option.default, bool) else option.default
            console.out.print(f"  --param {name}={default}", style="cyan", markup=False, end="")
            console.out.print(f"  {option.description}", markup=False)
        console.out.print()


@app.command(epilog='Example: fusehub compare user/expert-1 user/expert-2 merged/ --ensemble --text "Not bad at all."')
@command
def compare(
    models: Models,
    text: Annotated[list[str] | None, typer.Option("--text", help="A text; can be said many times.")] = None,
    data: Annotated[str | None, typer.Option(metavar="SOURCE", help="Texts from data instead.")] = None,
    ensemble: Annotated[bool, typer.Option("--ensemble", help="Add the mean of the experts' probabilities.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Texts to take from --data.")] = 20,
    differing: Annotated[bool, typer.Option("--differing", help="Only texts on which the models disagree.")] = False,
    text_column: TextColumn = None,
    max_length: MaxLength = None,
    as_json: Json = False,
) -> None:
    """Show what several models say about the same texts, side by side."""
    from fusehub.comparison import compare as compare_models

    if bool(text) == bool(data):
        raise typer.BadParameter("give texts with --text, or data with --data", param_hint="--text")
    with bar("Predicting", quiet=as_json) as progress:
        comparison = compare_models(
            models, text, data=data, ensemble=ensemble, limit=limit, text_column=text_column, max_length=max_length,
            progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(comparison.to_dict())
        return
    for compared in comparison.texts:
        if differing and not compared.differs:
            continue
        known = f"  [{console.label_text(compared.label)}]" if compared.label is not None else ""
        console.out.print(f"{compared.text}{known}", style="bold", markup=False)
        rows = [
            (a.model, a.marked, None) if a.label is None else (a.model, console.label_text(a.label), a.probability)
            for a in compared.answers
        ]
        if all(probability is None for *_, probability in rows):
            table(None, ["model", "answer"], [row[:2] for row in rows])
        else:
            table(None, ["model", "answer", "probability"], rows, numbers=["probability"])
        console.out.print("[yellow]the models disagree[/yellow]\n" if compared.differs else "")


@app.command(epilog="Example: fusehub evaluate user/expert-1 merged/ --data films=user/films/test --ensemble")
@command
def evaluate(
    models: Models,
    data: Annotated[
        list[str], typer.Option("--data", metavar="NAME=SOURCE", help="Labelled data; can be said many times.")
    ],
    ensemble: Annotated[bool, typer.Option("--ensemble", help="Add the mean of the experts' probabilities.")] = False,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(help="Which examples --limit draws.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the scores as JSON, for `publish --results`.")] = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    max_length: MaxLength = None,
    as_json: Json = False,
) -> None:
    """Score models on labelled data: accuracy and macro F1, or entity F1."""
    import json

    from fusehub.evaluation import evaluate as evaluate_models

    sources = console.pairs(data, "--data")
    with bar("Predicting", quiet=as_json) as progress:
        evaluation = evaluate_models(
            models, sources, ensemble=ensemble, limit=limit, seed=seed, text_column=text_column,
            label_column=label_column, max_length=max_length, progress=progress,
        )  # fmt: skip
    if out is not None:
        out.write_text(json.dumps(evaluation.to_dict(), indent=2) + "\n", encoding="utf-8")
    if as_json:
        print_json(evaluation.to_dict())
        return
    rows = evaluation.rows()
    columns = list(rows[0])
    metric = next(iter(evaluation.scores[0].metrics))
    table(f"{metric}", columns, [[row.get(column) for column in columns] for row in rows], numbers=columns[1:])


@app.command(epilog="Example: fusehub publish merged/ user/merged --results scores.json")
@command
def publish(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a merged model.", show_default=False)],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="user/name, or name for your own.", show_default=False)],
    public: Annotated[bool, typer.Option("--public", help="Everyone can see it; private if not said.")] = False,
    pull_request: Annotated[
        bool, typer.Option("--pull-request", help="As a pull request to a repo that is there.")
    ] = False,
    exist_ok: Annotated[
        bool, typer.Option("--exist-ok", help="Push into a repo that is there; deletes nothing.")
    ] = False,
    results: Annotated[
        Path | None, typer.Option(help="Scores that `fusehub evaluate --out` wrote, for the card.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Push although a licence or a gate speaks against it.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the model card; push nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Push a merged model to the Hub with a card that says how it was made, and verify what arrived."""
    import json

    from fusehub.card import model_card
    from fusehub.errors import BadData
    from fusehub.publishing import publish as publish_model

    evaluation = None
    if results is not None:
        try:
            evaluation = json.loads(results.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadData(f"{results} cannot be read ({error}).", "Write it with `fusehub evaluate --out`.") from error
    if dry_run:
        card = model_card(folder, repo_id=repo, evaluation=evaluation)
        print_json({"card": str(card)}) if as_json else console.out.print(str(card), markup=False)
        return
    published = publish_model(
        folder, repo, public=public, pull_request=pull_request, exist_ok=exist_ok, evaluation=evaluation, force=force
    )
    if as_json:
        print_json(published.to_dict())
        return
    if published.pull_request_url:
        say(f"Pull request: {published.pull_request_url}", "green")
    else:
        say(f"Published ({'private' if published.private else 'public'}): {published.url}", "green")


@app.command(epilog="Example: fusehub hub ./my-hub --port 8730")
@command
def hub(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where its repos live.", show_default=False)],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8730,
    host: Annotated[str, typer.Option(help="Address to listen on; this machine alone if not said.")] = "127.0.0.1",
) -> None:
    """Serve a Hub on this machine: the real client works with it through HF_ENDPOINT, without an account."""
    from fusehub.errors import FuseHubError

    try:
        from fusehub.localhub import LocalHubError, serve
    except ImportError as error:
        raise FuseHubError(
            f"The local Hub needs a package that is not installed ({error.name}).", "pip install 'fusehub[hub]'"
        ) from error

    def ready(url: str) -> None:
        say(f"A Hub is running at {url} on the files in {folder}/. Ctrl-C ends it.", "green")
        say(f"To use it: export HF_ENDPOINT={url} HF_HUB_DISABLE_XET=1")
        say(f"Users and their tokens: {folder / 'users.json'} (the first user is 'user')")

    try:
        serve(folder, host=host, port=port, on_ready=ready)
    except LocalHubError as error:
        raise FuseHubError(str(error), "Choose another port with --port, or another folder.") from error


@app.command(epilog="Example: fusehub demo --folder demo")
@command
def demo(
    folder: Annotated[Path, typer.Option(help="Where everything it makes is kept.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of the experts' training.")] = 0,
    as_json: Json = False,
) -> None:
    """The whole way on this machine alone: train three experts, publish them, merge without data, score, publish."""
    from fusehub.demo import run

    report = run(folder, seed=seed, quiet=as_json)
    if as_json:
        print_json(report)


def _labels(given: list[str] | None) -> dict[str, list[str]] | None:
    named = console.pairs(given, "--labels")
    return {name: [label.strip() for label in text.split(",")] for name, text in named.items()} or None
