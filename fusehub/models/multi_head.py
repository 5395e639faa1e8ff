"""A merge in which each expert keeps its head, as one model in memory: one body, and all heads on it.

model = load_heads("user/merged")
inputs = tokenizer("Anna Schmidt loved it.", return_tensors="pt")
outputs = model(**inputs)                       # the body runs once
outputs["sentiment"].logits, outputs["entities"].logits
model.heads["writer"].generate(**inputs)        # each head is the whole model that transformers has for its task
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from fusehub.errors import Incompatible, NotFound
from fusehub.hub.access import Access
from fusehub.models.loading import load_model
from fusehub.models.resolve import resolve_all
from fusehub.utils.devices import Device, find_device, find_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What bodies gave during the call that runs; None outside of one.
_given: ContextVar[list[_Given] | None] = ContextVar("_given", default=None)
_Given = tuple[nn.Module, dict[str, Any], Any]


def load_heads(
    model: str,
    heads: Sequence[str] = (),
    *,
    dtype: str | torch.dtype | None = None,
    device: Device | None = "cpu",
    revision: str | None = None,
    subfolder: str | None = None,
    token: bool | str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> SharedBody:
    """The models in the subfolders of a repo or folder over one body, in eval mode.

    Args:
        model: The repo or folder.
        heads: Names of those that are wanted; all where none is named.
        dtype: None keeps the one that they are stored in.
        device: Where they are put.
        revision: A branch, a tag or a commit of the model's repo.
        subfolder: The folder of the repo that the model is in.
        token: The Hub's token; None for the one of `hf auth login` if there is one, True where there must be, False
            for none.
        cache_dir: Where downloads lie; the Hub's cache of this machine where nothing is said.
        local_files_only: Read what is in the cache already, and ask the Hub for nothing.

    Returns:
        A module that gives each head's output.

    Raises:
        NotFound: There is no such head.
        Incompatible: The models have no body in common.

    Examples:
        >>> merged = fusehub.merge(["user/expert-1", "user/expert-2"], "merged", heads="keep")
        >>> model = fusehub.load_heads("merged")
        >>> list(model.heads)
        ['expert-1', 'expert-2']
    """
    found = resolve_all(model, Access(token, cache_dir, local_files_only), revision=revision, subfolder=subfolder)
    missing = [name for name in heads if name not in found]
    if missing:
        raise NotFound(f"{model} has no head {', '.join(missing)}.", f"It has {', '.join(found)}.")
    chosen = {name: found[name] for name in heads or found}
    own, place = find_dtype(dtype), find_device(device)
    return SharedBody((name, load_model(ref, dtype=own, device=place)) for name, ref in chosen.items())


class SharedBody(nn.Module):
    """Models of transformers, each with a head of its own, whose equal weights are in memory once.

    `forward` gives each head's output by its name, as transformers gives it. Where the whole body is the same, it runs
    once for all of them; where experts kept a part of it (their poolers), once for each that did. Gradients flow as
    through any module, and `heads[name].save_pretrained(...)` writes that model with the body.

    Examples:
        >>> merged = fusehub.merge(["user/expert-1", "user/expert-2"], "merged", heads="keep")
        >>> model = fusehub.load_heads("merged")
        >>> tokenizer = AutoTokenizer.from_pretrained("merged/expert-1")
        >>> outputs = model(**tokenizer("not very funny", return_tensors="pt"))
        >>> outputs["expert-1"].logits.shape
        torch.Size([1, 2])
    """

    def __init__(self, heads: Iterable[tuple[str, PreTrainedModel]]) -> None:
        """`heads` by name; taken one by one, so that of models loaded on the way one body too many is in memory.

        Raises `Incompatible` where two have no weight of their bodies in common.
        """
        super().__init__()
        # Lists, as names of modules may have no dots, and names of models do.
        self._names: list[str] = []
        self._heads = nn.ModuleList()
        for name, head in heads:
            self._add(name, head)
        self.eval()

    def _add(self, name: str, head: PreTrainedModel) -> None:
        own, before = _body(name, head), self.heads
        bodies = list({id(other.base_model): other.base_model for other in before.values()}.values())
        shares = [_share(own, body) for body in bodies]
        if bodies and not any(shares):
            raise Incompatible(
                f"The bodies of {', '.join(before)} and {name} have no weights in common.",
                "Only heads of one merge share a body.",
            )
        own.forward = _Once(own)
        whole = next((body for body in bodies if _is_part(own, body)), own)
        _set_body(head, whole)
        for other in before.values():  # A tagger's body is a classifier's without the pooler.
            if other.base_model is not whole and _is_part(other.base_model, whole):
                _set_body(other, whole)
        self._names.append(name)
        self._heads.append(head)

    @property
    def heads(self) -> dict[str, PreTrainedModel]:
        """Each head on the body: what `from_pretrained(..., subfolder=NAME)` gives, without weights of its own."""
        # A ModuleList does not say of what it is one.
        return dict(zip(self._names, cast("Iterable[PreTrainedModel]", self._heads), strict=True))

    def forward(self, **inputs: Any) -> dict[str, Any]:
        """Runs the body once, and every head on it.

        Args:
            **inputs: As the experts' models take them.

        Returns:
            Each head's output, by the head's name.
        """
        token = _given.set([])
        try:
            return {name: head(**inputs) for name, head in self.heads.items()}
        finally:
            _given.reset(token)


class _Once:
    """A module's forward; within one call of `SharedBody`, the same inputs are not computed twice."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.forward = module.forward
        self.signature = inspect.signature(self.forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = _given.get()
        if given is None:
            return self.forward(*args, **kwargs)
        # By name, as some heads give by position what others name; None is what is not given.
        bound = self.signature.bind(*args, **kwargs).arguments
        said = {key: value for key, value in {**bound, **bound.get("kwargs", {})}.items() if key != "kwargs"}
        said = {key: value for key, value in said.items() if value is not None}
        for module, before, output in given:
            if module is self.module and _are_same(before, said):
                return output
        output = self.forward(*args, **kwargs)
        given.append((self.module, said, output))
        return output


def _body(name: str, head: PreTrainedModel) -> nn.Module:
    """What the head is on."""
    if head.base_model is head:
        raise Incompatible(
            f"{name}: transformers' {type(head).__name__} is in one piece, without a body that others could use.",
            f'Load it by itself: from_pretrained(..., subfolder="{name}").',
        )
    return head.base_model


def _set_body(head: PreTrainedModel, body: nn.Module) -> None:
    """An output layer whose weight is the embeddings' (masked language models) then has those of this body."""
    setattr(head, head.base_model_prefix, body)
    head.tie_weights()


def _is_part(body: nn.Module, other: nn.Module) -> bool:
    """Whether `other` is `body`, or has all of it and more; equal weights are shared already."""
    theirs = dict(other.named_parameters())
    return type(body) is type(other) and all(theirs.get(key) is value for key, value in body.named_parameters())


def _share(body: nn.Module, other: nn.Module) -> bool:
    """Puts the weights of `other` in the place of equal ones of `body`; whether there were any."""
    if type(body) is not type(other):
        return False
    theirs = dict(other.named_parameters())
    shared = False
    for key, value in list(body.named_parameters(remove_duplicate=False)):
        same = theirs.get(key)
        if same is value or (same is not None and same.dtype == value.dtype and torch.equal(same, value)):
            place, _, name = key.rpartition(".")
            setattr(body.get_submodule(place), name, same)
            shared = True
    return shared


def _are_same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether arguments are the same objects, or equal where they are no tensors."""
    return a.keys() == b.keys() and all(
        value is b[key] or (not (torch.is_tensor(value) or torch.is_tensor(b[key])) and value == b[key])
        for key, value in a.items()
    )
