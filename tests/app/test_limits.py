"""What one visitor may take: files, models, texts, the queue; and when a visit ends."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace

import gradio as gr
import httpx
import pytest
from gradio.data_classes import FileData
from gradio.queueing import EventQueue

from fusehub.errors import BadData, FuseHubError, NotFound
from space.serve import build, close, new_frame
from space.sessions import forget_idle, forget_uploads
from space.setting import Setting
from space.steps.compare import named_datasets
from space.visit import Made
from space.visits import Visits
from space.workers.jobs import DONE, RUNNING, Job, Jobs
from tests.app.conftest import DATASET, SENTIMENT, SLOW, serving
from tests.app.programs import Client, Refused


@pytest.fixture(scope="module")
def narrow(hub, tmp_path_factory):
    """The app with little room: small files, three models, one merge at a time and none waiting; short visits."""
    setting = {
        "shared": True, "upload": 100_000, "most_models": 3, "waiting": 0, "left": 12, "sweep": 0.2, "most_kept": 1,
    }  # fmt: skip
    with serving(hub, tmp_path_factory.mktemp("narrow"), setting=setting) as served:
        yield served
        assert "Traceback" not in served.log.read_text()


def test_a_file_that_is_too_large_is_not_taken(narrow) -> None:
    def upload(size: int) -> httpx.Response:
        return httpx.post(f"{narrow.url}gradio_api/upload", files={"files": ("texts.txt", b"a" * size)})

    assert upload(50_000).status_code == 200
    assert upload(200_000).status_code == 413


def test_the_queue_has_an_end(narrow) -> None:
    clients = [Client(narrow.url) for _ in range(4)]

    def merge(client: Client) -> str:
        try:
            client.predict(models=SLOW, method="mean", options={}, api_name="/merge")
            return "merged"
        except Refused as error:
            return str(error)

    with ThreadPoolExecutor(4) as callers:
        said = list(callers.map(merge, clients))
    assert "merged" in said
    refused = [text for text in said if text != "merged"]
    assert refused
    assert [text for text in refused if "others have work going on here, and no more can wait" not in text] == []


def test_more_models_than_fit_are_refused(narrow) -> None:
    with pytest.raises(Exception, match="4 models are too many: 3 fit here"):
        Client(narrow.url).predict(models=SENTIMENT * 2, api_name="/check")


def test_more_datasets_and_longer_names_than_a_visit_needs_are_refused(narrow) -> None:
    """Each of these words would keep the page's own process busy."""
    client, setting = Client(narrow.url), Setting(shared=True)
    many = {str(number): f"{DATASET}/test" for number in range(11)}
    with pytest.raises(Exception, match="11 datasets are too many: 10 fit here"):
        client.predict(models=SENTIMENT, data=many, api_name="/evaluate")
    with pytest.raises(BadData, match="60000 datasets are too many"):
        named_datasets(f"{DATASET}\n" * 60_000, setting)
    assert list(named_datasets(f"{DATASET}\nx={DATASET}\n{DATASET}", setting)) == ["reviews", "x", "reviews-2"]
    for name in ("a" * 60_000, "+a/b" * 15_000):
        with pytest.raises(NotFound, match="is too long to be the name of a model"):
            setting.require_name(name)


def test_of_the_merges_of_programs_the_oldest_goes(narrow) -> None:
    client = Client(narrow.url)
    merges = [client.predict(models=SENTIMENT, method="mean", options={}, api_name="/merge")["name"] for _ in range(2)]
    client.predict(models=merges[1:], texts=["fine"], api_name="/compare")
    with pytest.raises(Exception, match="There is no merge mean with that key here"):
        client.predict(models=merges[:1], texts=["fine"], api_name="/compare")


def test_the_files_of_a_visit_go_when_its_page_is_closed(narrow, chromium) -> None:
    root = next(narrow.temporary.glob("fusehub-visits-*"))
    before = set(root.iterdir())
    context = chromium.new_context()
    page = context.new_page()
    page.goto(narrow.url)
    page.get_by_role("list", name="Models found").wait_for()
    opened = set(root.iterdir()) - before
    assert len(opened) == 1
    # A reload goes on with the same visit, however long ago the first page was closed.
    page.reload()
    page.get_by_role("list", name="Models found").wait_for()
    time.sleep(14)
    assert opened <= set(root.iterdir())
    context.close()
    _until(lambda: not opened & set(root.iterdir()))


def test_what_gradio_leaves_of_uploads_goes_when_it_is_old(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with gr.Blocks() as page:
        buttons = gr.UploadButton(), gr.File()
    rows, mine = tmp_path / ("0a" * 32) / "rows.csv", tmp_path / "tmp_is_mine"
    rows.parent.mkdir()
    rows.write_text("text\n")
    mine.write_text("not empty")
    for button in buttons:
        assert button.preprocess(FileData(path=str(rows))) == str(rows)
    everything = set(tmp_path.iterdir())
    assert everything > {rows.parent, mine}, "gradio leaves no files beside any more: nothing needs to remove them"
    forget_uploads(page, 60)
    assert set(tmp_path.iterdir()) == everything
    for path in everything:
        os.utime(path, (0, 0))
    forget_uploads(page, 60)
    assert set(tmp_path.iterdir()) == {rows.parent, mine}
    rows.unlink()
    os.utime(rows.parent, (0, 0))
    forget_uploads(page, 60)
    assert set(tmp_path.iterdir()) == {mine}


def test_a_visit_ends_when_it_is_idle(tmp_path) -> None:
    setting = Setting(shared=True)
    visits = Visits(setting, Jobs(1, 1))
    idle, busy = visits.open(), visits.open()
    (idle.folder / "texts.txt").write_text("mine")
    soon = time.monotonic() + setting.idle - 1
    assert visits.sweep(soon) == 0
    visits.of(busy.key).touched = soon
    assert visits.sweep(soon + 2) == 1
    assert not idle.folder.exists() and busy.folder.exists()
    with pytest.raises(NotFound, match="This visit has ended"):
        visits.of(idle.key)
    assert visits.open(idle.key).key != idle.key
    # What was at work for it all the while is done only now.
    (idle.folder / "1" / "mean").mkdir(parents=True)
    assert visits.sweep(soon) == 0
    assert not idle.folder.exists() and busy.folder.exists()
    visits.close()
    assert not visits.root.exists()


def test_a_visit_whose_work_took_longer_than_that_is_there_when_it_has_ended() -> None:
    setting = Setting(shared=True)
    visits = Visits(setting, Jobs(1, 1))
    visit = visits.open()
    began, over = visit.touched, visit.touched + setting.idle + 100
    visit.job = Job("merge", "A merge", state=RUNNING, started=began)
    assert visits.sweep(over) == 0
    visit.job.state, visit.job.ended = DONE, over
    assert visits.sweep(over + setting.idle - 1) == 0 and visits.find(visit.key) is visit
    assert visits.sweep(over + setting.idle + 1) == 1
    visits.close()


def test_a_merge_that_a_program_works_with_stays_until_it_is_done() -> None:
    setting = Setting(shared=True)
    visits = Visits(setting, Jobs(1, 1))
    visit = visits.open()
    visit.merges["mean"] = Made("mean", visit.folder, "mean", "", ())
    with visits.held(visit.key) as found:
        assert found is visit and visits.sweep(visit.touched + setting.idle + 1) == 0
        visits.trim(0)
        assert visits.find(visit.key) is visit and visit.folder.exists()
    visits.trim(0)
    assert visits.find(visit.key) is None and not visit.folder.exists()
    with visits.held(visit.key) as found:
        assert found is None
    visits.close()


def test_sessions_that_nobody_uses_are_forgotten() -> None:
    """Of the app as it is built, half a megabyte each."""
    frame = new_frame(Setting(shared=True))
    page = build(frame)
    holder, queue = page.state_holder, page._queue
    holder.set_blocks(page)
    assert holder["one"] is holder["one"] and holder["two"]
    # What is still to be told to each, and to one that was forgotten amid its work, and to one that has just come.
    for session in ("one", "two", "gone", "new"):
        queue.pending_messages_per_session[session] = asyncio.Queue()
    queue.pending_event_ids_session |= {"one": {"a"}, "new": {"b"}}
    holder.time_last_used["one"] -= timedelta(seconds=frame.setting.idle + 1)
    # A call of it takes longer than that, or waits for its turn.
    call = SimpleNamespace(session_hash="one", alive=True)
    turns = queue.event_queue_per_concurrency_id["any"] = EventQueue("any", 1)
    for place, what in ((queue.active_jobs, [call]), (turns.queue, call)):
        place.append(what)
        assert forget_idle(page, frame.setting.idle) == 0 and "one" in queue.pending_messages_per_session
        place.remove(what)
    assert forget_idle(page, frame.setting.idle) == 1
    assert list(holder.session_data) == list(holder.time_last_used) == ["two"]
    assert set(queue.pending_messages_per_session) == {"two", "new"}
    assert queue.pending_event_ids_session == {"new": {"b"}}
    close(frame)


def test_a_merge_that_is_too_large_is_refused_with_the_command_that_does_it_elsewhere() -> None:
    setting = Setting(shared=True)
    with pytest.raises(FuseHubError, match=r"needs about 1000.0 TB of memory.*\n.*fusehub merge a b"):
        setting.require_room(10**15, 0, 0, "fusehub merge a b")
    for download, written in ((10**15, 0), (0, 10**15)):
        what = "The download" if download else "The merged model"
        with pytest.raises(FuseHubError, match=rf"{what} needs 1000.0 TB at .*\n.*fusehub merge a b"):
            setting.require_room(0, download, written, "fusehub merge a b")
    setting.require_room(10**6, 10**6, 10**6, "fusehub merge a b")


def test_a_method_that_wants_more_than_the_app_has_is_not_offered() -> None:
    """RegMean++ runs over texts while it merges."""
    from fusehub.errors import BadRecipe
    from fusehub.methods import METHODS
    from space.steps import merge

    assert set(merge.offered()) == {name for name, method in METHODS.items() if not method.needs_data}
    assert METHODS["regmean_plus_plus"].needs_data
    with pytest.raises(BadRecipe, match=r"RegMean\+\+ needs more than the app can give it"):
        merge.require_offered(["mean", "regmean_plus_plus"])


def test_work_waits_its_turn_and_is_not_lost() -> None:
    jobs = Jobs(running=1, waiting=1)
    done = []
    first = jobs.submit("nothing", "First", {}, None, done.append)
    second = jobs.submit("nothing", "Second", {}, None, done.append)
    assert jobs.before(second) == 1
    with pytest.raises(FuseHubError, match="no more can wait"):
        jobs.submit("nothing", "Third", {}, None, done.append)
    for job in (first, second):
        jobs.wait(job, 60)
        # There is no such work: that is a bug of ours, and is said as one.
        assert job.state != DONE and "in FuseHub itself" in str(job.error)
    jobs.close()


def _until(holds, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)
