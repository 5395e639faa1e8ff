"""What SECURITY.md promises is held by the tests that it names."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "SECURITY.md").read_text()


def test_each_promise_names_tests_that_are_there() -> None:
    _, _, *table = [line for line in TEXT.splitlines() if line.startswith("| ")]
    assert len(table) > 10
    for line in table:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", line)
        assert named, line
        for path, name in named:
            functions = [node.name for node in ast.parse((ROOT / path).read_text()).body if hasattr(node, "name")]
            assert name in functions, f"{path}::{name}"


def test_the_figures_that_are_told_are_those_of_the_code() -> None:
    from fusehub.data.tables.hub_datasets import HELD

    assert {int(size) * 2**20 for size in re.findall(r"(\d+) MB a split", TEXT)} == {HELD}


def test_the_longest_wait_that_is_told_is_that_of_the_client() -> None:
    from fusehub.hub.wire import Patience

    told = (ROOT / "docs" / "reliability.md").read_text()
    assert f"longer than {Patience().longest:.0f} seconds" in " ".join(told.split())


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert links and all((ROOT / link).is_file() for link in links)
