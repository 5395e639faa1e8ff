"""What the numbers of an evaluation mean, in sentences: how sure they are, and where a merge won and lost."""

from __future__ import annotations

from collections.abc import Iterable

from fusehub.comparing.evaluation import LESS_IS_BETTER, Difference, Evaluation, LabelDifference
from fusehub.comparing.intervals import FEW_EXAMPLES, Interval


def summary(found: Evaluation) -> list[str]:
    """Sentences about the evaluation: its intervals, data of few examples, and each merge against the experts."""
    return [*_intervals(found), *_few(found), *(line for model in _merges(found) for line in _of(found, model))]


def difference_words(value: float, metric: str, interval: Interval | None) -> str:
    """`+1.2 points [−0.3, +2.7]`; of metrics of which less is better, in their own unit."""
    unit = "" if metric in LESS_IS_BETTER else " points"
    times = 1 if metric in LESS_IS_BETTER else 100
    between = f" [{_signed(times * interval.low)}, {_signed(times * interval.high)}]" if interval else ""
    return f"{_signed(times * value)}{unit}{between}"


def _intervals(found: Evaluation) -> list[str]:
    drawn = found.resampling
    if drawn is None:
        return []
    level = f"{100 * drawn.confidence_level:g}"
    return [
        f"In brackets: {level} % intervals, of {drawn.resamples:,} resamples of the examples (seed {drawn.seed}); "
        "differences are on the same examples. They tell how much another sample of the same texts would change the "
        "numbers, and nothing of other kinds of text."
    ]


def _few(found: Evaluation) -> list[str]:
    """Which data is of too few examples, and that it is."""
    few = {score.data: score.examples for score in found.scores if score.few}
    if not few:
        return []
    told = ", ".join(f"{name} ({count})" for name, count in few.items())
    return [f"Too few examples to rely on: {told}. Under {FEW_EXAMPLES}, even the interval is too narrow."]


def _merges(found: Evaluation) -> list[str]:
    """What is held against experts: neither one of them nor their ensemble."""
    known = {own.model for own in found.differences}
    return [name for name in found.models if name in known and name not in found.experts and _has_weights(found, name)]


def _has_weights(found: Evaluation, model: str) -> bool:
    return any(score.model == model and score.model_id is not None for score in found.scores)


def _of(found: Evaluation, model: str) -> list[str]:
    """One merge: on average, and on which data sets it won and lost."""
    own = [difference for difference in found.differences if difference.model == model]
    average = next((difference for difference in own if difference.data is None), None)
    said = [_on_average(average)] if average else []
    each = [difference for difference in own if difference.data is not None]
    said += [_lost(one) for one in each if one.is_worse]
    said += [_won(each)] if any(one.is_better for one in each) else []
    unclear = [one for one in each if not (one.is_better or one.is_worse)]
    if unclear and found.resampling is not None:
        said.append(
            f"{model} on {_listed(_against(one) for one in unclear)}: these examples do not tell a difference."
        )
    return said


def _on_average(one: Difference) -> str:
    told = difference_words(one.value, one.metric, one.interval)
    verdict = "better" if one.is_better else "worse" if one.is_worse else "these examples do not tell which is better"
    best = ", the best expert on average" if one.chosen == "best" else " on average"
    return f"{one.model} against {one.against}{best}: {told}, {verdict}."


def _lost(one: Difference) -> str:
    told = difference_words(one.value, one.metric, one.interval)
    worst = min(one.labels, key=lambda label: label.value, default=None)
    where = f", most of all on the label {_label(worst)}" if worst is not None and worst.value < 0 else ""
    return f"{one.model} lost on {_against(one)}: {told}{where}."


def _won(each: list[Difference]) -> str:
    won = [one for one in each if one.is_better]
    told = [f"{_against(one)} ({difference_words(one.value, one.metric, one.interval)})" for one in won]
    return f"{won[0].model} won on {_listed(told)}."


def _label(label: LabelDifference) -> str:
    return f"{label.label} (F1 {difference_words(label.value, 'f1', label.interval)})"


def _against(one: Difference) -> str:
    """`films against its own expert ada`."""
    whom = f"its own expert {one.against}" if one.chosen == "own" else one.against
    return f"{one.data} against {whom}"


def _listed(items: Iterable[str]) -> str:
    *first, last = items
    return f"{', '.join(first)} and {last}" if first else last


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")
