"""The layout of a model by its reference, remembered from run to run.

    layout = layout_for(ref)            # of its config.json
    layout = layout_for(ref, said)      # of a model of its kind whose config.json says `said`

It depends on the config, on the versions of transformers and torch, and on the code of FuseHub that asks them; all of
this is in the question under which it is kept (`fusehub.hub.remembered`). What was not asked of it before, where
transformers loads the tensors of a file, makes the model again, and is kept too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from fusehub.hub.remembered import code_of, keep, recall, versions
from fusehub.models.layout import Layout, Linear, Part, layout_of, meta_model, tie_flags
from fusehub.models.ref import ModelRef
from fusehub.models.tasks import config_in_words, config_like, labels_of, load_config
from fusehub.models.transformers_internals import StoredName, is_its_own, tied_names
from fusehub.utils.frozen import thawed

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# All that decides what a layout is.
_CODE = (
    *("fusehub.models.known.layouts", "fusehub.models.layout", "fusehub.models.tasks"),
    *("fusehub.models.transformers_internals", "fusehub.models.piecewise.blocks", "fusehub.utils.untrusted.limits"),
)


def layout_for(ref: ModelRef, said: Mapping[str, Any] | None = None) -> Layout:
    """The layout of a model's architecture; with `said`, of one of its kind whose config.json says that.

    Raises what `load_config` and `layout_of` raise.
    """
    asked = _Asked.of(ref, said)
    return _layout_for(asked) if asked else layout_of(_config(ref, said))


def layout_like(ref: ModelRef, layout: Layout) -> Layout:
    """The layout of `ref`, which is `layout` itself where the architecture is the same."""
    if ref.config.get("architectures") in ([layout.architecture], None):
        return layout
    return layout_for(ref)


def ties_like(ref: ModelRef, layout: Layout) -> Mapping[str, str]:
    """What is tied in `ref`, a model with this `layout` but perhaps other ties: see `Layout.tied`."""
    asked = _Asked.of(ref)
    if (asked.ties_said if asked else tie_flags(load_config(ref))) == layout.ties_said:
        return layout.tied
    return tied_names(meta_model(load_config(ref)))


@dataclass(frozen=True)
class _Asked:
    """A config, compared by all that decides what transformers makes of it."""

    text: str
    ref: ModelRef = field(compare=False, repr=False)
    said: Mapping[str, Any] | None = field(compare=False, repr=False)

    @classmethod
    def of(cls, ref: ModelRef, said: Mapping[str, Any] | None = None) -> _Asked | None:
        """None where its words do not decide it alone: where transformers looks at the folder's name, at other files,
        or is a version that is still being written."""
        ref.path("config.json")
        own = ref.config
        labels_of(own, ref.name)
        if "configuration_files" in own or not isinstance(own.get("model_type"), str) or _is_unfinished():
            return None
        question = [ref.parts is not None, own, said, _makers()]
        return cls(json.dumps(question, sort_keys=True), ref, said)

    @property
    def config(self) -> PretrainedConfig:
        """What transformers makes of it. Raises what `load_config` raises."""
        return _config(self.ref, self.said)

    @property
    def config_again(self) -> PretrainedConfig:
        """The same, made of its words alone: the model may be gone by now."""
        of_parts, own, said, _ = json.loads(self.text)
        with TemporaryDirectory() as folder:
            if not of_parts:
                Path(folder, "config.json").write_text(json.dumps(own), encoding="utf-8")
            return config_in_words(own, None if of_parts else Path(folder), said)

    @property
    def ties_said(self) -> tuple[bool | None, ...]:
        """What it says of sharing, see `Layout.ties_said`."""
        told = recall("ties", self.text)
        if told is None:
            keep("ties", self.text, told := tie_flags(self.config))
        return tuple(told)


def _config(ref: ModelRef, said: Mapping[str, Any] | None) -> PretrainedConfig:
    return load_config(ref) if said is None else config_like(ref, dict(said))


def _makers() -> list[Any]:
    """What decides a layout beside the config."""
    return [versions("transformers", "torch"), code_of(*_CODE)]


def _is_unfinished() -> bool:
    return any("dev" in (installed or "") for installed in versions("transformers", "torch").values())


@lru_cache(maxsize=64)
def _layout_for(asked: _Asked) -> Layout:
    key = recall("configs", asked.text)
    told = None if key is None else recall("layouts", [key, _makers()])
    if told is not None:
        return _known(_Written(str(key), told, asked))
    config = asked.config
    layout = layout_of(config)
    # A program can put classes of its own into transformers, which another one does not have.
    if not is_its_own(config):
        return layout
    told = _written(layout)
    keep("configs", asked.text, layout.key)
    keep("layouts", [layout.key, _makers()], told)
    return _known(_Written(layout.key, told, asked))


@dataclass(frozen=True)
class _Written:
    """A layout as JSON, compared by its key; `asked` is a config that has it."""

    key: str
    told: Mapping[str, Any] = field(compare=False, repr=False)
    asked: _Asked = field(compare=False, repr=False)

    def places(self, names: tuple[str, ...]) -> Mapping[str, StoredName]:
        """Where transformers loads the tensors of a file."""
        question = [self.key, _makers(), names]
        told = recall("names", question)
        if told is None:
            found = layout_of(self.asked.config_again).places(names)
            keep("names", question, found)
            return found
        return {name: StoredName(merged_as, tuple(made)) for name, (merged_as, made) in told.items()}


@lru_cache(maxsize=64)
def _known(written: _Written) -> Layout:
    """One layout for all configs that have it."""
    told = dict(written.told)
    told |= {name: tuple(told[name]) for name in _TUPLES}
    told["shapes"] = {name: tuple(shape) for name, shape in told["shapes"].items()}
    told["linears"] = {name: Linear(**own) for name, own in told["linears"].items()}
    told["parts"] = {name: Part(**own) for name, own in told["parts"].items()}
    return Layout(key=written.key, places=written.places, **told)


_PLAIN = ("architecture", "base_prefix", "label_axes", "token_axes", "tied")
_TUPLES = ("blocks", "embeddings", "output", "ties_said", "left_over", "computed")


def _written(layout: Layout) -> dict[str, Any]:
    """The layout as JSON."""
    plain = {name: thawed(getattr(layout, name)) for name in (*_PLAIN, *_TUPLES, "shapes")}
    return plain | {
        name: {key: asdict(own) for key, own in getattr(layout, name).items()} for name in ("linears", "parts")
    }
