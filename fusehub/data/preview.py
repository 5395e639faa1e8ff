"""What data has before it is used: its parts, its columns, which of them would be read, and which labels those are.

    seen = preview_data("user/reviews", ["user/expert-1", "user/expert-2"])
    seen.text_columns, seen.why_texts      # ("review",), "columns of texts are often called so"
    seen.labels["user/expert-1"]           # {"1": "positive", "0": "negative"}

It reads the first rows alone, by the same functions as `collect` and `evaluate`, so that what they would read is told.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from fusehub.data.columns import Columns, choose_columns
from fusehub.data.examples import Examples, read_examples
from fusehub.data.label_matching import from_multi_hot, match_labels, one_a_text
from fusehub.data.tables.hub_datasets import parse_dataset
from fusehub.data.tables.table import Table
from fusehub.data.tasks import data_of
from fusehub.data.values import value_of
from fusehub.errors import BadData, FuseHubError, NotFound
from fusehub.hub.access import Access
from fusehub.models.ref import ModelRef
from fusehub.models.resolve import refs_of
from fusehub.models.tasks import TASKS, has_labels, labels_of, problem_type_of, task_of
from fusehub.utils.logging import gathering
from fusehub.utils.reach import local_path

ROWS, PICTURES = 2000, 100
"""So many rows are read for their labels at most, of texts and of images."""
_SHOWN = 3
# Characters of a value that a person reads.
_LONGEST = 120


@dataclass(frozen=True)
class DataPreview:
    """What data has, and what of it would be read.

    Attributes:
        source: The data by its name, with the config and the split where one of several had to be chosen.
        task: What the models are for.
        config: The config that was read, of a data set on the Hub.
        configs: All of them.
        split: The split that was read, where there are some.
        splits: All of them.
        columns: All columns.
        text_columns: Those that models are given; none where it is not clear which they are.
        most_text_columns: How many they may be.
        why_texts: Why those.
        label_column: The column with the labels, or several with commas between them that are labels by themselves.
        why_label: Why that.
        rows: The first rows, each value as a short text.
        examples: How many rows were read for their labels.
        labels: Model -> each label of these rows -> the model's label that it is taken for; None where it has none.
        warnings: What to know.
        problems: Why the data cannot be used as it stands, each with what to do.

    Examples:
        >>> seen = fusehub.preview_data("user/texts", ["user/expert-1"])
        >>> seen.text_columns, seen.label_column
        (('text',), 'label')
    """

    source: str
    task: str
    config: str | None
    configs: tuple[str, ...]
    split: str | None
    splits: tuple[str, ...]
    columns: tuple[str, ...]
    text_columns: tuple[str, ...]
    most_text_columns: int
    why_texts: str
    label_column: str | None
    why_label: str
    rows: tuple[Mapping[str, str], ...]
    examples: int
    labels: Mapping[str, Mapping[str, str | None]]
    warnings: tuple[str, ...]
    problems: tuple[FuseHubError, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against using it as it stands."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """The preview as plain data.

        Returns:
            Each attribute by its name, `ok` among them; each problem as its `what` and its `fix`.
        """
        problems = [{"what": problem.what, "fix": problem.fix} for problem in self.problems]
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return plain | {"problems": problems, "ok": self.ok}


def preview_data(
    source: str | os.PathLike[str],
    models: Sequence[str | ModelRef],
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    labelled: bool = True,
    default_split: str = "test",
    token: bool | str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> DataPreview:
    """What `source` has for `models`. Where one of several configs or splits has to be named, the first is looked at.

    Args:
        source: A file, a folder or `user/dataset[:config][/split]`.
        models: One or more, all for one task.
        text_column: The column that has the texts; guessed where it is not said.
        label_column: The column that has the labels; guessed where it is not said.
        labelled: Whether labels are wanted, as for `evaluate`; for `collect` they are not.
        default_split: The split that is read where `source` names none: `test` by `evaluate`, `train` by `collect`.
        token: The Hub's token; None for the one of `hf auth login` if there is one, True where there must be, False
            for none.
        cache_dir: Where downloads lie; the Hub's cache of this machine where nothing is said.
        local_files_only: Read what is in the cache already, and ask the Hub for nothing.

    Returns:
        Parts, columns, the first rows, and the models' labels; what would stop the data from being used is in
        `problems`.

    Raises:
        NotFound: There is no such data, model, config or split.
        BadData: It cannot be read.

    Examples:
        >>> fusehub.preview_data("user/texts", ["user/expert-1"]).columns
        ('text', 'label')
    """
    access = Access(token, cache_dir, local_files_only)
    if not models:
        raise BadData("There is no model.", "Name at least one model.")
    refs = refs_of(models, access)
    task = task_of(refs[0].config, refs[0].name).name
    labelled = labelled and not TASKS[task].unlabelled
    with gathering() as told:
        place, table = _opened(os.fspath(source).strip(), task, default_split, access)
        most = PICTURES if TASKS[task].of_images else ROWS
        rows = list(islice(table.rows, most))
        own = labels_of(refs[0].config, refs[0].name) if has_labels(refs[0].config) else []
        columns, problems = _columns(replace(table, rows=iter(rows)), task, text_column, label_column, labelled, own)
        matched: dict[str, dict[str, str | None]] = {}
        read = 0
        if columns is not None:
            try:
                examples = read_examples(
                    replace(table, rows=iter(rows)), columns, task, need_labels=labelled and not problems
                )
                read = len(examples)
                if labelled and not problems and has_labels(refs[0].config):
                    matched, unmatched = _matched(examples, refs)
                    # Where only the first rows were read, others may make it certain which labels those are.
                    told += [
                        f"Of the first {most:,} rows: {problem.what}" for problem in unmatched if len(rows) == most
                    ]
                    problems = unmatched if len(rows) < most else []
            except FuseHubError as error:
                problems = [error]
    texts, label = (columns.texts, ",".join(columns.bits) or columns.label) if columns else ((), None)
    return DataPreview(
        source=place,
        task=task,
        config=table.config,
        configs=tuple(table.configs),
        split=table.split,
        splits=tuple(table.splits),
        columns=tuple(map(str, table.columns)),
        text_columns=texts,
        most_text_columns=data_of(task).columns.most,
        why_texts=columns.why_texts if columns else "",
        label_column=label if labelled else None,
        why_label=columns.why_label if columns and labelled else "",
        rows=tuple(_shown(row, table) for row in rows[:_SHOWN]),
        examples=read,
        labels=matched,
        warnings=tuple(dict.fromkeys(told)),
        problems=tuple(problems),
    )


def with_parts(source: str, config: str | None = None, split: str | None = None) -> str:
    """The data on the Hub that `source` names, in this config and this split: "" for what is read by itself.

    None leaves a part as it is.
    """
    name = parse_dataset(source)
    parts = {part: said for part, said in (("config", config), ("split", split)) if said is not None}
    return str(replace(name, **parts))


def _opened(source: str, task: str, default_split: str, access: Access) -> tuple[str, Table]:
    """The table, and the name that it was opened by: with the first of its parts, where one has to be named."""
    for _ in range(2):
        try:
            return source, data_of(task).open(source, default_split=default_split, access=access, draw=None)
        except NotFound as error:
            path = local_path(source)
            if not error.among or (path is not None and path.exists()):
                raise
            name = parse_dataset(source)
            if getattr(name, error.part) is not None:
                raise
            source = str(replace(name, **{error.part: error.among[0]}))
    return source, data_of(task).open(source, default_split=default_split, access=access, draw=None)


def _columns(
    table: Table,
    task: str,
    text_column: str | None,
    label_column: str | None,
    labelled: bool,
    labels: Sequence[str],
) -> tuple[Columns | None, list[FuseHubError]]:
    """The columns that would be read, and why not where it is not clear which; those of texts alone where that is."""
    guesses = data_of(task).columns
    said = (text_column, label_column if labelled else None)
    try:
        return choose_columns(table, guesses, *said, labelled, labels), []
    except FuseHubError as error:
        try:
            return choose_columns(table, guesses, *said, False, labels), [error]
        except FuseHubError as first:
            return None, [first]


def _matched(
    examples: Examples, refs: Sequence[ModelRef]
) -> tuple[dict[str, dict[str, str | None]], list[FuseHubError]]:
    """For each model, which of its labels each of the data's is; and those whose labels do not go with the data's."""
    found, problems = {}, []
    for ref in refs:
        labels = labels_of(ref.config, ref.name)
        if data_of(examples.task).chooses_label and problem_type_of(ref.config, ref.name) == "regression":
            continue
        try:
            own = match_labels(one_a_text(from_multi_hot(examples, labels), labels), labels)
            found[ref.name] = {label: None if at is None else labels[at] for label, at in own.items()}
        except BadData as error:
            problems.append(error.retold(f"{ref.name}: {error.what}"))
    return found, problems


def _shown(row: Mapping[str, Any], table: Table) -> dict[str, str]:
    return {str(column): _told(value_of(dict(row), column), table.names.get(column)) for column in table.columns}


def _told(value: Any, names: Sequence[str] | None) -> str:
    """A value as a short text; of a number that stands for a label, its name too."""
    if value is None:
        return ""
    if names and isinstance(value, int) and 0 <= value < len(names):
        return f"{value} ({names[value]})"
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        return f"an image of {len(value['bytes']):,} bytes"
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
