"""What the documents of the public names say: complete, and every example gives what it says.

The examples run as they stand, as the user `you` of a local Hub where `user` has published a base, two experts with
statistics, a causal model and labelled texts; each in a folder of its own.
"""

import inspect
import json
import operator
import re

import numpy as np
import pytest
from huggingface_hub import CommitOperationAdd, HfApi

import fusehub
from tests.unit.at_hub import ROOT, session
from tests.unit.experts import LABELS, relatives, texts_of, with_statistics
from tests.unit.test_importers import write_gguf
from tests.unit.tiny import tiny_model

FUNCTIONS = [name for name in fusehub.__all__ if inspect.isroutine(getattr(fusehub, name))]
CLASSES = [name for name in fusehub.__all__ if inspect.isclass(getattr(fusehub, name))]
PAGES = sorted(
    path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md") if ">>> " in path.read_text()
)
SPLITS = ("train", "validation", "test")
RUN = """
import doctest, os, tempfile
from pathlib import Path
from transformers import AutoTokenizer
import fusehub

os.chdir(tempfile.mkdtemp(dir="."))
Path("imatrix.gguf").symlink_to({imatrix!r})
names = dict(fusehub=fusehub, Path=Path, AutoTokenizer=AutoTokenizer)
runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
if {name!r}.endswith(".md"):
    text = Path({root!r}, {name!r}).read_text().replace("```", "")
    found = [doctest.DocTestParser().get_doctest(text, names, {name!r}, None, 0)]
else:
    found = doctest.DocTestFinder().find(getattr(fusehub, {name!r}), {name!r}, globs=names)
for test in found:
    runner.run(test)
assert runner.tries
"""


def documented(name: str) -> set[str]:
    """The arguments that a function's document tells of, itself or by the one that it refers to."""
    made = operator.attrgetter(name)(fusehub)
    told = {one.lstrip("*") for one in sections(name).get("Args", ())}
    other = re.search(r"other arguments are\s+those of `([\w.]+)`", inspect.getdoc(made))
    assert told <= set(inspect.signature(made).parameters)
    return told | (documented(other[1]) if other else set())


def sections(name: str) -> dict[str, list[str]]:
    """The names that each section of a docstring lists, or its lines where it lists none."""
    text = inspect.getdoc(operator.attrgetter(name)(fusehub)) or ""
    found = re.findall(r"^(\w+):\n((?:    .*\n|\n)+)", text + "\n", re.M)
    return {title: re.findall(r"^    (\*{0,2}\w+): ", body, re.M) for title, body in found}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_functions_document_is_complete(name: str) -> None:
    told = sections(name)
    signature = inspect.signature(getattr(fusehub, name))
    assert set(signature.parameters) <= documented(name)
    assert {"Returns", "Examples"} <= told.keys()
    # What takes nothing has nothing to refuse.
    assert "Raises" in told or not signature.parameters


@pytest.mark.parametrize("name", CLASSES)
def test_a_classs_document_is_complete(name: str) -> None:
    made = getattr(fusehub, name)
    told = sections(name)
    assert "Examples" in told
    assert told.get("Attributes", []) == list(getattr(made, "__dataclass_fields__", told.get("Attributes", [])))


METHODS = [
    f"{name}.{own}"
    for name in CLASSES
    for own, made in vars(getattr(fusehub, name)).items()
    if not own.startswith("_") and (inspect.isfunction(made) or isinstance(made, classmethod))
    # What a kind of error adds is its own business, and plain words of it are enough.
    if not issubclass(getattr(fusehub, name), Exception)
]


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_document_is_complete(name: str) -> None:
    """One line is enough for what takes nothing, if it says what it gives."""
    made = operator.attrgetter(name)(fusehub)
    signature, lines = inspect.signature(made), inspect.getdoc(made).splitlines()
    assert {*signature.parameters} - {"self"} <= documented(name)
    assert "Returns" in sections(name) or len(lines) == 1 or signature.return_annotation == "None"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """`run(code)` as `you` on a Hub where `user` has published what the examples name."""
    from fusehub.localhub import running

    folder = tmp_path_factory.mktemp("examples")
    with running(folder / "hub") as server:
        for name in ("user", "you"):
            server.add_user(name)
        api = HfApi(server.url, token=server.token("user"))
        first, second = with_statistics(relatives(folder, layers=1))
        writer = tiny_model(folder / "writer", "llama", task="text-generation", hidden=16, layers=1)
        base = {"expert-1": first, "expert-2": second, "base": folder / "base", "writer": writer}
        for name, path in base.items():
            front = {"license": "mit", "pipeline_tag": "text-generation" if path == writer else "text-classification"}
            front |= {"base_model": "user/base"} if name.startswith("expert") else {}
            (path / "README.md").write_text(f"---\n{json.dumps(front)}\n---\n")
            api.create_repo(f"user/{name}")
            api.upload_folder(repo_id=f"user/{name}", folder_path=path)
        api.create_repo("user/texts", repo_type="dataset")
        for number, split in enumerate(SPLITS):
            rows = ({"text": text, "label": LABELS[len(text) % 2]} for text in texts_of(number))
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            content = CommitOperationAdd(f"{split}.jsonl", lines.encode())
            api.create_commit("user/texts", [content], commit_message=split, repo_type="dataset")
        with session(server, "you", folder / "you") as opened:
            yield opened.python


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES, *PAGES])
def test_the_examples_give_what_they_say(run, name: str, tmp_path) -> None:
    imatrix = tmp_path / "imatrix.gguf"
    write_gguf(imatrix, {"model.layers.0.mlp.down_proj.weight": np.ones((10, 32))})
    assert (
        run(RUN.format(root=str(ROOT), name=name, imatrix=str(imatrix))) == ""
    )  # Nothing is said of those that are right.
