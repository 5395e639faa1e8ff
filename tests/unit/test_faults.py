"""Every command against a Hub that misbehaves: a few tries, then words; nothing half-made stays."""

import json
import os
import signal
import subprocess
import sys
import time

import httpx2
import pytest
from huggingface_hub import HfApi, constants

from fusehub.errors import Offline
from fusehub.hub import replies
from fusehub.localhub import LocalHubError
from fusehub.localhub.faults import FILENAME, LOG, read_plan
from fusehub.utils import interrupts
from tests.reliability.misbehaviour import ANSWERS, SPECIAL
from tests.reliability.misbehaviour import plan as faults_of
from tests.reliability.trials import MODELS
from tests.unit.experts import relatives, texts_of, with_statistics

API, FILES = "/api/models.*", "/.*/resolve/.*"
# The pauses of a person's patience would make the tests wait as long.
HURRY = "from fusehub.hub import wire; wire.patience = wire.Patience({})"


@pytest.fixture(scope="module")
def work(hub, tmp_path_factory):
    """Two experts with statistics on the Hub, a merge of them and texts here."""
    from fusehub.merging.merge import merge
    from tests.unit.experts import recipe_of

    folder = tmp_path_factory.mktemp("work")
    parts = with_statistics(relatives(folder))
    api = HfApi(endpoint=hub.url, token=hub.token("ann"))
    for repo, part in zip(MODELS, parts, strict=True):
        api.create_repo(repo)
        api.upload_folder(repo_id=repo, folder_path=part, commit_message="Model")
    merge(recipe_of(parts, "mean"), folder / "merged")
    (folder / "texts.txt").write_text("\n".join(texts_of(0)))
    return folder


@pytest.fixture
def plan(hub):
    """`plan({...}, ...)`: from now on the Hub does this."""

    def told(*faults):
        (hub.root / f"{FILENAME}.new").write_text(json.dumps(faults))
        (hub.root / f"{FILENAME}.new").replace(hub.root / FILENAME)

    yield told
    (hub.root / FILENAME).unlink(missing_ok=True)


@pytest.fixture
def hasty(ann):
    ann.python(HURRY.format("pauses=(0.02, 0.02, 0.02)"))
    return ann


def forget(run) -> None:
    """As on a machine where nothing was downloaded yet."""
    run.python("import shutil; from huggingface_hub.constants import HF_HUB_CACHE; shutil.rmtree(HF_HUB_CACHE, True)")


def commands(work, number):
    """Each command that asks the Hub, with an output of its own."""
    return {
        "find": ("find", "expert"),
        "check": ("check", *MODELS),
        "merge": ("merge", *MODELS, "--method", "regmean", "--out", work / f"merge-{number}"),
        "collect": ("collect", MODELS[0], "--data", work / "texts.txt", "--out", work / f"collect-{number}"),
        "compare": ("compare", *MODELS, "--text", "a fine film"),
        "publish": ("publish", work / "merged", f"merged-{number}"),
    }


FATAL = ("503", "429, again in an hour", "page of a captive portal", "`{}`", "lost after it was done")


@pytest.mark.parametrize("kind", FATAL)
def test_a_hub_that_keeps_failing_is_said_and_nothing_is_made(hasty, work, plan, kind):
    before = sorted(work.iterdir())
    forget(hasty)
    plan(*faults_of(ANSWERS[kind], API, "GET", once=False))
    for name, command in commands(work, FATAL.index(kind)).items():
        started = time.monotonic()
        what, fix = hasty.fails(*command)
        assert "bug" not in what and fix, (name, what)
        if kind == "429, again in an hour":
            assert "wants to be asked again in 3600 seconds" in what, (name, what)
            assert time.monotonic() - started < 600, "an hour is nobody's patience"
        elif kind == "503":
            assert "503" in what and "tried 4 times" in what, (name, what)
        elif kind == "`{}`":
            assert "gave an answer that is none of the Hub's" in what, (name, what)
        assert sorted(work.iterdir()) == before, name


@pytest.mark.parametrize("path", [API, FILES])
def test_whatever_else_a_hub_does_is_said_in_words(hasty, work, plan, path):
    """Neither a list without models nor a model that cannot be merged is made of it."""
    forget(hasty)
    command = ("find", "expert") if path == API else ("check", *MODELS)
    told = [*FATAL, "429, again in 1 s", "a wrong bit", "`[]`", "cut after 100 bytes"]
    # These last shorter than anything is waited for.
    told += ["stalls", "late"]
    for kind in ANSWERS.keys() - set(told):
        plan(*faults_of(ANSWERS[kind], path, None, once=False))
        what, fix = hasty.fails(*command)
        assert "bug" not in what and fix, (kind, what)


@pytest.mark.parametrize("kind", ["stalls", "late"])
def test_an_answer_that_does_not_come_is_not_waited_for(hasty, plan, kind):
    """Also where the Hub's client says that it would wait for ever, as it does for most answers."""
    hasty.python(HURRY.format("pauses=(0.02,), answer=0.5"))
    plan(*faults_of({**ANSWERS[kind], "seconds": 60}, API, None, once=False))
    what, _ = hasty.fails("find", "expert")
    assert "cannot be reached (ReadTimeout, tried 2 times)" in what


@pytest.mark.parametrize(
    ("path", "text", "is_one"),
    [
        ("/api/models/gpt2", "{}", False),
        ("/api/models/ann/model/revision/refs/pr/1", "{}", False),
        ("/api/models/gpt2/tree/main", "{}", False),
        ("/api/models/gpt2/auth-check", "OK", True),
        ("/api/models/gpt2/refs", '{"branches": []}', True),
        ("/ann/api/resolve/main/api/models", "{}", True),
        ("/api/models/gpt2?expand=downloads", '{"id": "openai-community/gpt2", "downloads": 7}', True),
    ],
)
def test_an_answer_is_held_to_the_form_of_its_question(path, text, is_one):
    """The names of repos may have no user in them, and files may be called as questions are."""
    answer = httpx2.Response(200, text=text, request=httpx2.Request("GET", f"{constants.ENDPOINT}{path}"))
    if is_one:
        replies.require_form(answer)
    else:
        with pytest.raises(Offline, match="none of the Hub's"):
            replies.require_form(answer)


def test_a_server_may_not_make_anybody_wait_by_any_header(hasty, plan):
    for kind in ("429, again in an hour", "429, again at a date", "429, no requests left for an hour"):
        plan(*faults_of(ANSWERS[kind], API, None, once=False))
        what, _ = hasty.fails("find", "expert")
        assert "wants to be asked again in" in what, kind


@pytest.mark.parametrize("kind", SPECIAL)
def test_an_odd_answer_to_a_push_is_said_and_the_next_one_is_complete(hasty, hub, work, plan, kind):
    path, fault = SPECIAL[kind]
    name = f"odd-{list(SPECIAL).index(kind)}"
    plan(*faults_of(fault, path, None, once=False))
    what, fix = hasty.fails("publish", work / "merged", name)
    assert "bug" not in what and fix
    plan()
    hasty("publish", work / "merged", name)


@pytest.mark.parametrize("do", [{"do": "status", "status": 500}, {"do": "status", "status": 429}, {"do": "lost"}])
def test_two_failures_of_a_kind_are_not_noticed(hasty, work, plan, do):
    forget(hasty)
    for name, command in commands(work, f"passing-{do.get('status', 'lost')}").items():
        plan({"path": API, "method": "GET", "count": 2, **do}, {"path": FILES, "method": "GET", "count": 2, **do})
        hasty(*command)
        assert name


def test_a_download_that_breaks_off_goes_on(hasty, work, plan):
    forget(hasty)
    plan({"path": ".*/model.safetensors", "method": "GET", "count": 1, "do": "cut", "after": 3000})
    hasty("merge", *MODELS, "--method", "mean", "--out", work / "resumed")
    assert (work / "resumed" / "model.safetensors").read_bytes() == (
        work / "merged" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("do", ["lost", "late"])
def test_a_commit_whose_answer_is_lost_is_reported_as_what_it_is(hasty, hub, work, plan, do):
    plan({"path": "/api/models/.*/commit/.*", "method": "POST", "count": 1, "do": do, "seconds": 1})
    told = hasty.json("publish", work / "merged", f"acknowledged-{do}")
    api = HfApi(endpoint=hub.url, token=hub.token("ann"))
    assert told["commit"] == api.model_info(f"ann/acknowledged-{do}").sha
    assert len(api.list_repo_commits(f"ann/acknowledged-{do}")) == 2, "the repo's own and one of ours"


@pytest.mark.parametrize("status", [302, 307])
def test_an_upload_that_was_sent_on_to_a_host_that_is_not_there_starts_anew(hasty, work, plan, status):
    away = {"do": "status", "status": status, "headers": {"Location": "http://127.0.0.1:9/"}}
    plan({"path": "/_lfs/.*", **away, "count": 1})
    hasty("publish", work / "merged", f"sent-on-{status}")


def test_a_repo_whose_making_was_not_acknowledged_is_filled(hasty, hub, work, plan):
    plan({"path": "/api/repos/create", "do": "lost"})
    told = hasty.json("publish", work / "merged", "made-in-silence")
    api = HfApi(endpoint=hub.url, token=hub.token("ann"))
    assert told["commit"] == api.model_info("ann/made-in-silence").sha


def test_what_is_there_is_said_where_it_cannot_be_read_back(hasty, hub, work, plan):
    plan({"path": "/api/models/.*/paths-info/.*", "do": "status", "status": 503})
    what, fix = hasty.fails("publish", work / "merged", "unread")
    assert "All is in ann/unread (commit " in what and "push again with --exist-ok" in fix
    plan()
    hasty("publish", work / "merged", "unread", "--exist-ok")


def test_a_repo_that_was_made_and_never_filled_is_used(hasty, hub, work):
    api = HfApi(endpoint=hub.url, token=hub.token("ann"))
    api.create_repo("ann/abandoned", private=False)
    told = hasty.json("publish", work / "merged", "abandoned")
    assert told["private"] and api.model_info("ann/abandoned").private, "as private as was asked for"
    what, _ = hasty.fails("publish", work / "merged", "abandoned")
    assert "exists already" in what
    api.create_repo("ann/described")
    api.upload_file(repo_id="ann/described", path_or_fileobj=b"# Mine", path_in_repo="README.md")
    assert "exists already" in hasty.fails("publish", work / "merged", "described")[0]


def test_a_plan_of_faults_is_read_strictly():
    with pytest.raises(LocalHubError, match="No such fault"):
        read_plan('[{"path": ".*", "do": "explode"}]')
    with pytest.raises(LocalHubError, match="No such fault"):
        read_plan('[{"path": ".*", "do": "html", "times": 2}]')


def test_an_interrupt_that_the_hub_holds_up_says_so_and_a_second_one_ends_it(work, plan, hub, tmp_path) -> None:
    """A thread that waits for an answer hears of no signal: the process would wait for it some seconds in silence."""
    plan({"path": API, "do": "stall", "seconds": 3600})
    asked = hub.root / LOG
    asked.unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "fusehub", "check", *MODELS],
        stderr=subprocess.PIPE,
        env={**os.environ, **hub.env("ann", tmp_path)},
        # Programs that a script starts in the background, such as these tests, ignore Ctrl-C, and so do theirs.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not asked.is_file():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.stderr.readline().decode()
    assert said.strip() == interrupts.WAITS
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1].decode().strip() == interrupts.SAID
    assert process.returncode == 130


def test_a_push_that_is_interrupted_when_all_is_there_leaves_nothing_empty(work, plan, hub, tmp_path) -> None:
    plan({"path": "/api/models/.*/commit/.*", "method": "POST", "do": "late", "seconds": 3600})
    process = subprocess.Popen(
        [sys.executable, "-m", "fusehub", "publish", work / "merged", "all-there"],
        stderr=subprocess.PIPE,
        env={**os.environ, **hub.env("ann", tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    api = HfApi(endpoint=hub.url, token=hub.token("ann"))
    while not api.repo_exists("ann/all-there") or not api.file_exists("ann/all-there", "config.json"):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1].decode()
    assert process.returncode == 130 and interrupts.SAID in said, said
    assert api.file_exists("ann/all-there", "model.safetensors")


@pytest.mark.parametrize(
    "deleting",
    [{"do": "late", "seconds": 1}, {"do": "stall", "seconds": 3600}, {"do": "drop"}],
    ids=lambda own: own["do"],
)
def test_an_interrupted_push_takes_back_its_repo_or_says_that_it_is_left(work, plan, hub, tmp_path, deleting) -> None:
    """Also where Ctrl-C is pressed twice, and the Hub does not answer."""
    name, committing = f"interrupted-{deleting['do']}", "/api/models/ann/.*/commit/.*"
    plan(
        {"path": committing, "do": "stall", "seconds": 3600},
        {"path": "/api/repos/delete", "method": "DELETE", **deleting},
    )
    asked = hub.root / LOG
    asked.unlink(missing_ok=True)

    def waits_for(what: str) -> None:
        while not asked.is_file() or what not in asked.read_text():
            time.sleep(0.02)

    process = subprocess.Popen(
        [sys.executable, "-m", "fusehub", "publish", work / "merged", name],
        stderr=subprocess.PIPE,
        env={**os.environ, **hub.env("ann", tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    waits_for(f"/{name}/commit")
    process.send_signal(signal.SIGINT)
    waits_for('"DELETE"')
    if deleting["do"] != "drop":
        process.send_signal(signal.SIGINT)
    said = process.communicate()[1].decode()
    assert process.returncode == 130, said
    left = HfApi(endpoint=hub.url, token=hub.token("ann")).repo_exists(f"ann/{name}")
    assert left == (deleting["do"] != "late")
    assert (f"hf repos delete ann/{name}" in said) == left, said
    assert (interrupts.SAID in said) != left, said
