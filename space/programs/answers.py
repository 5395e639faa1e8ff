"""What the endpoints answer, as types: the schema that programs and agents see is made of them.

Models are called as they were asked for, everywhere. Bytes are bytes, times seconds, metrics fractions of 1 (but for
`mse` and `perplexity`). Each answer is one of these, or `Refused`.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict


class Doing(TypedDict):
    """Something that can be done: its `code`, what that is at an endpoint, and with which models (none: all)."""

    code: str
    does: str
    models: list[str]


class Problem(TypedDict):
    """What is wrong (`kind` is the name of the package's error), and what to do about it, by codes too."""

    kind: str
    what: str
    fix: str
    actions: list[Doing]


class Refused(TypedDict):
    """The answer to what cannot be done."""

    error: Problem


class Model(TypedDict):
    """A model of the Hub."""

    id: str
    task: str | None
    base: str | None
    parents: list[str]
    parameters: int | None
    weight_bytes: int | None
    license: str | None
    downloads: int
    likes: int
    gated: bool
    private: bool
    updated: str | None
    statistics_at: str | None
    offered_at: list[str]


class Found(TypedDict):
    """Models that were found."""

    models: list[Model]


class Way(TypedDict):
    """A method: `options` is the JSON schema of what `merge` takes as its options."""

    name: str
    title: str
    sentence: str
    when: str
    need: Literal["weights", "statistics", "fisher", "base", "pair", "texts"]
    takes_base: Literal["needed", "optional", "origin", "end"]
    fewest_models: int
    most_models: int | None
    negative_weights: bool
    paper: str | None
    options: dict[str, Any]


class Methods(TypedDict):
    """The methods that there are."""

    methods: list[Way]


class Measured(TypedDict):
    """Points of the main score above the mean, in our own tests, and in how many of the runs it was above."""

    points: float
    above: int
    runs: int


class Obstacle(TypedDict):
    """Why a method cannot run with what is at hand."""

    code: str
    what: str
    action: Doing


class Judged(TypedDict):
    """A method, as it would be used for the models."""

    method: str
    title: str
    sentence: str
    options: dict[str, Any]
    base_model: str | None
    gain: Measured | None
    can_run: bool
    obstacles: list[Obstacle]


class Recommended(TypedDict):
    """The way that the numbers speak for, the mean, what would be better and cannot run yet, and all others."""

    recommended: Judged
    reason: str
    baseline: Judged
    better: Judged | None
    others: list[Judged]
    is_measured: bool


class Facts(TypedDict):
    """What is known of a model from its files."""

    name: str
    id: str
    task: str | None
    architecture: str | None
    base: str | None
    parameters: int | None
    size: int
    dtypes: list[str]
    labels: list[str]
    license: str | None
    gated: bool


class Finding(TypedDict):
    """Something that a check found. An error speaks against a merge."""

    code: str
    level: Literal["error", "warning", "note"]
    what: str
    fix: str
    actions: list[Doing]


class Statistics(TypedDict):
    """Statistics of a model. `published_at` is where its owner has some, `offered_at` repos where others do, which
    decide merged weights and are used only where they are named; `problem` is why those there are cannot be used."""

    published_at: str | None
    when: str | None
    data: str | None
    examples: int | None
    tokens: int | None
    rows: int | None
    warnings: list[str]
    offered_at: list[str]
    problem: str | None


class Cost(TypedDict):
    """What a merge takes: bytes to download, to write, in memory; the work; and about how long."""

    download_bytes: int
    output_bytes: int
    memory_bytes: int
    gflop: int
    seconds: float


class Checked(TypedDict):
    """Whether models can be merged. `labels` are those of the merge; None where they cannot be matched."""

    ok: bool
    findings: list[Finding]
    models: list[Facts]
    labels: list[str] | None
    statistics: dict[str, Statistics]
    cost: Cost | None


class MergeArguments(TypedDict):
    """What `merge` takes."""

    models: list[str]
    method: str
    options: dict[str, Any]
    base_model: str | None
    weights: dict[str, float]
    labels: dict[str, list[str]]
    heads: Literal["auto", "merge", "keep"]
    statistics: dict[str, str]


class Recipe(TypedDict):
    """A recipe: its text (YAML), and the `arguments` by which `merge` makes it. `left_out` is what the recipe says
    beyond them; where it is empty, that is the recipe's merge. `notes` are on what it says and does nothing."""

    recipe: str
    arguments: MergeArguments
    left_out: list[str]
    notes: list[str]


class Collected(TypedDict):
    """Statistics that were made here; `name` stands for them in `merge`."""

    name: str
    model: str
    examples: int | None
    tokens: int | None
    rows: int | None
    fisher: bool
    warnings: list[str]


class Merged(TypedDict):
    """A merge that was made here. `models` has more than its `name` where each model keeps its head."""

    name: str
    models: list[str]
    method: str
    options: dict[str, Any]
    base_model: str | None
    weights: dict[str, float]
    recipe: str
    seconds: float
    notes: list[str]


class Entity(TypedDict):
    """A piece of a text that a model marks: `text[start:end]`."""

    start: int
    end: int
    label: str
    score: float
    text: str


class Answer(TypedDict):
    """What one model says of one text: `label` is None where it marks `entities`."""

    model: str
    label: str | list[str] | float | None
    probability: float | None
    probabilities: dict[str, float]
    entities: list[Entity]


class Text(TypedDict):
    """A text, and what each model says of it."""

    text: str
    differs: bool
    answers: list[Answer]


class Compared(TypedDict):
    """Texts by models, their ensemble (`ensemble`) among them where they have one."""

    task: str
    models: list[str]
    ensemble_of: list[str]
    texts: list[Text]


class Interval(TypedDict):
    """What a bootstrap over the examples leaves open."""

    low: float
    high: float


class Score(TypedDict):
    """What one model reaches on one dataset: the first metric is the main one. `few` says that it is of so few
    examples that it tells little."""

    model: str
    data: str
    source: str
    split: str | None
    revision: str | None
    examples: int
    few: bool
    seconds: float
    metrics: dict[str, float | None]
    intervals: dict[str, Interval | None]


class Difference(TypedDict):
    """How much better a model is than an expert in the main metric, on the same examples; above 0 where it is better.
    `data` is None for the mean over all datasets."""

    model: str
    against: str
    data: str | None
    value: float | None
    interval: Interval | None


class Row(TypedDict):
    """One model: the main metric on each dataset, their mean, and by how much that is better than the best expert's
    (of one dataset: than its own expert's); `gain` is None for the expert itself."""

    model: str
    is_expert: bool
    main: dict[str, float | None]
    mean: float | None
    gain: float | None
    interval: Interval | None


class Scored(TypedDict):
    """Scores of all models on all datasets; `summary` says in sentences what they mean."""

    task: str
    metric: str
    summary: list[str]
    table: list[Row]
    scores: list[Score]
    differences: list[Difference]
    ensemble_of: list[str]
    warnings: list[str]


class Card(TypedDict):
    """The model card of a merge, and what follows from the licenses of what went in."""

    text: str
    license: str | None
    why: str
    forbidden: bool
    conflicts: list[str]
    warnings: list[str]
    loosened: bool
    must_stay_private_for: list[str]


class Pushed(TypedDict):
    """Where a merge is on the Hub."""

    repo_id: str
    url: str
    commit: str
    private: bool
    pull_request_url: str | None
    demo_url: str | None
    demo_needs_token: bool


class File(TypedDict):
    """A file by its path in the merge, and the address that it is downloaded from."""

    name: str
    size: int
    url: str


class Download(TypedDict):
    """Addresses of a merge's files, and of all in one; whoever has them can download it while it is here."""

    name: str
    zip: str
    files: list[File]
