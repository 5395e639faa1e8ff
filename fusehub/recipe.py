"""A merge as a YAML file, in mergekit's words, so that its users feel at home and simple recipes run unchanged.

    merge_method: regmean
    models:
      - model: textattack/bert-base-uncased-imdb
        parameters: {weight: 1.0}
        statistics: auto                  # ours: where the grams come from; or data-free, without any
        # data: reviews.csv               # ours: for methods that run the model over texts of each expert
      - model: textattack/bert-base-uncased-rotten-tomatoes
    parameters: {alpha: 0.9}              # one value, a list over the layers, or {filter, value}s
    heads: auto                           # ours: merge (by label name), keep (one a model), auto

What is not known or not supported is refused by name. A merge writes the same recipe beside its weights with
everything resolved; running that one again checks that it meets the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fusehub.errors import BadRecipe, NotFound, unknown
from fusehub.labels import Heads

FILENAME = "fusehub_recipe.yaml"

# Keys of mergekit's that FuseHub does not support, and why.
_UNSUPPORTED = {
    "slices": "layers cannot be stacked or left out; only one slice with all layers of each model is understood",
    "modules": "models of several modules are not supported",
    "tokenizer": "all models of a merge must share one tokenizer, which is copied",
    "tokenizer_source": "all models of a merge must share one tokenizer, which is copied",
    "chat_template": "the first model's chat template is copied",
    "name": "files with several recipes are not supported",
}
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}


def _with_models(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """mergekit's other list of models: one slice with all layers of each. Other slices stay, and are refused."""
    slices = content.get("slices")
    if not isinstance(slices, list) or len(slices) != 1 or content.get("models") or not isinstance(slices[0], Mapping):
        return content
    sources = slices[0].get("sources")
    if set(slices[0]) - {"sources", "parameters"} or not isinstance(sources, list) or not sources:
        return content
    if any(not isinstance(s, Mapping) or set(s) - {"model", "layer_range", "parameters"} for s in sources):
        return content
    ranges = [source.get("layer_range") for source in sources]
    first = ranges[0]
    if not isinstance(first, list) or len(first) != 2 or first[0] != 0 or any(own != first for own in ranges):
        return content
    rest = {key: value for key, value in content.items() if key != "slices"}
    return rest | {
        "models": [{key: value for key, value in source.items() if key != "layer_range"} for source in sources],
        "parameters": {**(content.get("parameters") or {}), **(slices[0].get("parameters") or {})},
        "layers": first[1],
    }


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelEntry(_Strict):
    """One model of a recipe."""

    model: str = Field(description="user/name, user/name@revision or a folder")
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="weight, and what else the method takes of each model, as density"
    )
    statistics: str = Field(
        "auto", description="auto, a file, a folder, a repo that holds its statistics, or data-free"
    )
    labels: tuple[str, ...] | None = Field(
        None, description="names of the rows of its head, where its config has none"
    )
    data: str | None = Field(
        None, description="a file, a folder or user/dataset of its domain, for a method that runs the model over it"
    )
    text_column: str | None = Field(None, description="the column of its data that has the texts; guessed if not said")


class Recipe(_Strict):
    """All that determines a merge."""

    merge_method: str = Field(description="the name of a method: see `fusehub methods`")
    models: tuple[ModelEntry, ...] = Field(min_length=1, description="two models or more")
    base_model: str | None = Field(None, description="the pretrained model that they share")
    parameters: dict[str, Any] = Field(default_factory=dict, description="options of the method")
    dtype: Literal["float32", "float16", "bfloat16", "float64"] | None = Field(
        None, description="dtype of the result where out_dtype does not say; the arithmetic is never narrower"
    )
    out_dtype: Literal["float32", "float16", "bfloat16", "float64"] | None = Field(
        None, description="dtype of the result"
    )
    heads: Heads = Field("auto", description="merge, keep, or auto")
    scale: float = Field(1.0, allow_inf_nan=False, description="how far to go from the base: W0 + scale * (W - W0)")
    seed: int = Field(0, description="for methods that draw random numbers, and for which examples limit draws")
    limit: int | None = Field(None, ge=1, description="how many examples of each model's data are taken, 1 or more")
    max_length: int | None = Field(None, ge=1, description="where texts of the data are cut, in tokens")
    as_adapter: bool = Field(False, description="true writes a merge of adapters over one base as an adapter")
    layers: int | None = Field(
        None, description="how many layers mergekit's `slices` took of each model: all that they have"
    )
    plugins: tuple[dict[str, str], ...] = Field(
        (), description="written by FuseHub: file and sha256 of what --plugin named; nothing is loaded by it"
    )
    provenance: dict[str, Any] | None = Field(
        None, description="written by FuseHub: hashes and versions of a merge made"
    )

    @property
    def stored_dtype(self) -> str | None:
        """safetensors' name of the dtype that the result is stored in; None: like the first model."""
        said = self.out_dtype or self.dtype
        return _DTYPES[said] if said else None

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> Recipe:
        """A recipe from plain data. Raises `BadRecipe` that names the key, the nearest known one, and the reason."""
        if not isinstance(content, Mapping):
            raise BadRecipe("The recipe is not a mapping of keys to values.", "Begin with `merge_method: regmean`.")
        content = _with_models(content)
        for key in content:
            if key in _UNSUPPORTED:
                raise BadRecipe(
                    f"FuseHub does not support the key '{key}': {_UNSUPPORTED[key]}.", f"Leave out '{key}'."
                )
            if key not in cls.model_fields:
                raise unknown("key in a recipe", str(key), [key for key in cls.model_fields if key != "provenance"])
        models = content.get("models")
        for number, entry in enumerate(models if isinstance(models, list | tuple) else ()):
            if not isinstance(entry, Mapping):
                raise BadRecipe(f"Recipe, models.{number}: {entry!r} is no mapping.", "Write `- model: user/name`.")
            for key in entry:
                if key not in ModelEntry.model_fields:
                    raise unknown("key of a model in a recipe", str(key), ModelEntry.model_fields)
        content = {key: value for key, value in content.items() if value is not None}
        models = content.get("models", ())
        if isinstance(models, list | tuple) and len(models) + bool(models and content.get("base_model")) < 2:
            raise BadRecipe("A merge takes at least two models.", "Name two or more, or a recipe that does (.yaml).")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            top = cls.model_fields.get(str(first["loc"][0])) if first["loc"] else None
            raise BadRecipe(
                f"Recipe, {where}: {first['msg']}.", f"{first['loc'][0]}: {top.description}" if top else "Correct it."
            ) from error

    @classmethod
    def of(cls, models: Sequence[str], method: str = "regmean", **changes: Any) -> Recipe:
        """The recipe that merges `models` by `method`; `changes` as in `changed`."""
        content = {"merge_method": method, "models": [{"model": model} for model in models]}
        return cls.parse(content).changed(**changes) if changes else cls.parse(content)

    def changed(
        self,
        *,
        weights: Mapping[str, float] | None = None,
        statistics: Mapping[str, str] | None = None,
        labels: Mapping[str, Sequence[str]] | None = None,
        parameters: Mapping[str, Any] | None = None,
        data: Mapping[str, str] | None = None,
        text_column: str | None = None,
        **keys: Any,
    ) -> Recipe:
        """This recipe with some things said anew: `weights`, `statistics`, `labels` and `data` by model, `parameters`
        of the method, the `text_column` of all data, and any other key of a recipe (None leaves it). Raises
        `BadRecipe` for a model that is not in it."""
        content = self.model_dump(exclude_unset=True)
        content["models"] = [dict(entry) for entry in content["models"]]
        entries = {entry["model"]: entry for entry in content["models"]}

        def entry(name: str) -> dict[str, Any]:
            if name not in entries:
                raise unknown("model in this merge", name, entries)
            return entries[name]

        for name, source in (statistics or {}).items():
            entry(name)["statistics"] = source
        for name, weight in (weights or {}).items():
            entry(name)["parameters"] = {**entry(name).get("parameters", {}), "weight": weight}
        for name, own in (labels or {}).items():
            entry(name)["labels"] = list(own)
        for name, source in (data or {}).items():
            entry(name)["data"] = source
        for own in content["models"] if text_column is not None else ():
            own["text_column"] = text_column
        if content.get("provenance") and (parameters or weights or keys.get("scale") is not None):
            # What is said anew was chosen by nobody's data.
            content["provenance"] = {key: value for key, value in content["provenance"].items() if key != "tuning"}
        content["parameters"] = {**content.get("parameters", {}), **(parameters or {})}
        return Recipe.parse(content | {key: value for key, value in keys.items() if value is not None})

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """A recipe from a YAML file. Folders of models in it are meant relative to where the command runs."""
        path = Path(path)
        if not path.is_file():
            raise NotFound(f"There is no recipe {path}.", "Give a YAML file, or two or more models.")
        try:
            return cls.parse(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise BadRecipe(f"{path} is not YAML ({' '.join(str(error).split())}).", "Correct the file.") from error

    def to_yaml(self) -> str:
        """The recipe as YAML, everything stated, in the order of the fields."""
        content = self.model_dump(mode="json", exclude_none=True)
        for key in ("plugins", "as_adapter"):
            if not content[key]:
                del content[key]
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
