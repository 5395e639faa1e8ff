"""YAML from outside as plain data, or `BadRecipe` in words: nothing in it is run, hidden or blown up.

PyYAML's safe loader keeps the last of two equal keys, copies what an alias names as often as it is said, and raises
whatever Python raises for a date that there is not or for a thousand brackets.
"""

from __future__ import annotations

from typing import Any

import yaml

from fusehub.errors import BadRecipe
from fusehub.utils.untrusted.limits import NESTED, YAML_BYTES, YAML_VALUES


class _Plain(yaml.SafeLoader):
    """Plain data alone: a date stays the text that was written, and what JSON has no kind for is none."""


_Plain.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if not tag.endswith(":timestamp")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _refuse(loader: _Plain, node: yaml.Node) -> None:
    raise yaml.constructor.ConstructorError(None, None, f"{node.tag} is no plain data", node.start_mark)


for _tag in ("timestamp", "binary", "set", "omap", "pairs"):
    _Plain.add_constructor(f"tag:yaml.org,2002:{_tag}", _refuse)


def load_yaml(text: str, what: str) -> Any:
    """The one document in `text`; `what` is how errors call it."""
    if len(text) > YAML_BYTES:
        raise BadRecipe(
            f"{what} has {len(text):,} characters, and no more than {YAML_BYTES:,} are read of YAML.",
            "Is it the right file? Take out of it what does not belong there.",
        )
    try:
        loader = _Loader(text, what)
        nodes: list[yaml.Node] = []
        while loader.check_node():
            node = loader.get_node()
            assert node is not None  # It was said to be there.
            nodes.append(node)
        if len(nodes) > 1:
            raise BadRecipe(
                f"{what} holds {len(nodes)} recipes, one after the other (as mergekit-multi reads them).",
                "Merge one at a time: a file for each, in which the folder of an earlier result is named as a model.",
            )
        for node in nodes:
            _require_plain(node, what)
        return loader.construct_document(nodes[0]) if nodes else None
    except (yaml.YAMLError, ValueError, LookupError) as error:
        raise BadRecipe(f"{what} is not YAML ({' '.join(str(error).split())}).", "Correct the file.") from error
    except RecursionError as error:
        raise _too_deep(what) from error


def _too_deep(what: str) -> BadRecipe:
    return BadRecipe(f"{what} has lists in lists deeper than can be read.", "Write it flat.")


class _Loader(_Plain):
    """PyYAML's safe loader, which ends as soon as there are more values, or lists in lists, than any recipe has."""

    def __init__(self, text: str, what: str) -> None:
        super().__init__(text)
        self._what, self._values = what, 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._values += 1
        if self._values > YAML_VALUES:
            raise BadRecipe(f"{self._what} has more than {YAML_VALUES:,} values.", "Is it the right file?")
        return super().compose_node(parent, index)

    def fetch_flow_collection_start(self, token: Any) -> None:
        # For each word that follows, PyYAML looks at every bracket that is open: a thousand take a second.
        if self.flow_level >= NESTED:
            raise _too_deep(self._what)
        super().fetch_flow_collection_start(token)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            # What Python says of a number of 6,000 digits, or of "" as one, is said to programmers.
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(None, None, f"no {kind} can be read", node.start_mark) from error


def split_front_matter(text: str) -> tuple[str | None, str]:
    """The YAML between the two lines `---` that a card begins with, and what comes after; (None, text) without it."""
    lines = text.removeprefix("\ufeff").splitlines(keepends=True)
    if not lines or lines[0].rstrip() != "---":
        return None, text
    end = next((number for number, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), None)
    if end is None:
        return None, text
    return "".join(lines[1:end]), "".join(lines[end + 1 :])


def _require_plain(root: yaml.Node, what: str) -> None:
    """Raises `BadRecipe` for keys said twice, aliases that hold themselves, and aliases of aliases without end."""
    sizes: dict[int, int] = {}
    inside: set[int] = set()

    def size(node: yaml.Node) -> int:
        """How many nodes there are below, each alias counted as what it names."""
        if id(node) in sizes:
            return sizes[id(node)]
        if id(node) in inside:
            raise BadRecipe(f"{what}: an anchor holds itself.", "Write out what is meant.")
        inside.add(id(node))
        below: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            _require_different_keys(node, what)
            below = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            below = node.value
        sizes[id(node)] = 1 + sum(map(size, below))
        inside.discard(id(node))
        return sizes[id(node)]

    if size(root) > YAML_VALUES:
        raise BadRecipe(f"{what}: its aliases stand for more than {YAML_VALUES:,} values.", "Write out what is meant.")


def _require_different_keys(node: yaml.MappingNode, what: str) -> None:
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise BadRecipe(
                f"{what}, line {key.start_mark.line + 1}: a list or a mapping stands where a key should.",
                "Correct the file.",
            )
        name = (key.tag, key.value)
        if name in seen and not key.tag.endswith(":merge"):
            raise BadRecipe(
                f"{what}, line {key.start_mark.line + 1}: '{key.value}' is said twice.", "Keep one of the two."
            )
        seen.add(name)
