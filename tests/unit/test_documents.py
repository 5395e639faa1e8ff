"""What the documents repeat of the code is what the code says."""

import re
import tomllib
from pathlib import Path

import yaml

import fusehub
from tests.unit.floors import page

ROOT = Path(__file__).parents[2]


def test_the_picture_of_the_floors_is_that_of_the_code() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    written = text.partition("tests.unit.floors` -->\n")[2].partition("<!-- /floors -->")[0]
    assert written == page(), "write the output of `python -m tests.unit.floors` between the marks"


def test_every_public_name_has_its_place_in_the_reference() -> None:
    pages = "".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    assert set(fusehub.__all__) <= set(re.findall(r"^(?:::: fusehub\.|## )(\w+)$", pages, re.M))


def test_the_version_is_written_in_pyproject_and_is_that_of_the_citation() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version == fusehub.__version__


def test_every_document_is_a_page_of_the_site() -> None:
    """And every page is there: a build says so too, but not everybody builds the site."""
    site = (ROOT / "mkdocs.yml").read_text()
    listed = set(re.findall(r"[\w/-]+\.md$", site, re.M))
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert listed == written | {"index.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"}
