"""What an adapter's config says of the modules that it changes, read as peft reads it when it loads the adapter.

peft builds the adapter from its config and fills it from its file: what the file has beyond that is left out, and what
it lacks keeps the numbers that it began with. Names are those of modules, "model.layers.0.self_attn.q_proj".
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from fusehub.errors import Incompatible
from fusehub.utils.untrusted.limits import PATTERN_CHARACTERS, PATTERN_REPEATS, PATTERN_SECONDS

_Number = TypeVar("_Number", int, float)
_RANK = 8  # peft's default.
# Modules that peft saves for a kind of task without being told.
_HEADS = {"SEQ_CLS": ("classifier", "score"), "TOKEN_CLS": ("classifier", "score"), "QUESTION_ANS": ("qa_outputs",)}


class AdapterSettings:
    """The config `said` of the adapter called `owner`."""

    def __init__(self, said: Mapping[str, Any], owner: str) -> None:
        self._said, self._owner = said, owner
        # Seconds that are left for the expressions of this config, however many there are.
        self._patience = PATTERN_SECONDS
        self._expressions: dict[str, Any] = {}
        lists = ("target_modules", "exclude_modules")
        self._lists = {key: frozenset(said[key]) for key in lists if isinstance(said.get(key), list)}
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

    def _by_pattern(self, setting: str, module: str, default: _Number) -> _Number:
        for pattern, own in (self._said.get(setting) or {}).items():
            if self._fits(rf"(.*\.)?({pattern})$", module, setting, pattern):
                return own
        return default

    def _named(self, names: str | Iterable[str], module: str, setting: str) -> bool:
        """Whether an expression means the whole name, or one of several names is its end."""
        if isinstance(names, str):
            return self._fits(rf"(?:{names})\Z", module, setting, names)
        # A million names take no longer than one.
        return not self._lists.get(setting, frozenset()).isdisjoint(_with_ends(module))

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

        started = time.monotonic()
        try:
            if self._patience <= 0:
                raise TimeoutError
            compiled = self._expressions.get(expression)
            if compiled is None:
                _require_small(expression)
                compiled = self._expressions[expression] = regex.compile(expression)
            return compiled.match(module, timeout=self._patience)
        except (regex.error, TimeoutError, RecursionError, OverflowError, MemoryError) as error:
            raise Incompatible(
                f"{self._owner}: the pattern {pattern[:60]!r} in {setting} cannot be used "
                f"({_trouble(error, PATTERN_SECONDS)}).",
                "Write the name of the module, or the end of it.",
            ) from error
        finally:
            self._patience -= time.monotonic() - started


def _require_small(expression: str) -> None:
    """Raises `OverflowError` for an expression that takes memory when it is compiled, which cannot be interrupted."""
    if len(expression) > PATTERN_CHARACTERS:
        raise OverflowError(f"it has more than {PATTERN_CHARACTERS:,} characters")
    repeated = 1
    for least, most in re.findall(r"\{\s*(\d*)\s*,?\s*(\d*)\s*\}", expression):
        repeated *= max(1, int((most or least or "1")[:9]))
        if repeated > PATTERN_REPEATS:
            raise OverflowError(f"it repeats things more than {PATTERN_REPEATS:,} times")


def _trouble(error: Exception, most: float) -> str:
    if isinstance(error, TimeoutError):
        return f"all patterns together may take {most:g} seconds"
    return str(error) or type(error).__name__


def _ends(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")


def _with_parents(module: str) -> list[str]:
    """The module and those that it is in, the innermost first."""
    return [module, *(module[: dot.start()] for dot in reversed(list(re.finditer(r"\.", module))))]


def _with_ends(module: str) -> list[str]:
    """The name of the module and what is behind each of its dots."""
    return [module, *(module[dot.end() :] for dot in re.finditer(r"\.", module))]
