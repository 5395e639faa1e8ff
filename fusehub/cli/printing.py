"""What the command line prints of a report and of a plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fusehub.cli.console import say, table
from fusehub.comparing.summary import difference_words
from fusehub.utils.formats import describe, parameters, size

if TYPE_CHECKING:
    from fusehub.checking.report import Report
    from fusehub.comparing.evaluation import Evaluation
    from fusehub.comparing.intervals import Interval
    from fusehub.comparing.trials import Tuned
    from fusehub.data.preview import DataPreview
    from fusehub.merging.plan import Plan
    from fusehub.merging.planner import TensorPlan
    from fusehub.utils.findings import Finding

# A column of scores over several sets of data; a row of a merge by the mean is called "mean".
ON_AVERAGE = "on average"


def print_report(report: Report) -> None:
    """The models of a compatibility report as a table, and its findings."""
    kinds = {(model.task, model.architecture) for model in report.models}
    rows = []
    for model in report.models:
        facts: dict[str, str | None] = {"model": model.name}
        if len(kinds) > 1:
            facts |= {"task": model.task, "architecture": model.architecture}
        facts |= {
            "parameters": parameters(model.parameters) if model.parameters else None,
            "size": size(model.size),
            "labels": ", ".join(model.labels[:6]) + (" ..." if len(model.labels) > 6 else ""),
            "license": model.license,
            "base": model.base,
            "statistics": "yes" if model.statistics else "no",
        }
        rows.append(facts)
    title = " for ".join(filter(None, reversed(next(iter(kinds))))) if len(kinds) == 1 else None
    table(title, list(rows[0]), [list(row.values()) for row in rows], numbers=["parameters", "size"])
    print_findings(report.findings)


def print_findings(findings: Iterable[Finding]) -> None:
    """All findings, the gravest first."""
    findings, styles = list(findings), {"error": "red", "warning": "yellow", "note": "dim"}
    for level in styles:
        for finding in findings:
            if finding.level == level:
                say(f"{level}: {finding.what}", styles[level])
                if finding.fix:
                    say(f"  -> {finding.fix}")


def print_plan(plan: Plan) -> None:
    """What will be done with every tensor, and what it will cost."""
    table(
        f"{plan.method.title}: {describe(plan.settings.written())}",
        ["tensor", "shape", "dtype", "what", "why"],
        [
            (t.name, "x".join(map(str, t.info.shape)), t.info.dtype, t.action, t.why)
            for t in plan.tensors.values()
        ],
    )  # fmt: skip
    options = plan.model_options
    if options[0]:
        rows = [[ref.name, *map(str, own.values())] for ref, own in zip(plan.experts, options, strict=True)]
        table("Models", ["model", *options[0]], rows)
    if plan.base:
        say(f"base: {plan.base.name}")
    if plan.donors:
        files = plan.donors.described().items()
        say("; ".join(f"{kind.replace('_', ' ')} of {whose}" for kind, whose in files if whose))
    print_findings(plan.report.findings)
    for note in plan.notes:
        say(f"note: {note}")
    for ref, found in zip(plan.experts, plan.statistics, strict=False):
        say(f"statistics of {ref.name}: {found.words()}")
    cost = plan.cost
    say(
        f"{describe_actions(plan.tensors)}. "
        f"Download {size(cost['download_bytes'])}, write {size(cost['output_bytes'])}, "
        f"memory at most about {size(cost['memory_bytes'])}, {cost['gflop']} GFLOP."
    )


def print_preview(seen: DataPreview) -> None:
    """Parts, columns with what they would be read as, the first rows, the labels of each model, and what is wrong.

    What else is to be known was said when it was read.
    """
    for kind, one, every in (("config", seen.config, seen.configs), ("split", seen.split, seen.splits)):
        if len(every) > 1:
            say(f"{kind}: {one} of {', '.join(every)}")
    read = dict.fromkeys(seen.text_columns, ("input", seen.why_texts))
    read |= dict.fromkeys((seen.label_column or "").split(","), ("label", seen.why_label))
    rows = [[name, *read.get(name, ("-", "")), *(row[name] for row in seen.rows[:1])] for name in seen.columns]
    table(seen.source, ["column", "read as", "because", *(["first row"] if seen.rows else [])], rows)
    for model, labels in seen.labels.items():
        said = ", ".join(f"{label} = {own or 'none of its labels'}" for label, own in labels.items())
        say(f"{model}: {said}")
    for problem in seen.problems:
        say(f"problem: {problem.what}", "red")
        say(f"  -> {problem.fix}")


def print_evaluation(evaluation: Evaluation, *, per_label: bool = False) -> None:
    """Scores with their intervals, what each model is better by than the experts, and in words what that means."""
    data = evaluation.data
    means = evaluation.mean() if len(data) > 1 else {}
    heads = ["model", *data, *([ON_AVERAGE] if means else [])]
    rows = []
    for model in evaluation.models:
        scores = [evaluation.score_of(model, name) for name in data]
        cells = [_with_interval(score.main, score.intervals.get(score.metric)) for score in scores]
        mean = [_with_interval(means[model], evaluation.mean_intervals.get(model))] if means else []
        rows.append([model, *cells, *mean])
    table(evaluation.scores[0].metric, heads, rows, numbers=heads[1:])
    if evaluation.differences:
        _print_differences(evaluation)
    if per_label:
        _print_labels(evaluation)
    for line in evaluation.summary:
        say(line)


def _print_differences(evaluation: Evaluation) -> None:
    """Under the name of each column, whom the others are held against there."""
    places: list[str | None] = [*evaluation.data, *([None] if len(evaluation.data) > 1 else [])]
    against = {own.data: own.against for own in evaluation.differences}
    heads = ["model", *(f"{place or ON_AVERAGE} against {against[place]}" for place in places if place in against)]
    rows = []
    for model in evaluation.models:
        found = [evaluation.difference_of(model, place) for place in places if place in against]
        rows.append([model, *(own and difference_words(own.value, own.metric, own.interval) for own in found)])
    table("better by", heads, rows, numbers=heads[1:])


def _print_labels(evaluation: Evaluation) -> None:
    rows: list[list[Any]] = [
        [score.data, label.label, score.model, label.precision, label.recall,
         _with_interval(label.f1, label.interval), f"{label.support} (few)" if label.few else str(label.support)]
        for score in evaluation.scores
        for label in score.labels
    ]  # fmt: skip
    heads = ["data", "label", "model", "precision", "recall", "f1", "support"]
    # All models of a label stand below each other.
    rows.sort(key=lambda row: (evaluation.data.index(row[0]), row[1]))
    table("per label", heads, rows, numbers=heads[3:])


def _with_interval(value: float, interval: Interval | None) -> str:
    return f"{value:.4f} [{interval.low:.4f}, {interval.high:.4f}]" if interval else f"{value:.4f}"


def print_tuning(tuned: Tuned) -> None:
    """Every trial of a search with its scores, and the one that was chosen."""
    searched = list(tuned.best.values)
    names = list(tuned.best.scores)
    heads = ["trial", *searched, *(["weights"] if tuned.best.weights else []), *names]
    heads += [ON_AVERAGE, ""] if len(names) > 1 else [""]
    rows = []
    for place, trial in enumerate(tuned.trials):
        row: list[Any] = [str(place + 1), *(str(trial.values[name]) for name in searched)]
        row += [" : ".join(f"{weight:g}" for weight in trial.weights)] if trial.weights else []
        row += [trial.scores[name] for name in names]
        row += [trial.mean] if len(names) > 1 else []
        rows.append([*row, "chosen" if place == tuned.chosen else ""])
    table(f"Tuning: {tuned.metric}", heads, rows, numbers=heads[:-1])


def describe_actions(tensors: Mapping[str, TensorPlan]) -> str:
    """`38 tensors solved, 67 tensors averaged`."""
    words = {"solve": "solved", "combine": "combined", "mean": "averaged", "copy": "copied"}
    counts = {action: sum(t.action == action for t in tensors.values()) for action in words}
    return ", ".join(f"{count} tensors {words[action]}" for action, count in counts.items() if count)


def summarise(plan: Plan) -> dict[str, Any]:
    """The plan without its tensors, for `--json`."""
    whole = plan.to_dict()
    keys = ["method", "options", "models", "model_options", "base", "files", "statistics", "heads", "labels", "cost"]
    keys += ["tuning"] if plan.tuning else []
    return {key: whole[key] for key in keys}
