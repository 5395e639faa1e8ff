"""Names of tensors as wrappers of modules save them: `_orig_mod.bert.pooler.dense.weight` for a compiled model.

Wrappers put their own names into those of all that they hold. They are taken off where that explains every name: what
is left are tensors of the class that the config names.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field

from fusehub.errors import FuseHubError
from fusehub.models.known.layouts import layout_for
from fusehub.models.layout import Layout
from fusehub.models.ref import ModelRef

# Who saves names like that.
_WRAPPERS = {
    "_orig_mod": "torch.compile saves them",
    "_fsdp_wrapped_module": "FSDP saves them",
    "_checkpoint_wrapped_module": "activation checkpointing saves them",
    "_forward_module": "Lightning saves them",
    "_module": "Opacus saves them",
    "module": "DataParallel, DDP and DeepSpeed save them",
    "base_model.model": "peft saves them",
}
_ANYWHERE = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module"
                       r"|_module|module)\.")  # fmt: skip
# What holds a model in a training script, in turn: Lightning's `model.` on DDP's `module.`.
_DEPTH = 3


@dataclass(frozen=True)
class Wrapping:
    """What was taken off the names of a checkpoint: each name as it is stored -> the name without; empty for none."""

    names: dict[str, str] = field(default_factory=dict)

    def of(self, stored: str) -> str:
        """The name of a tensor that is called `stored` in its file."""
        return self.names.get(stored, stored)

    @property
    def cause(self) -> str:
        """How the names were saved, for a person; "" where nothing was taken off."""
        if not self.names:
            return ""
        start = _common_start(self.names)
        return wrappers_in(self.names) or f"the names begin with {start}, as a training script saves what it calls so"


def wrapping_of(ref: ModelRef, names: Collection[str]) -> Wrapping:
    """What to take off the `names` in the files of `ref`: nothing unless all are known without it alone."""
    if not _may_be_wrapped(names):
        return Wrapping()
    try:
        return unwrap(names, layout_for(ref))
    except FuseHubError:  # Of a class that nobody knows, no name is known either.
        return Wrapping()


def unwrap(names: Collection[str], layout: Layout) -> Wrapping:
    """What `wrapping_of` says, for a model with this layout."""
    if not layout.unknown(names):
        return Wrapping()
    bare = {name: _ANYWHERE.sub("", name) for name in names}
    for _ in range(_DEPTH):
        if len(set(bare.values())) == len(bare) and _explains(bare.values(), layout):
            return Wrapping(bare)
        first = {name.partition(".")[0] for name in bare.values()}
        if len(first) > 1 or not all("." in name for name in bare.values()):
            break
        bare = {name: shorter.partition(".")[2] for name, shorter in bare.items()}
    return Wrapping()


def _explains(names: Collection[str], layout: Layout) -> bool:
    """Whether `names` are those of the class: all are known, or all that it needs are there beside leftovers."""
    return not layout.unknown(names) or not layout.missing(names)


def wrappers_in(names: Collection[str]) -> str:
    """Which wrappers `names` show, and who saves them so: `the names begin with _orig_mod., as torch.compile saves
    them`; "" where they show none."""
    wrappers = [key for key in _WRAPPERS if any(f".{key}." in f".{name}" for name in names)]
    if not wrappers:
        return ""
    start = _common_start(names)
    said = ", ".join(dict.fromkeys(_WRAPPERS[key] for key in wrappers))
    if any(f".{key}." in f".{start}" for key in wrappers):
        return f"the names begin with {start}, as {said}"
    return f"the names have {', '.join(f'{key}.' for key in wrappers)} in them, as {said}"


def _common_start(names: Collection[str]) -> str:
    """The modules with which all names begin, with a dot behind; those that wrappers add, and at most one other."""
    first, *others = names
    found = ""
    for part in first.split(".")[:-1]:
        longer = f"{found}{part}."
        if not all(name.startswith(longer) for name in others):
            break
        if found and not any(f".{longer}".endswith(f".{key}.") for key in ("model", *_WRAPPERS)):
            break
        found = longer
    return found


def _may_be_wrapped(names: Collection[str]) -> bool:
    """Told without knowing the class: a wrapper's name is among the modules', or all names begin alike."""
    return any(_ANYWHERE.search(name) for name in names) or len({name.partition(".")[0] for name in names}) == 1
