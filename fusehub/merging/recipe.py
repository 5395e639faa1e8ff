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

Other forms of mergekit's are read by `fusehub.merging.mergekit_forms`. What is not known or not supported is refused
by name, all of it at once. A merge writes the same recipe beside its weights with everything resolved; running that
one again checks that it meets the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import yaml
from pydantic import Field, PrivateAttr, ValidationError

from fusehub.checking.heads import Heads
from fusehub.errors import BadRecipe, FuseHubError, NotFound, shortly, together, unknown
from fusehub.merging.mergekit_forms import Forms
from fusehub.merging.report import require_provenance
from fusehub.methods.mergekit import MERGEKIT_OPTIONS
from fusehub.models.quantised.float8 import FLOAT8
from fusehub.models.ref import ModelRef
from fusehub.utils.folders.places import require_ordinary
from fusehub.utils.frozen import thawed
from fusehub.utils.plain_data import Files, Said, Strict
from fusehub.utils.untrusted.limits import YAML_BYTES, require_bytes
from fusehub.utils.untrusted.yaml_text import load_yaml

if TYPE_CHECKING:
    import torch

FILENAME = "fusehub_recipe.yaml"

DType = Literal["float32", "float16", "bfloat16", "float64", "float8"]
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "float8": FLOAT8}


class Changes(TypedDict, total=False):
    """What `merge`, `tune` and `Recipe.of` can say of a merge, beside its models and its method: see
    `Recipe.changed`."""

    base_model: str | ModelRef | None
    weights: Mapping[str, Any] | None
    parameters: Mapping[str, Any] | None
    statistics: Mapping[str, str] | None
    data: Mapping[str, str] | None
    labels: Mapping[str, Sequence[str]] | None
    heads: Heads | None
    scale: float | None
    dtype: DType | torch.dtype | None
    out_dtype: DType | torch.dtype | None
    seed: int | None
    limit: int | None
    max_length: int | None
    text_column: str | None
    as_adapter: bool | None
    tokenizer_source: str | None
    chat_template: str | None


class ModelEntry(Strict):
    """One model of a recipe."""

    model: str = Field(description="user/name, user/name@revision or a folder")
    parameters: Said = Field(
        default_factory=dict,
        validate_default=True,
        description="weight, and what else the method takes of each model, as density",
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


class Recipe(Strict):
    """All that determines a merge. Its fields are the keys of a recipe's file, and say what they mean.

    Examples:
        >>> recipe = fusehub.Recipe.of(["user/expert-1", "user/expert-2"], parameters={"alpha": 0.5})
        >>> print(recipe.changed(weights={"user/expert-2": 2.0}).to_yaml())
        merge_method: regmean
        models:
        - model: user/expert-1
        ...
    """

    merge_method: str = Field(description="the name of a method: see `fusehub methods`")
    models: tuple[ModelEntry, ...] = Field(min_length=1, description="two models or more")
    base_model: str | None = Field(None, description="the pretrained model that they share")
    parameters: Said = Field(default_factory=dict, validate_default=True, description="options of the method")
    dtype: DType | None = Field(
        None, description="dtype of the result where out_dtype does not say; the arithmetic is never narrower"
    )
    out_dtype: DType | None = Field(None, description="dtype of the result")
    heads: Heads = Field("auto", description="merge, keep, or auto")
    scale: float = Field(1.0, allow_inf_nan=False, description="how far to go from the base: W0 + scale * (W - W0)")
    seed: int = Field(0, description="for methods that draw random numbers, and for which examples limit draws")
    limit: int | None = Field(None, ge=1, description="how many examples of each model's data are taken, 1 or more")
    max_length: int | None = Field(None, ge=1, description="where texts of the data are cut, in tokens")
    as_adapter: bool = Field(False, description="true writes a merge of adapters over one base as an adapter")
    tokenizer_source: str | None = Field(
        None,
        description="mergekit's union, base or a model: whose tokens the result has, where that makes no difference",
    )
    chat_template: str | None = Field(
        None, description="auto (what most models have), alpaca, chatml, llama3, mistral, or the Jinja text of one"
    )
    layers: int | None = Field(
        None, description="how many layers mergekit's `slices` took of each model: all that they have"
    )
    plugins: Files = Field(
        (), description="written by FuseHub: file and sha256 of what --plugin named; nothing is loaded by it"
    )
    provenance: Said | None = Field(None, description="written by FuseHub: hashes and versions of a merge made")

    _notes: tuple[str, ...] = PrivateAttr(())

    @property
    def notes(self) -> tuple[str, ...]:
        """What was said and does nothing."""
        return self._notes

    @property
    def stored_dtype(self) -> str | None:
        """safetensors' name of the dtype that the result is stored in; None: like the first model."""
        said = self.out_dtype or self.dtype
        return _DTYPES[said] if said else None

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> Recipe:
        """A recipe from plain data.

        Args:
            content: What a YAML file of a recipe holds, in FuseHub's form or mergekit's.

        Returns:
            The recipe.

        Raises:
            BadRecipe: All that is wrong at once: the key, the nearest known one, and why.
        """
        if not isinstance(content, Mapping):
            raise BadRecipe("The recipe is not a mapping of keys to values.", "Begin with `merge_method: regmean`.")
        forms = Forms(content)
        content = {key: value for key, value in forms.content.items() if value is not None}
        problems = [*forms.problems, *_unknown_keys(content)]
        models = content.get("models", ())
        few = isinstance(models, list | tuple) and len(models) + bool(models and content.get("base_model")) < 2
        if few and not problems:
            problems.append(
                BadRecipe("A merge takes at least two models.", "Name two or more, or a recipe that does (.yaml).")
            )
        if problems:
            raise together(problems)
        try:
            recipe = cls.model_validate(content)
        except ValidationError as error:
            raise together([_as_bad_recipe(one) for one in error.errors()]) from error
        if recipe.provenance is not None:
            require_provenance(thawed(recipe.provenance), len(recipe.models))
        recipe._notes = tuple(dict.fromkeys(forms.notes))
        return recipe

    @classmethod
    def of(
        cls,
        models: Sequence[str | ModelRef],
        method: str = "regmean",
        *,
        base_model: str | ModelRef | None = None,
        weights: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
        statistics: Mapping[str, str] | None = None,
        data: Mapping[str, str] | None = None,
        labels: Mapping[str, Sequence[str]] | None = None,
        heads: Heads | None = None,
        scale: float | None = None,
        dtype: DType | torch.dtype | None = None,
        out_dtype: DType | torch.dtype | None = None,
        seed: int | None = None,
        limit: int | None = None,
        max_length: int | None = None,
        text_column: str | None = None,
        as_adapter: bool | None = None,
        tokenizer_source: str | None = None,
        chat_template: str | None = None,
        plugins: Sequence[Mapping[str, str]] | None = None,
    ) -> Recipe:
        """The recipe that merges some models. The other arguments are those of `Recipe.changed`, and so are errors.

        Args:
            models: Names of them, or models that were resolved.
            method: One of `fusehub.METHODS`.

        Returns:
            The recipe.
        """
        content = {"merge_method": method, "models": [{"model": _name_of_model(model)} for model in models]}
        return cls.parse(content).changed(
            base_model=base_model, weights=weights, parameters=parameters, statistics=statistics, data=data,
            labels=labels, heads=heads, scale=scale, dtype=dtype, out_dtype=out_dtype, seed=seed, limit=limit,
            max_length=max_length, text_column=text_column, as_adapter=as_adapter, tokenizer_source=tokenizer_source,
            chat_template=chat_template,
            plugins=plugins,
        )  # fmt: skip

    def changed(
        self,
        *,
        merge_method: str | None = None,
        base_model: str | ModelRef | None = None,
        weights: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
        statistics: Mapping[str, str] | None = None,
        data: Mapping[str, str] | None = None,
        labels: Mapping[str, Sequence[str]] | None = None,
        heads: Heads | None = None,
        scale: float | None = None,
        dtype: DType | torch.dtype | None = None,
        out_dtype: DType | torch.dtype | None = None,
        seed: int | None = None,
        limit: int | None = None,
        max_length: int | None = None,
        text_column: str | None = None,
        as_adapter: bool | None = None,
        tokenizer_source: str | None = None,
        chat_template: str | None = None,
        plugins: Sequence[Mapping[str, str]] | None = None,
    ) -> Recipe:
        """This recipe with some things said anew. None leaves what it says.

        Args:
            merge_method: One of `fusehub.METHODS`.
            base_model: The pretrained model that the models share.
            weights: Each model's share, by the model's name in the recipe: a number, or mergekit's forms by layer.
            parameters: Options of the method, such as `{"alpha": 0.9}`.
            statistics: Where each model's statistics are, by model: `auto`, a file, a folder, a repo, or `data-free`.
            data: Texts of each model's domain, by model, for methods that run the models over them.
            labels: Names of the rows of a model's head, by model, where its config has none.
            heads: `merge` (by label name), `keep` (one a model) or `auto`.
            scale: How far to go from the base: W0 + scale * (W - W0).
            dtype: dtype of the result where `out_dtype` does not say, by its name or as torch has it.
            out_dtype: dtype of the result.
            seed: For methods that draw random numbers, and for which examples `limit` draws.
            limit: How many examples of each model's data are taken.
            max_length: Where texts of the data are cut, in tokens.
            text_column: The column of all data that has the texts.
            as_adapter: Whether a merge of adapters over one base is written as an adapter.
            tokenizer_source: Whose tokens the result has, as mergekit says it: `union`, `base`, or a model.
            chat_template: `auto`, the name of a template, or the Jinja text of one.
            plugins: The files with methods of one's own that were loaded, each with its name and sha256.

        Returns:
            Another recipe.

        Raises:
            BadRecipe: A model is not in the recipe, or a value is none that its key can have.
        """
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
        if content.get("provenance") and (parameters or weights or scale is not None):
            # What is said anew was chosen by nobody's data.
            content["provenance"] = {key: value for key, value in content["provenance"].items() if key != "tuning"}
        content["parameters"] = {**content.get("parameters", {}), **(parameters or {})}
        said = {
            "merge_method": merge_method, "base_model": _name_of_model(base_model), "heads": heads, "scale": scale,
            "dtype": _name_of(dtype), "out_dtype": _name_of(out_dtype), "seed": seed, "limit": limit,
            "max_length": max_length, "as_adapter": as_adapter, "tokenizer_source": tokenizer_source,
            "chat_template": chat_template, "plugins": plugins,
        }  # fmt: skip
        changed = Recipe.parse(content | {key: value for key, value in said.items() if value is not None})
        changed._notes = tuple(dict.fromkeys((*self._notes, *changed._notes)))
        return changed

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """A recipe from a YAML file. Folders of models in it are meant relative to where the command runs.

        Args:
            path: The file, in FuseHub's form or mergekit's.

        Returns:
            The recipe.

        Raises:
            NotFound: There is no such file.
            BadFile: It is a pipe or a device.
            BadRecipe: All that is wrong in it at once.
        """
        path = Path(path)
        require_ordinary(path)
        if not path.is_file():
            raise NotFound(f"There is no recipe {path}.", "Give a YAML file, or two or more models.")
        require_bytes(path.stat().st_size, YAML_BYTES, str(path))
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise BadRecipe(f"{path} is not YAML ({' '.join(str(error).split())}).", "Correct the file.") from error
        content = load_yaml(text, str(path))
        try:
            return cls.parse(content)
        except BadRecipe as error:
            raise error.retold(f"{path}: {error.what}") from error

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain data.

        Returns:
            Everything stated, in the order of the fields.
        """
        content = self.model_dump(mode="json", exclude_none=True)
        for key in ("plugins", "as_adapter"):
            if not content[key]:
                del content[key]
        return content

    def to_yaml(self) -> str:
        """The recipe as YAML, which `read` reads."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True, width=110)


def _name_of_model(model: str | ModelRef | None) -> str | None:
    return model.id if isinstance(model, ModelRef) else model


def _name_of(dtype: str | torch.dtype | None) -> str | None:
    """`torch.float32` -> `float32`."""
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _unknown_keys(content: Mapping[str, Any]) -> list[FuseHubError]:
    """The error for each key that a recipe or a model in it does not have."""
    known = [key for key in Recipe.model_fields if key != "provenance"]
    problems: list[FuseHubError] = [
        unknown("key in a recipe", str(key), known) for key in content if key not in Recipe.model_fields
    ]
    models = content.get("models")
    for number, entry in enumerate(models if isinstance(models, list | tuple) else ()):
        if not isinstance(entry, Mapping):
            problems.append(
                BadRecipe(f"Recipe, models.{number}: {shortly(entry)} is no mapping.", "Write `- model: user/name`.")
            )
            continue
        for key in entry:
            if key in MERGEKIT_OPTIONS:
                problems.append(
                    BadRecipe(
                        f"There is no key of a model in a recipe '{key}': it is an option of the method.",
                        f"Put it under the model's parameters: `parameters: {{{key}: {entry[key]}}}`.",
                    )
                )
            elif key not in ModelEntry.model_fields:
                problems.append(unknown("key of a model in a recipe", str(key), ModelEntry.model_fields))
    return problems


def _as_bad_recipe(error: Mapping[str, Any]) -> BadRecipe:
    """What pydantic found, in words."""
    where = ".".join(str(part) for part in error["loc"])
    top = Recipe.model_fields.get(str(error["loc"][0])) if error["loc"] else None
    return BadRecipe(
        f"Recipe, {where}: {error['msg']}.", f"{error['loc'][0]}: {top.description}" if top else "Correct it."
    )
