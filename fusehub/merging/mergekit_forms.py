"""The forms in which mergekit writes a recipe, turned into the one that FuseHub has: a list of models.

    modules: {default: {slices: [{sources: [{model: a/x, layer_range: [0, 32]}]}]}}   ->   models: [{model: a/x}]

What says nothing is left out with a note, and what FuseHub cannot do is a problem; all of both are told together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusehub.errors import BadRecipe, FuseHubError, shortly, unknown
from fusehub.methods.mergekit import MERGEKIT_OPTIONS, REQUIRED, require_here

_STACKING = (
    "Layers cannot be stacked, repeated or left out: that needs mergekit. A merge of all layers lists `models`."
)


class Forms:
    """One reading: `content` as FuseHub has it, `notes` on what does nothing, and `problems`."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        _require_merge(content)
        self.content = dict(content)
        self.notes: list[str] = []
        self.problems: list[FuseHubError] = []
        self._stacked = False
        for read in (self._modules, self._slices, self._models, self._tokenizer, self._keys, self._method):
            read()

    def _problem(self, what: str, fix: str) -> None:
        self.problems.append(BadRecipe(what, fix))

    def _modules(self) -> None:
        """A model of one module says so by `modules: default`."""
        modules = self.content.pop("modules", None)
        if modules is None:
            return
        if (
            not isinstance(modules, Mapping)
            or not modules
            or not all(isinstance(m, Mapping) for m in modules.values())
        ):
            self._problem("modules is no mapping of names to what is merged.", "Write `models:` instead.")
            return
        if self.content.get("models") or self.content.get("slices"):
            self._problem("The recipe has `modules`, and `models` or `slices` beside them.", "Keep one of them.")
            return
        first, *others = modules.values()
        parts = [name for name in modules if any(word in str(name) for word in _PARTS)]
        if any(own != first for own in others) or (parts and not others):
            self._problem(
                f"The recipe says something of its own for the modules {', '.join(map(str, modules))}: FuseHub merges "
                "a model as a whole.",
                "List the models under `models`, and say what differs by filters, which are parts of tensors' names.",
            )
            return
        for key in first:
            if key not in ("slices", "models", "parameters"):
                self.problems.append(
                    unknown("key of a module in a recipe", str(key), ["slices", "models", "parameters"])
                )
        self.content |= {key: first[key] for key in ("slices", "models") if first.get(key)}
        self._within(first.get("parameters"))

    def _within(self, parameters: Any) -> None:
        """What a module or a slice says goes before what the recipe says."""
        outer = self.content.get("parameters")
        if parameters and not isinstance(parameters, Mapping):
            self._problem("parameters is no mapping of options to values.", "Write `parameters: {weight: 1}`.")
        elif parameters and (outer is None or isinstance(outer, Mapping)):
            self.content["parameters"] = joined(parameters, outer or {})

    def _slices(self) -> None:
        """Slices that together are all layers of each model are a list of models."""
        slices = self.content.pop("slices", None)
        if slices is None:
            return
        if self.content.get("models"):
            self._problem("The recipe has `models` and `slices`.", "Keep one of both.")
            return
        self._stacked = isinstance(slices, list) and len(slices) > 1
        if self.content.get("merge_method") == "passthrough":
            return  # Told as what it is, by its name.
        if not self._are_slices(slices):
            return
        spans = [[span for source in own["sources"] if (span := _range(source)) is not None] for own in slices]
        if any(len(found) < len(own["sources"]) for found, own in zip(spans, slices, strict=True)):
            self._problem("A source of a slice has no layer_range [FIRST, END].", "Write `layer_range: [0, 32]`.")
            return
        expected = 0
        for ranges in map(set, spans):
            if len(ranges) > 1 or next(iter(ranges))[0] != expected:
                self._problem(
                    "The slices take other layers of one model than of another, or some twice or not at all.",
                    _STACKING,
                )
                return
            expected = next(iter(ranges))[1]
        said = [_said(own) for own in slices]
        if any(own != said[0] for own in said) or (len(slices) > 1 and _has_lists([said[0], self.content])):
            self._problem(
                f"The recipe has {len(slices)} output slices, each with values of its own: FuseHub reads one slice "
                "with all layers.",
                "Write one slice, and what differs by layer as a list with a value a layer, as "
                "`t: [0.2, 0.2, 0.8, 0.8]`; what is in no layer, as embeddings and head, takes the first.",
            )
            return
        self._base_of(slices[0])
        self._within(slices[0].get("parameters"))
        sources = slices[0]["sources"]
        self.content |= {
            "models": [{key: value for key, value in source.items() if key != "layer_range"} for source in sources],
            "layers": expected,
        }

    def _are_slices(self, slices: Any) -> bool:
        """Whether they have the form of slices; what they have beyond it is told."""
        known, of_source = (
            ["sources", "parameters", "base_model", "residual_weight"],
            ["model", "layer_range", "parameters"],
        )
        if not isinstance(slices, list) or not slices or not all(isinstance(own, Mapping) for own in slices):
            self._problem("slices is no list of slices.", "Write `models:` instead.")
            return False
        for own in slices:
            sources = own.get("sources")
            if not isinstance(sources, list) or not sources or not all(isinstance(s, Mapping) for s in sources):
                self._problem("A slice has no list of sources.", "Write `models:` instead of slices.")
                return False
            self.problems += [
                unknown("key of a slice in a recipe", str(key), known) for key in own if key not in known
            ]
            for source in sources:
                self.problems += [
                    unknown("key of a source in a recipe", str(key), of_source)
                    for key in source
                    if key not in of_source
                ]
            if own.get("residual_weight") is not None:
                self.notes.append("residual_weight does nothing, in mergekit as well.")
        return True

    def _base_of(self, own: Mapping[str, Any]) -> None:
        """A slice's base is the recipe's."""
        base, whole = own.get("base_model"), self.content.get("base_model")
        if base is not None and whole is not None and _text(base) != _text(whole):
            self._problem(
                f"The slice has the base {_text(base)}, and the recipe {_text(whole)}.", "Name one base_model."
            )
        elif base is not None:
            self.content["base_model"] = base

    def _models(self) -> None:
        """Names of models as one text, and no `parameters:` without any."""
        models = self.content.get("models")
        if isinstance(models, list | tuple):
            entries = [dict(entry) if isinstance(entry, Mapping) else entry for entry in models]
            for place, entry in enumerate(entries):
                if isinstance(entry, dict):
                    if "parameters" in entry and entry["parameters"] is None:
                        del entry["parameters"]
                    if "model" in entry:
                        entry["model"] = self._model(entry["model"], f"models.{place}.model")
            self.content["models"] = entries
        if self.content.get("base_model") is not None:
            self.content["base_model"] = self._model(self.content["base_model"], "base_model")

    def _model(self, said: Any, where: str) -> Any:
        if not isinstance(said, Mapping):
            return said
        text = _text(said)
        if text is None:
            self._problem(
                f"Recipe, {where}: {shortly(dict(said))} names no model.",
                "Write `user/name`, `user/name@revision` or a folder.",
            )
            return "?"
        if said.get("override_architecture") is not None:
            self._problem(
                f"Recipe, {where}: FuseHub reads a model as the architecture that its config names, not as "
                f"{said['override_architecture']}.",
                "Leave out override_architecture, or write the architecture into the model's config.json.",
            )
        return text

    def _tokenizer(self) -> None:
        """`tokenizer: {source: S}` is `tokenizer_source: S`."""
        tokenizer = self.content.pop("tokenizer", None)
        if tokenizer is not None and not isinstance(tokenizer, Mapping):
            self._problem("tokenizer is no mapping.", "Write `tokenizer: {source: base}`.")
        elif tokenizer:
            if tokenizer.get("tokens"):
                self._problem(
                    "FuseHub does not choose rows of single tokens (`tokenizer: tokens`).",
                    "Leave it out: a token's row comes from the models that have it.",
                )
            if tokenizer.get("pad_to_multiple_of"):
                self._problem(
                    "FuseHub does not pad embeddings (`pad_to_multiple_of`).",
                    "Leave it out: the result has as many rows as the largest model.",
                )
            for key in tokenizer:
                if key not in ("source", "tokens", "pad_to_multiple_of"):
                    self.problems.append(unknown("key of tokenizer in a recipe", str(key), ["source"]))
            if tokenizer.get("source") is not None and self.content.get("tokenizer_source") is not None:
                self._problem("The recipe has `tokenizer` and `tokenizer_source`.", "Keep one of both.")
            elif tokenizer.get("source") is not None:
                self.content["tokenizer_source"] = tokenizer["source"]
        if self.content.get("tokenizer_source") is not None:
            self.content["tokenizer_source"] = self._model(self.content["tokenizer_source"], "tokenizer_source")

    def _keys(self) -> None:
        """Keys of the recipe that nothing reads."""
        if self.content.get("chat_template") == "":
            del self.content["chat_template"]
        if self.content.pop("name", None) is not None:
            self.notes.append("name does nothing: it is what mergekit-multi calls a recipe among several.")
        for key in [key for key in self.content if key in MERGEKIT_OPTIONS]:
            value = self.content.pop(key)
            if key in REQUIRED:
                self._problem(f"{key} stands outside `parameters`.", f"Write `parameters: {{{key}: {value}}}`.")
            else:
                self.notes.append(
                    f"{key} stands outside `parameters`, where nothing reads it, in mergekit neither: it does nothing."
                )

    def _method(self) -> None:
        try:
            require_here(str(self.content.get("merge_method")), stacked=self._stacked)
        except BadRecipe as error:
            self.problems.append(error)


def joined(inner: Mapping[str, Any], outer: Mapping[str, Any]) -> dict[str, Any]:
    """Options of two scopes in one: where the inner has nothing for a tensor, the outer holds."""
    whole = dict(outer)
    for name, value in inner.items():
        cases = _cases(value)
        falls_through = name in outer and all(case.get("filter") not in (None, "*") for case in cases)
        whole[name] = [*cases, *_cases(outer[name])] if falls_through else value
    return whole


# Modules that are a part of a model, by words in the names that mergekit gives them.
_PARTS = ("encoder", "decoder", "tower", "projector", "vision", "audio", "text")


def _cases(value: Any) -> list[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        return [value]
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        return value
    return [{"value": value}]


def _require_merge(content: Mapping[str, Any]) -> None:
    """Raises `BadRecipe` for a file that another program of mergekit's reads."""
    if "experts" in content or "gate_mode" in content or content.get("merge_method") == "moe":
        raise BadRecipe(
            "This is a file for mergekit-moe, which makes a mixture of experts of models: FuseHub makes none.",
            "To merge the models into one of the same size, list them under `models` with a merge_method.",
        )
    if "genome" in content:
        raise BadRecipe(
            "This is a file for mergekit-evolve, which searches for a recipe.",
            "Write the recipe (merge_method, models), and have its options chosen by --tune NAME=DATA.",
        )


def _range(source: Mapping[str, Any]) -> tuple[int, int] | None:
    said = source.get("layer_range")
    if not isinstance(said, list) or len(said) != 2 or not all(type(end) is int for end in said):
        return None
    return said[0], said[1]


def _said(own: Mapping[str, Any]) -> dict[str, Any]:
    """A slice without its layers."""
    sources = [{key: value for key, value in source.items() if key != "layer_range"} for source in own["sources"]]
    return {**own, "sources": sources, "residual_weight": None}


def _has_lists(said: Any) -> bool:
    """Whether some option has a list of values, which in mergekit runs over the layers of a slice."""
    if isinstance(said, Mapping):
        return any(_has_lists(value) for value in said.values())
    if isinstance(said, list) and said and not any(isinstance(item, Mapping | list) for item in said):
        return True
    return isinstance(said, list) and any(map(_has_lists, said))


def _text(said: Any) -> str | None:
    """A model's name as one text, `path@revision+adapter@revision`; None where it names none."""
    if not isinstance(said, Mapping):
        return said
    parts = [said] if "path" in said else [said.get("model"), *([said["lora"]] if said.get("lora") else [])]
    texts = []
    for part in parts:
        path = part.get("path") if isinstance(part, Mapping) else part
        revision = part.get("revision") if isinstance(part, Mapping) else None
        if not isinstance(path, str) or not path:
            return None
        texts.append(f"{path}@{revision}" if revision else path)
    return "+".join(texts)
