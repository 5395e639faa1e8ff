"""The process that answers: what it was asked is answered, and the end of one is not the end of another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from fusehub.collecting.collect import collect
from fusehub.errors import FuseHubError
from space.workers.jobs import CANCELLED, DONE, FAILED, Jobs
from space.workers.tasks import carry_out
from space.workers.worker import Worker
from tests.unit.experts import edit_json, relatives, text_file
from tests.unit.tiny import tiny_model

# Each such word takes the expression below a fair part of a second, and no word alone too long for the library.
HARD = " ".join(["a" * 22 + "b"] * 80)
HOPELESS = "a" * 60 + "b"


@pytest.fixture
def worker():
    made = Worker()
    yield made
    made.close()


@pytest.fixture
def strangers(tmp_path: Path) -> dict[str, str]:
    """A model whose tokenizer cuts texts by an expression that goes back and forth."""
    path = tiny_model(tmp_path / "strangers", "roberta")
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "WhitespaceSplit"},
            {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
            tokenizer["pre_tokenizer"],
        ],
    }
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    # The classes of architectures cut texts by their own expressions.
    edit_json(path / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    return {"strangers": str(path)}


def ask(worker: Worker, models: dict[str, str], text: str = "a good film") -> list[str]:
    return worker.ask("compare", {"models": models, "texts": [text] * 40, "ensemble": False}, None)["models"]


def test_a_temporary_folder_too_deep_for_a_socket_is_no_hindrance(tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 25)
    deep.mkdir()
    model = tiny_model(tmp_path / "one")
    program = f"""
from space.workers.worker import Worker
worker = Worker()
print(worker.ask("compare", {{"models": {{"one": {str(model)!r}}}, "texts": ["fine"], "ensemble": False}})["models"])
worker.close()
"""
    environment = {**os.environ, "TMPDIR": str(deep)}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "['one']", ran.stderr


def test_who_hears_late_of_a_process_that_died_does_not_end_what_the_next_was_asked(worker: Worker, tmp_path) -> None:
    model = {"one": str(tiny_model(tmp_path / "one"))}
    first = worker._ensure_locked()
    first.process.kill()
    first.process.join()
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask, worker, model)
        while worker._process is first or not worker._process.open:
            time.sleep(0.001)
        first.listen()
        assert asked.result() == ["one"]


def test_what_a_process_was_asked_when_it_died_is_said_to_be_lost_and_another_answers(
    worker: Worker, tmp_path
) -> None:
    model = {"one": str(tiny_model(tmp_path / "one"))}
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask, worker, model)
        while worker._process is None or not worker._process.open:
            time.sleep(0.001)
        worker._process.process.kill()
        with pytest.raises(FuseHubError, match="was ended"):
            asked.result()
    assert ask(worker, model) == ["one"]


def test_others_are_answered_while_one_visitor_keeps_a_process_busy_for_ever(strangers, tmp_path) -> None:
    """As many questions as the process answers at once hang; each is told, and nothing goes on behind them."""
    model = {"one": str(tiny_model(tmp_path / "one"))}
    worker = Worker()
    try:
        began = time.monotonic()
        ask(worker, model)
        # So long a process takes here that begins and answers.
        worker.busy = 3 * (time.monotonic() - began)
        worker.patience = worker.busy / 3
        stuck = worker._process
        with ThreadPoolExecutor(9) as threads:
            hanging = [threads.submit(ask, worker, strangers, HARD) for _ in range(8)]
            while len(stuck.open) < 8:
                time.sleep(0.01)
            other = threads.submit(ask, worker, model)
            assert other.result() == ["one"]
            for question in hanging:
                with pytest.raises(FuseHubError, match="No answer came within"):
                    question.result()
        assert not stuck.process.is_alive() and worker._process is not stuck
        assert ask(worker, model) == ["one"]
        server = psutil.Process(worker._process.process.pid).parent()
        busy = [
            child for child in server.children() if child.pid != worker._process.process.pid and child.cpu_percent(1)
        ]
        assert not busy
    finally:
        worker.close()


def test_what_takes_long_and_has_an_end_is_answered(tmp_path) -> None:
    """A large model that is downloaded first, for one: here any question, of a worker without patience."""
    worker = Worker(busy=0.05, patience=300)
    try:
        assert ask(worker, {"one": str(tiny_model(tmp_path / "one"))}) == ["one"]
    finally:
        worker.close()


def test_a_tokenizer_that_gives_up_is_said_in_words(worker: Worker, strangers) -> None:
    with pytest.raises(FuseHubError, match="The tokenizer fails on these texts"):
        ask(worker, strangers, HOPELESS)


def test_work_that_stands_still_is_ended_and_the_next_in_the_queue_is_done(strangers, tmp_path) -> None:
    texts = {name: tmp_path / f"{name}.txt" for name in ("easy", "hard")}
    texts["easy"].write_text("a good film\n")
    texts["hard"].write_text("\n".join(f"{number} {HARD}" for number in range(40)))
    jobs = Jobs(running=1, waiting=3)

    def submit(name: str, number: int):
        what = {"data": str(texts[name]), "out": str(tmp_path / f"out-{number}"), "limit": 40, "fisher": False}
        return jobs.submit(
            "statistics", "Statistics", {"model": strangers["strangers"], **what}, None, lambda job: None
        )

    began = time.monotonic()
    jobs.wait(first := submit("easy", 0), 600)
    jobs.silent = 2 * (time.monotonic() - began)
    stuck, after = submit("hard", 1), submit("easy", 2)
    jobs.wait(after, 1200)
    jobs.close()
    assert (first.state, stuck.state, after.state) == (DONE, FAILED, DONE)
    assert "stood still at" in stuck.error.what
    assert not list(tmp_path.glob("*partial*")) and not (tmp_path / "out-1").exists()


def test_work_that_is_cancelled_while_its_process_comes_to_be_is_ended(tmp_path) -> None:
    model, out = tiny_model(tmp_path / "model", layers=1), tmp_path / "out"
    (tmp_path / "texts.txt").write_text("a good film\n")
    jobs = Jobs(running=1, waiting=1)
    begins, goes_on = threading.Event(), threading.Event()

    def late(**options):
        process = context.Process(**options)

        def start() -> None:
            begins.set()
            goes_on.wait(60)
            del process.start
            process.start()

        process.start = start
        return process

    context = jobs.context
    jobs.context = SimpleNamespace(Pipe=context.Pipe, Process=late)
    what = {"model": str(model), "data": str(tmp_path / "texts.txt"), "out": str(out), "limit": 1, "fisher": False}
    job = jobs.submit("statistics", "Statistics", what, None, lambda job: None)
    assert begins.wait(60)
    threading.Timer(0.5, goes_on.set).start()
    jobs.cancel(job)
    jobs.wait(job, 600)
    assert job.state == CANCELLED and job.error is None and not out.exists()


def test_what_is_noted_of_layers_is_told_once(tmp_path: Path) -> None:
    models = relatives(tmp_path, layers=1)
    for path in models:
        collect(str(path), text_file(tmp_path, texts=["a"]), path / "fusehub").close()
    names = [str(path) for path in models]
    recipe = {"name": "one", "out": str(tmp_path / "out"), "models": names, "method": "regmean", "base_model": None}
    recipe |= {"parameters": {"alpha": 1.0}, "weights": {}, "statistics": {}, "labels": None, "heads": "auto"}
    # One that cannot be made, as there are no Fisher diagonals, does not stop the other.
    lacking = recipe | {"name": "two", "out": str(tmp_path / "two"), "method": "fisher", "parameters": {}}
    asked = {"models": names, "recipes": [lacking, recipe], "room": (2**40, "fusehub merge")}
    *_, (said, result) = carry_out("merge", asked, None)
    [made] = result["made"]
    assert said == "result" and sum("kept at the anchor" in note for note in made["notes"]) == 1, made
    [(name, error)] = result["failed"]
    assert name == "two" and {action.code for action in error.actions} == {"collect-fisher"}
    *_, (said, error) = carry_out("merge", asked | {"recipes": [lacking]}, None)
    assert said == "error" and "no Fisher diagonals" in error.what
