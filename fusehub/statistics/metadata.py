"""What a statistics file says of itself: the JSON in its header and beside it, checked before anything is used.

The models below are the rule; `schema.json` is their JSON schema, for those who check without this package. Keys
that this version does not know are kept and ignored, so that what is added later need not change the version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from fusehub.errors import Action, BadStatistics, shortly

FORMAT = "fusehub-statistics"
VERSION = 1
REMAKE = "Make them again with `fusehub collect`."
Sha256 = str


class _Told(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class ModelTold(_Told):
    """The model whose layers were watched."""

    id: str = Field(min_length=1, description="Its repo on the Hub, or the name of its folder.")
    commit: str | None = Field(None, description="The repo's commit.")
    architecture: str | None = Field(None, description="Its class, as config.json names it.")
    base_model: str | list[str] | None = Field(None, description="What its card says it was fine-tuned from.")
    bytes: PositiveInt | None = Field(None, description="Bytes of its weight files together.")
    weights: dict[str, Sha256] = Field(description="sha256 of each weight file, in hexadecimal, by its name.")


class DataTold(_Told):
    """Where the rows come from."""

    source: str | None = Field(None, description="A data set, a file's name, or the owner's own words.")
    revision: str | None = Field(None, description="The data set's commit.")


class LayerTold(_Told):
    """One stored layer."""

    rows: NonNegativeInt = Field(description="Input rows that were counted (`NAME.n`).")
    size: PositiveInt = Field(description="Inputs of the layer.")
    encoding: Literal["triangle", "correlations", "factor", "diagonal"] = Field(description="How its gram is stored.")
    bits: Literal[8, 16] | None = Field(None, description="Bits of a correlation; only with `correlations`.")
    rank: PositiveInt | None = Field(None, description="Columns of the factor; only with `factor`.")

    @model_validator(mode="after")
    def _what_belongs_to_the_encoding(self) -> LayerTold:
        if (self.bits is None) == (self.encoding == "correlations"):
            raise ValueError("correlations, and nothing else, have bits")
        if (self.rank is None) == (self.encoding == "factor"):
            raise ValueError("a factor, and nothing else, has a rank")
        return self


class FisherTold(_Told):
    """The Fisher diagonals that lie beside, in `fisher.safetensors`."""

    kind: str = Field(description="How the expectation over labels was taken.")
    examples: NonNegativeInt = Field(description="Examples whose gradients were squared.")
    samples: PositiveInt | None = Field(None, description="Labels drawn an example; null for the exact expectation.")
    seed: int | None = Field(None, description="What the labels were drawn by.")


class NoiseTold(_Told):
    """The noise that was added, and what it promises each example."""

    epsilon: float = Field(gt=0, allow_inf_nan=False, description="ε of differential privacy.")
    delta: float = Field(ge=0, allow_inf_nan=False, description="δ of differential privacy.")


class PartTold(_Told):
    """The facts of statistics that were added to others."""

    data: DataTold | None = None
    examples: NonNegativeInt | None = None
    tokens: NonNegativeInt | None = None
    max_length: PositiveInt | None = None
    seed: int | None = None
    noise: NoiseTold | None = None


class StatisticsTold(_Told):
    """Metadata of statistics, format version 1."""

    format: Literal["fusehub-statistics"]
    version: Literal[1]
    model: ModelTold
    size: Literal["full", "half", "compact", "tiny"] = Field(description="How finely the grams are stored.")
    layers: dict[str, LayerTold] = Field(description="Stored layers, by their weight's name in the checkpoint.")
    aliases: dict[str, str] = Field(description="Layers with the same inputs as a stored one: their name to its.")
    uncounted: list[str] = Field([], description="Linear layers that no input was seen for.")
    task: str | None = Field(None, description="What the model does, in the Hub's words.")
    tokenizer: dict[str, Sha256] = Field({}, description="sha256 of the tokenizer's files.")
    data: DataTold | None = None
    examples: NonNegativeInt | None = None
    tokens: NonNegativeInt | None = None
    max_length: PositiveInt | None = Field(None, description="Where texts were cut, in tokens.")
    seed: int | None = Field(None, description="What examples were chosen by.")
    labels: dict[str, NonNegativeInt] | None = Field(None, description="Examples of each label, where they have any.")
    standard_errors: dict[str, NonNegativeFloat] | None = Field(
        None, description="Stored layers: the standard error of the gram, relative to it, as far as it is known."
    )
    noise: NoiseTold | None = Field(None, description="The noise that was added; null for none.")
    fisher: FisherTold | None = None
    parts: list[PartTold] | None = Field(None, description="What was added up: the facts of each part.")
    imported: dict[str, Any] | None = Field(None, description="What other file these were made from.")
    software: dict[str, str] = Field({}, description="Versions of what made them.")

    @model_validator(mode="after")
    def _aliases_are_stored(self) -> StatisticsTold:
        for name, target in self.aliases.items():
            if target not in self.layers or name in self.layers:
                raise ValueError(f"the alias {name} refers to {target}, which is not among the layers")
        return self


def check_metadata(metadata: Any, origin: str) -> dict[str, Any]:
    """`metadata` if it is the metadata of statistics of a version that we know; else raises `BadStatistics`."""
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise BadStatistics(f"{origin} does not hold statistics.", "Give a file made by `fusehub collect`.")
    if (version := metadata.get("version")) != VERSION:
        raise BadStatistics(
            f"{origin} has version {shortly(version)} of the format; this FuseHub reads version {VERSION}.",
            "Update FuseHub.",
        )
    try:
        StatisticsTold.model_validate(metadata, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        if first["type"] == "missing":
            said = f"lacks {where!r}"
        else:
            said = f"is wrong: {where + ': ' if where else ''}{first['msg']}"
        raise BadStatistics(f"{origin}: its metadata {said}{more}.", REMAKE) from error
    return metadata


def require_weights(metadata: Mapping[str, Any], origin: str, model: str, hashes: Mapping[str, str]) -> None:
    """Raises `BadStatistics` unless the statistics were made with exactly the weights `hashes` of `model`."""
    made_for = metadata["model"]
    if sorted(made_for["weights"].values()) != sorted(hashes.values()):
        named = made_for["id"] + (f" at {made_for['commit'][:8]}" if made_for.get("commit") else "")
        raise BadStatistics(
            f"The statistics {origin} were made for other weights ({named}) than those of {model}.",
            "Give the statistics of these weights, make them with `fusehub collect`, or say --allow-other-weights.",
            actions=[Action("collect-statistics")],
        )


def schema() -> dict[str, Any]:
    """The JSON schema of the metadata; what `schema.json` holds."""
    made = StatisticsTold.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Statistics, version 1", **made}
