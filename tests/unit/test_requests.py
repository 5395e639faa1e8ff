"""How often the Hub is asked: what it says of a commit once, several models side by side, and what is here already
never."""

import json
import shutil
import threading
from collections import Counter

import pytest
from huggingface_hub import HfApi

from fusehub.localhub.faults import FILENAME, LOG
from fusehub.utils.side_by_side import side_by_side
from tests.unit.at_hub import session
from tests.unit.experts import LABELS, edit_json, relatives, with_statistics

WITH, WITHOUT = ([f"ann/{kind}-{number}" for number in range(3)] for kind in ("with", "without"))
FORGET = "import shutil; from huggingface_hub.constants import HF_HUB_CACHE; shutil.rmtree(HF_HUB_CACHE, True)"
IN_PYTHON = f"""
import fusehub
models = [fusehub.resolve(name) for name in {WITH}]
assert fusehub.check(models).ok
recipe = fusehub.Recipe.of(models, "regmean")
assert fusehub.plan_merge(recipe, resolved={{model.id: model for model in models}}).statistics
"""
IN_THE_APP = f"""
from space.workers.checks import check
from space.workers.pace import untold
found = check(untold, None, models={WITH})
assert found["ok"] and found["cost"] and all(own["origin"] for own in found["statistics"].values()), found
"""


@pytest.fixture(scope="module")
def asked(hub, tmp_path_factory):
    """`asked("check", ...)`: (how often each of the requests was made, most at one time) of a command in a process of
    its own; `asked(code=...)` of a script. Three experts with a config each and one tokenizer, published twice."""
    parts = with_statistics(relatives(tmp_path_factory.mktemp("models"), labels=(LABELS,) * 3, layers=1))
    api = HfApi(endpoint=hub.url, token=hub.token("ann"))
    for number, part in enumerate(parts):
        edit_json(part / "config.json", finetuning_task=f"task {number}")
        for repo, ignored in ((WITH[number], None), (WITHOUT[number], "fusehub/*")):
            api.create_repo(repo)
            api.upload_folder(repo_id=repo, folder_path=part, ignore_patterns=ignored)
    # Slow enough that requests meet each other.
    (hub.root / FILENAME).write_text(json.dumps([{"path": ".*", "do": "stall", "seconds": 0.3}]))
    with session(hub, "ann", tmp_path_factory.mktemp("home"), forked=True) as run:
        # What is imported once is there for all; nothing of the Hub is known by it.
        run.warm("merge", *parts, "--dry-run")

        def count(*arguments, code=None, code_ends=0):
            (hub.root / LOG).unlink(missing_ok=True)
            if code:
                run.python(code)
            else:
                told = run.told(*arguments)
                assert told["code"] == code_ends, told
            lines = [json.loads(line) for line in (hub.root / LOG).read_text().splitlines()]
            return Counter(_kind(method, path) for method, path, *_ in lines), 1 + max(line[3] for line in lines)

        count.forget = lambda: run.python(FORGET)
        yield count
    (hub.root / FILENAME).unlink()


def _kind(method: str, path: str) -> str:
    """`GET config.json`, `GET info`: what is asked, of whatever model."""
    if path == "/api/models":
        return f"{method} list"
    return f"{method} {path.rpartition('/')[2] if '/resolve/' in path else 'info'}"


INFO = {"GET info": 3}
HEADERS = {"GET model.safetensors": 3}
# Three configs, and the files of the one tokenizer.
FILES = {"GET config.json": 3, "GET tokenizer.json": 1, "GET tokenizer_config.json": 1}
STATISTICS = {"GET statistics.json": 3}


def test_a_check_and_a_plan_ask_once_for_each_thing_and_side_by_side(asked):
    asked.forget()
    cold, at_once = asked("check", *WITH)
    assert cold == INFO | FILES | HEADERS and at_once >= 4
    # Another process: who may read, what is newest, and what is no file.
    assert asked("check", *WITH) == (INFO | HEADERS, 3)
    plan, at_once = asked("merge", *WITH, "--dry-run")
    assert plan == INFO | HEADERS | STATISTICS and plan.total() <= 10 and at_once == 3
    assert asked("merge", *WITH, "--dry-run")[0] == INFO | HEADERS
    asked.forget()
    # One run knows what it has asked, and resolving is what asks: not checking, nor planning.
    assert asked("merge", *WITH, "--dry-run")[0] == INFO | FILES | HEADERS | STATISTICS
    asked.forget()
    assert asked(code=IN_PYTHON)[0] == INFO | FILES | HEADERS | STATISTICS


def test_without_statistics_one_question_a_model_tells_that_nobody_has_any(asked):
    asked.forget()
    assert asked("merge", *WITHOUT, "--method", "mean", "--dry-run")[0] == INFO | FILES | HEADERS
    found, at_once = asked("merge", *WITHOUT, "--method", "regmean", "--dry-run", code_ends=1)
    assert found == INFO | HEADERS | {"GET list": 3} and found.total() <= 10 and at_once == 3
    # Which way is recommended is asked of nobody but those that are merged.
    assert asked("merge", *WITHOUT, "--dry-run")[0] == found


def test_of_weights_that_are_here_nothing_is_asked_but_who_may_read_them(asked, tmp_path):
    asked("merge", *WITH, "--out", tmp_path / "merged")
    assert asked("check", *WITH) == (INFO, 3)
    assert asked("merge", *WITH, "--dry-run") == (INFO, 3)
    shutil.rmtree(tmp_path / "merged")
    assert asked("merge", *WITH, "--out", tmp_path / "merged") == (INFO, 3)


def test_models_that_are_compared_are_asked_for_side_by_side(asked):
    compare = ("compare", *WITH, "--text", "Not bad at all.")
    asked(*compare)
    assert asked(*compare) == (INFO, 3)


def test_work_is_done_side_by_side_and_the_first_error_is_raised():
    together = threading.Barrier(3, timeout=60)

    def work(number):
        together.wait()
        if number:
            raise ValueError(number)
        return number

    with pytest.raises(ValueError, match="1"):
        side_by_side(work, range(3))
    assert side_by_side(str, [1, 2]) == ["1", "2"]


def test_a_check_in_the_app_asks_no_more_than_a_plan_does(asked):
    asked.forget()
    requests, _ = asked(code=IN_THE_APP)
    assert requests == INFO | HEADERS | FILES | STATISTICS
