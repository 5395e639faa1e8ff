"""Models that stay in memory between questions, for a program that is asked again and again.

    kept = KeptModels(2 * 10**9)
    compare(models, ["A text."], kept=kept)       # loads them
    compare(models, ["Another."], kept=kept)      # answers at once

Whoever may not read a model must not be asked on its behalf: a kept model is found by its commit, without the Hub.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakValueDictionary

from fusehub.comparing.predictor import Predictor
from fusehub.models.resolve import ModelRef
from fusehub.utils.devices import Device


class _Turn:
    """Who asks one model, one at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class KeptModels:
    """Up to `limit` bytes of models, those that were asked last; each answers one question at a time.

    A model of a folder is kept for as long as the folder is there.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        # A model's lock, for as long as somebody has it or waits for it.
        self._turns: WeakValueDictionary[str, _Turn] = WeakValueDictionary()
        self._kept: OrderedDict[str, Predictor] = OrderedDict()

    @contextmanager
    def predictor(self, ref: ModelRef, name: str, device: Device | None = None) -> Iterator[Predictor]:
        """The model, ready to be asked under `name`; loaded where it is not kept."""
        with self._lock:
            own = self._turns.setdefault(ref.id, _Turn())
        with own.lock:
            with self._lock:
                found = self._kept.get(ref.id)
                if found is not None:
                    self._kept.move_to_end(ref.id)
            if found is None:
                found = Predictor(ref, name=name, device=device)
                found.__enter__()
                self._keep(ref.id, found)
            named = copy.copy(found)
            named.name = name
            yield named

    def _keep(self, ref_id: str, predictor: Predictor) -> None:
        with self._lock:
            # Nobody can ask them any more, and each has a tokenizer, which is not in the sum.
            for gone in [own for own, kept in self._kept.items() if kept.ref.folder and not kept.ref.folder.is_dir()]:
                del self._kept[gone]
            self._kept[ref_id] = predictor
            while len(self._kept) > 1 and sum(map(_nbytes, self._kept.values())) > self.limit:
                self._kept.popitem(last=False)


def _nbytes(predictor: Predictor) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in predictor.network.parameters())
