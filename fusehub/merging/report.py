"""What a merge says of itself in fusehub_report.json, read back from a folder that anybody may have written.

The models below are the rule, as they are for statistics: what is needed must be there, and be of its kind. Names of
files and folders stay inside of the merge's own folder.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from fusehub.errors import BadFile, BadRecipe

# The name of a folder in the merge's own, and of a file in it or in one of those: not of dots alone.
_NAME = r"[\w.-]*[\w-][\w.-]*"
_Part = Annotated[str, Field(pattern=f"^{_NAME}$")]
_File = Annotated[str, Field(pattern=f"^({_NAME}/)?{_NAME}$")]
_Text = str | None


class _Told(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Origin(_Told):
    """A model whose terms the result is under."""

    name: str
    repo_id: _Text
    commit: _Text
    license: _Text
    private: bool
    folder: _Text = None


class _Data(_Told):
    source: _Text = None
    revision: _Text = None
    split: _Text = None


class _Statistics(_Told):
    origin: str
    data: _Data | None
    examples: NonNegativeInt | None
    tokens: NonNegativeInt | None


class _Source(_Told):
    """One expert."""

    name: str
    short_name: _Part
    repo_id: _Text
    commit: _Text
    weight: Any
    license: _Text
    private: bool
    languages: Any
    datasets: Any
    adapter_base: _Origin | None
    statistics: _Statistics | None


class _Tensor(_Told):
    name: str
    shape: list[NonNegativeInt]
    action: str
    why: str
    solved_with: _Text = None


class _Note(_Told):
    """What a method said of a layer."""

    kind: str
    text: str


class _Finding(_Told):
    what: str
    level: str
    code: _Text = None


class _Trial(_Told):
    values: dict[str, Any]
    weights: list[float] | None
    scores: dict[str, float | None]
    mean: float | None


class _TunedOn(_Data):
    name: str
    examples: NonNegativeInt


class Tuning(_Told):
    """How validation data chose the options."""

    over: dict[str, list[Any]]
    weights: list[float] | None
    data: list[_TunedOn]
    metric: str
    complete: bool
    most_trials: int
    trials: list[_Trial] = []
    chosen: int | None = None


class _Report(_Told):
    method: str
    options: dict[str, Any]
    model_options: list[dict[str, Any]]
    base: _Text
    heads: Literal["merge", "keep"]
    labels: list[str]
    findings: list[_Finding]
    notes: list[str]
    layer_notes: dict[str, list[_Note]]
    precision: dict[str, str] = {}
    statistics: list[str]
    data: list[dict[str, Any]] = []
    tuning: Tuning | None = None
    tensors: list[_Tensor]
    sha256: dict[_File, str]
    sources: list[_Source] = Field(min_length=1)
    base_source: _Origin | None
    software: dict[str, str]


def check_report(report: Any, owner: str) -> dict[str, Any]:
    """`report` as it is. Raises `BadFile` naming what is missing in it, or is of a kind that it cannot be."""
    try:
        _Report.model_validate(report)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "all of it"
        raise BadFile(
            f"The report of the merge in {owner}, fusehub_report.json, is broken: {where}: {first['msg']}.",
            "Merge again.",
        ) from error
    return report


class _Provenance(_Told):
    """What FuseHub writes into the recipe of a merge that was made."""

    weights: list[dict[str, str]] | None = None
    data: list[dict[str, Any]] | None = None
    software: dict[str, str] | None = None
    tuning: Tuning | None = None


def require_provenance(provenance: dict[str, Any], models: int) -> None:
    """Raises `BadRecipe` where it is not of the kinds that FuseHub writes, or not of as many models."""
    fix = "Delete `provenance` from the recipe: it is then planned anew."
    try:
        told = _Provenance.model_validate(provenance)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("provenance", *first["loc"])))
        raise BadRecipe(f"Recipe, {where}: {first['msg']}.", fix) from error
    for key, own in (("weights", told.weights), ("data", told.data)):
        if own is not None and len(own) != models:
            raise BadRecipe(f"Recipe, provenance.{key} is of {len(own)} models, and the recipe has {models}.", fix)
