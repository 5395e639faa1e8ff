"""The process that answers: what it was asked is answered, and the end of one is not the end of another."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fusehub.errors import FuseHubError
from space.worker import Worker
from tests.unit.tiny import tiny_model


@pytest.fixture
def worker():
    made = Worker()
    yield made
    made.close()


def test_who_hears_late_of_a_process_that_died_does_not_end_what_the_next_was_asked(worker: Worker, tmp_path) -> None:
    model = {"one": str(tiny_model(tmp_path / "one"))}
    worker._ensure()
    pipe, questions = worker._pipe, worker._open
    worker._process.kill()
    worker._process.join()
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(worker.ask, "compare", {"models": model, "texts": ["a good film"]})
        while not worker._open:
            time.sleep(0.001)
        worker._listen(pipe, questions)
        assert asked.result()["models"] == ["one"]


def test_what_a_process_was_asked_when_it_died_is_said_to_be_lost_and_another_answers(
    worker: Worker, tmp_path
) -> None:
    model = {"one": str(tiny_model(tmp_path / "one"))}
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(worker.ask, "compare", {"models": model, "texts": ["a good film"]})
        while not worker._open:
            time.sleep(0.001)
        worker._process.kill()
        with pytest.raises(FuseHubError, match="was ended"):
            asked.result()
    assert worker.ask("compare", {"models": model, "texts": ["a good film"]})["models"] == ["one"]
