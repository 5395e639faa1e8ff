"""What an adapter's config says of the modules that it changes, read as peft reads it when it loads the adapter.

peft builds the adapter from its config and fills it from its file: what the file has beyond that is left out, and what
it lacks keeps the numbers that it began with. Names are those of modules, "model.layers.0.self_attn.q_proj".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from fusehub.errors import Incompatible

# peft's default rank, and how long a stranger's expression may look at the name of one module, in seconds.
_RANK, _PATIENCE = 8, 2.0
# Modules that peft saves for a kind of task without being told.
_HEADS = {"SEQ_CLS": ("classifier", "score"), "TOKEN_CLS": ("classifier", "score"), "QUESTION_ANS": ("qa_outputs",)}


class AdapterSettings:
    """The config `said` of the adapter called `owner`."""

    def __init__(self, said: Mapping[str, Any], owner: str) -> None:
        self._said, self._owner = said, owner
        self._saved = (*(said.get("modules_to_save") or ()), *_HEADS.get(said.get("task_type") or "", ()))

    def targets(self, module: str) -> bool:
        """Whether peft puts an update on `module`."""
        excluded = self._said.get("exclude_modules") or ()
        if self._named(excluded, module, "exclude_modules") or any(
            _ends(part, name) for part in _with_parents(module) for name in self._saved
        ):
            return False
        wanted = self._said.get("target_modules") or ()
        if isinstance(wanted, str) and wanted.lower() == "all-linear":
            return True
        return self._named(wanted, module, "target_modules") and (isinstance(wanted, str) or self._transforms(module))

    def saves(self, module: str) -> bool:
        """Whether peft makes a copy of `module`, or of one that it is in, and trains and saves the copy."""
        return any(part.endswith(name) for part in _with_parents(module) for name in self._saved)

    def lacking(self, parameters: Iterable[str], brought: Iterable[str]) -> str | None:
        """The first of the model's parameters that the file must have, as its module is saved whole, and has not."""
        brought = set(brought)
        for parameter in parameters:
            modules = _with_parents(parameter.rpartition(".")[0])
            if parameter not in brought and any(_ends(part, name) for part in modules for name in self._saved):
                return parameter
        return None

    def rank(self, module: str) -> int:
        """The rank r of the update of `module`."""
        return self._by_pattern("rank_pattern", module, self._said.get("r", _RANK))

    def alpha(self, module: str, default: float) -> float:
        """The α of the update of `module`."""
        return self._by_pattern("alpha_pattern", module, self._said.get("lora_alpha", default))

    def _by_pattern(self, setting: str, module: str, default: float) -> float:
        for pattern, own in (self._said.get(setting) or {}).items():
            if self._fits(rf"(.*\.)?({pattern})$", module, setting, pattern):
                return own
        return default

    def _named(self, names: str | Iterable[str], module: str, setting: str) -> bool:
        """Whether an expression means the whole name, or one of several names is its end."""
        if isinstance(names, str):
            return self._fits(rf"(?:{names})\Z", module, setting, names)
        return any(_ends(module, name) for name in names)

    def _transforms(self, module: str) -> bool:
        """Whether `layers_to_transform`, if it says anything, has the layer of `module`."""
        layers = self._said.get("layers_to_transform")
        if layers is None or layers == []:
            return True
        patterns = self._said.get("layers_pattern") or []
        before = [rf"(?:^|.*?\.){own}" for own in ([patterns] if isinstance(patterns, str) else patterns)]
        for pattern in before or [r".*?\.[^.]*"]:
            found = self._match(rf"{pattern}\.(?P<layer>\d+)\.", module, "layers_pattern", pattern)
            if found:
                number = found["layer"]  # None where an alternative of the pattern is without it.
                return number is not None and int(number) in ([layers] if isinstance(layers, int) else layers)
        return False

    def _fits(self, expression: str, module: str, setting: str, pattern: str) -> bool:
        return self._match(expression, module, setting, pattern) is not None

    def _match(self, expression: str, module: str, setting: str, pattern: str) -> Any:
        """The match of an expression at the start of a module's name; a stranger's may never come to an end."""
        import regex

        try:
            return regex.match(expression, module, timeout=_PATIENCE)
        except (regex.error, TimeoutError) as error:
            said = str(error) or "it takes too long"
            raise Incompatible(
                f"{self._owner}: the pattern {pattern[:60]!r} in {setting} cannot be used ({said}).",
                "Write the name of the module, or the end of it.",
            ) from error


def _ends(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")


def _with_parents(module: str) -> list[str]:
    """The module and those that it is in, the innermost first."""
    return [module, *(module[: dot.start()] for dot in reversed(list(re.finditer(r"\.", module))))]
