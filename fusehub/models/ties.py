"""Parameters that share their numbers: which tensor of a file each is read from, and whether a stored second one is
a copy.

As transformers loads them (`PreTrainedModel.tie_weights`): of two tied parameters, the one that a file lacks is the
other; where both are stored with other numbers, they are not tied, whatever the config says. Which of the two it is
only the numbers tell, so it is planned as a tensor of its own, and settled when the files are open.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fusehub.errors import Incompatible
from fusehub.models.adapters.ref import TIED
from fusehub.models.checkpoints.checkpoint import Checkpoint
from fusehub.models.known.layouts import layout_for, ties_like
from fusehub.models.layout import Layout
from fusehub.models.ref import ModelRef
from fusehub.models.tasks import config_like
from fusehub.models.tensor_files import TensorInfo, is_copy

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class StoredNames:
    """Where one model's parameters are in its files.

    `at` has each parameter's tensor, also of those that share another's; `own` those stored by themselves. `unsure`
    are parameters that the config ties and the file has twice, each with the one it may be a copy of; `twice` a
    tensor's name and the second name under which the same parameter is stored.
    """

    at: dict[str, str]
    own: dict[str, str]
    tied: Mapping[str, str]
    unsure: dict[str, str] = field(default_factory=dict)
    twice: tuple[tuple[str, str], ...] = ()


def stored_names(ref: ModelRef, layout: Layout, infos: Mapping[str, TensorInfo]) -> StoredNames:
    """Where the parameters of `ref` are, `layout` being that of its architecture.

    Raises `Incompatible` where a parameter is stored twice in different shapes.
    """
    own: dict[str, str] = {}
    twice = []
    for name, parameter in layout.names(infos).items():
        other = own.setdefault(parameter, name)
        if other == name:
            continue
        if infos[other].shape != infos[name].shape:
            raise two_names(ref.name, other, name)
        twice.append((other, name))
    tied = ties_like(ref, layout)
    at = dict(own)
    unsure: dict[str, str] = {}
    for source in dict.fromkeys(tied.values()):
        group = [source, *(name for name, other in tied.items() if other == source)]
        stored = [name for name in group if name in own]
        for name in group if stored else ():
            at.setdefault(name, own[stored[0]])
        unsure |= dict.fromkeys(stored[1:], stored[0])
    return StoredNames(at, own, tied, unsure, tuple(twice))


def two_names(owner: str, one: str, other: str) -> Incompatible:
    """The error for a parameter that is stored twice, with different numbers."""
    return Incompatible(
        f"{owner}: {one} and {other} are two names of one parameter, and hold different numbers.",
        "Take the one out that is left over, or save the model anew with transformers' save_pretrained.",
    )


def merged_parameters(experts: Sequence[StoredNames]) -> dict[str, str]:
    """The parameters that a merge writes, each with its name there: those of the first model, and what shares another
    parameter's numbers in it while some other model has numbers of its own for it."""
    tied = {name: source for own in experts for name, source in own.tied.items()}
    names = {parameter: name for own in reversed(experts) for parameter, name in own.own.items()}
    found = {}
    for parameter in experts[0].at:
        source = tied.get(parameter)
        if source is None or not all(own.at.get(parameter) == own.at.get(source) for own in experts):
            found[parameter] = names.get(parameter, parameter)
    return found


def tie_notes(refs: Sequence[ModelRef], names: Sequence[StoredNames]) -> list[str]:
    """What has to be said of parameters that share their numbers in one model, and perhaps not in another."""
    notes = []
    for ref, own in zip(refs, names, strict=True):
        if own.unsure:
            notes.append(
                f"{ref.name} stores {', '.join(own.own[name] for name in own.unsure)} beside the tensor that its "
                "config ties it to: merged by itself if its numbers are its own, and once if it is a copy."
            )
        if own.twice:
            notes.append(
                f"{ref.name} stores {', '.join(name for _, name in own.twice)} beside another name of the same "
                "parameter: a merge goes on if both have the same numbers."
            )
    tied = {parameter for own in names for parameter in own.tied if parameter not in own.own}
    for parameter in sorted(tied):
        known = zip(refs, names, strict=True)
        others = [ref.name for ref, own in known if parameter in own.own and parameter not in own.unsure]
        if others:
            notes.append(
                f"{parameter} is a tensor of its own in {', '.join(others)} and shared in the other models: the "
                "result has one of its own."
            )
    return notes


def is_copy_in(file: Checkpoint, name: str, other: str) -> bool:
    """Whether the two tensors of a model hold the same numbers; one that is read for both does."""
    if name == other:
        return True
    return is_copy(lambda start, stop: file.read(name, start, stop), lambda start, stop: file.read(other, start, stop))


def require_one(file: Checkpoint, names: StoredNames) -> None:
    """Raises `Incompatible` where a parameter is stored under two names with different numbers."""
    for one, other in names.twice:
        if not is_copy_in(file, one, other):
            raise two_names(file.name, one, other)


def untie(network: PreTrainedModel, parameters: Iterable[str]) -> None:
    """Gives each of `parameters` numbers of its own in a loaded network that shares them."""
    import torch

    seen = set()
    for name in parameters:
        if name not in dict(network.named_parameters(remove_duplicate=False)):
            continue
        value = network.get_parameter(name)
        if id(value) in seen:
            module, _, leaf = name.rpartition(".")
            value = torch.nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad)
            setattr(network.get_submodule(module), leaf, value)
        seen.add(id(value))


def config_with_ties(ref: ModelRef, config: dict[str, Any], stored: Iterable[str]) -> dict[str, Any]:
    """`config`, made of that of `ref`, for a file that has the tensors `stored`.

    Where it ties what is stored by itself, or parts what is stored once, it says otherwise, if the class reads that
    in config.json. (T5 reads something else there.)
    """
    stored = list(stored)
    wrong = _contradictions(layout_for(ref, config), stored)
    text = config.get("text_config")
    for tied in (False, True) if wrong else ():
        options = [{**config, TIED: tied}]
        options += [{**options[0], "text_config": {**text, TIED: tied}}] if isinstance(text, dict) else []
        for option in options:
            as_they_are = [_but_ties(config_like(ref, own)) for own in (config, option)]
            if as_they_are[0] == as_they_are[1] and _contradictions(layout_for(ref, option), stored) < wrong:
                return option
    return config


def _contradictions(layout: Layout, stored: Sequence[str]) -> int:
    """How many parameters the file has by themselves and the layout ties, or the other way round."""
    written = set(layout.names(stored).values())
    parted = [name for name, source in layout.tied.items() if {name, source} <= written]
    return len(parted) + len(layout.missing(stored))


def _but_ties(config: PretrainedConfig) -> dict[str, Any]:
    said = {key: value for key, value in config.to_dict().items() if key != TIED}
    if isinstance(said.get("text_config"), dict):
        said["text_config"] = {key: value for key, value in said["text_config"].items() if key != TIED}
    return said
