"""Which of several processes makes which tensors, so that all are done at about the same time.

What is solved by one system (q, k and v of a layer; a bias with its weight) is made by one process, and so are float8
and its scales. The longest come first, each to the process that has the least to do until then.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fusehub.merging.engine.weight_files import WeightFile
from fusehub.merging.planner import TensorPlan
from fusehub.models.quantised.float8 import FLOAT8, scales_of

# How many multiplications take as long as one byte that is read or written: measured on RegMean and the mean of three
# models of BERT-base's size, to the order of magnitude.
_BYTE = 20


@dataclass
class _Group:
    names: list[str] = field(default_factory=list)
    work: int = 0


def shares(
    files: Sequence[WeightFile],
    tensors: Mapping[str, TensorPlan],
    systems: Callable[[TensorPlan], Iterable[Hashable]],
    partners: Mapping[str, str],
    count: int,
) -> list[dict[str, frozenset[str]]]:
    """For each of `count` processes the names of the tensors that it makes, by the path of their file.

    `systems` tells by which linear systems a tensor is solved, `partners` the weight that each bias is solved with.
    Files are completed one after the other, so each of them is shared out for itself.
    """
    found: list[dict[str, frozenset[str]]] = [{} for _ in range(count)]
    given: dict[Hashable, int] = {}
    for file in files:
        groups = _groups(file, tensors, systems, partners)
        loads = [0] * count
        own: list[set[str]] = [set() for _ in range(count)]
        for keys, group in sorted(groups, key=lambda item: -item[1].work):
            known = (given[key] for key in keys if key in given)
            process = next(known, min(range(count), key=loads.__getitem__))
            given |= dict.fromkeys(keys, process)
            loads[process] += group.work
            own[process].update(group.names)
        for process, names in enumerate(own):
            found[process][file.path] = frozenset(names)
    return found


def _groups(
    file: WeightFile,
    tensors: Mapping[str, TensorPlan],
    systems: Callable[[TensorPlan], Iterable[Hashable]],
    partners: Mapping[str, str],
) -> list[tuple[set[Hashable], _Group]]:
    """The tensors of a file that one process makes together, each group with what they have in common."""
    groups: list[tuple[set[Hashable], _Group]] = []
    weights = {scales_of(name): name for name, info in file.shard.tensors.items() if info.dtype == FLOAT8}
    for name, info in file.shard.tensors.items():
        # Its own head's tensors are copied, as they are.
        tensor = tensors.get(partners.get(name, name)) if file.expert is None else None
        solved = tensor is not None and tensor.action == "solve"
        keys: set[Hashable] = {weights.get(name, name), *(systems(tensor) if solved and tensor is not None else ())}
        group = _Group([name], _work(name, info.nbytes, tensor if solved else None, tensors))
        apart = []
        for others, other in groups:
            if keys & others:
                # What they share is done once.
                group = _Group([*other.names, *group.names], other.work + group.work - _once(tensor))
                keys |= others
            else:
                apart.append((others, other))
        groups = [*apart, (keys, group)]
    return groups


def _work(name: str, nbytes: int, solved: TensorPlan | None, tensors: Mapping[str, TensorPlan]) -> int:
    """Multiplications of a tensor, with what its bytes take."""
    models = len(tensors[name].sources) if name in tensors else 1
    work = _BYTE * nbytes * (models + 1)
    if solved is not None and solved.name == name:
        work += _once(solved) + models * tensors[name].info.numel * solved.layer.in_features
    return work


def _once(tensor: TensorPlan | None) -> int:
    """Multiplications of a system's factorisation."""
    return tensor.layer.in_features**3 // 6 if tensor is not None and tensor.action == "solve" else 0
