"""Our own regular expressions are linear: a text of a stranger twice as long takes twice as long, whatever it is."""

import ast
import importlib
import inspect
import itertools
import pkgutil
import re
import time
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

import fusehub
import space

# What the expressions repeat, and ends that none of them takes.
PIECES = (
    "a",
    "A",
    "0",
    " ",
    "\n",
    "\t",
    ".",
    "-",
    "_",
    "/",
    "\\",
    "[",
    "]",
    ",",
    "'",
    '"',
    "`",
    "+",
    "0.",
    "a.",
    ".0.",
)
PIECES += (
    "a/",
    "/.",
    "~/",
    "a,",
    "B-",
    "--",
    "{%",
    "{%-",
    ".lora_A",
    ".lora_A.",
    "module.",
    "\\u",
    "\ud800",
    "é",
    "@",
)
PIECES += (".experts.0", "/tree/", "unused1", "dropout_", "loss_", "a@", "|#", "Available:[", "['a',")
ENDS = ("", "!", "\0")
LENGTH = 10_000
# Below so many seconds nothing is told from noise; a quadratic expression takes ten times as long.
FLOOR = 0.02


def modules() -> Iterator[ModuleType]:
    for package in (fusehub, space):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                yield importlib.import_module(found.name)


def uses() -> Iterator[tuple[str, Callable[[str], object]]]:
    """Every use of an expression in the package and the app, but for those that are made up of names.

    Names of keys that are longer than any are not given to the expression of what acts in training alone.
    """
    for module in modules():
        source = inspect.getsource(module)
        for name, value in vars(module).items():
            if isinstance(value, re.Pattern) and name != "_TRAINING":
                for method in sorted(set(re.findall(rf"\b{name}\.(match|search|fullmatch|finditer|sub)\(", source))):
                    yield f"{module.__name__}.{name}.{method}", use(value, method)
        for node in ast.walk(ast.parse(source)):
            if is_use(node):
                flags = re.DOTALL if "DOTALL" in ast.dump(node) else 0
                yield f"{module.__name__}:{node.lineno}", use(re.compile(node.args[0].value, flags), node.func.attr)


def is_use(node: ast.AST) -> bool:
    """Whether it is `re.match("...", ...)`, or another function of `re` that is given a text."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
        return False
    is_function = ast.dump(node.func.value) == ast.dump(ast.parse("re", mode="eval").body)
    return is_function and isinstance(node.args[0], ast.Constant) and node.func.attr not in ("compile", "escape")


def use(pattern: re.Pattern, method: str) -> Callable[[str], object]:
    if method == "sub":
        return lambda text: pattern.sub("", text)
    if method == "finditer":
        return lambda text: list(pattern.finditer(text))
    return getattr(pattern, method)


def seconds(work: Callable[[str], object], text: str) -> float:
    started = time.process_time()
    work(text)
    return time.process_time() - started


@pytest.mark.parametrize(("name", "work"), list(uses()), ids=lambda value: value if isinstance(value, str) else "")
def test_an_expression_of_ours_is_linear(name: str, work: Callable[[str], object]) -> None:
    for piece, end in itertools.product(PIECES, ENDS):
        text = piece * (LENGTH // len(piece)) + end
        if (long := seconds(work, text)) > FLOOR:
            short = min(seconds(work, text[LENGTH // 2 :]) for _ in range(3))
            long = min(long, seconds(work, text), seconds(work, text))
            assert long < 3 * short or long < FLOOR, (piece, end, short, long)
