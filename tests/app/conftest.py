"""The app in a process of its own, a local Hub with tiny experts behind it, and a real Chromium in front of it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import pytest
from huggingface_hub import HfApi, constants

from fusehub.localhub import Running, running
from tests.unit.experts import relatives, with_statistics
from tests.unit.tiny import tiny_model, tiny_texts

constants.HF_HUB_DISABLE_XET = True
ROOT = Path(__file__).parents[2]
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
_QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
_QUIET += ["--disable-component-update", "--disable-sync"]
NAMES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
SENTIMENT = ["ada/films-sentiment", "ben/shops-sentiment"]
ENTITIES = ["ada/films-entities", "ben/shops-entities"]
SLOW = ["ada/slow-sentiment", "ben/slow-sentiment"]
NAMED = ["ada/named-sentiment", "ben/named-sentiment"]
PRIVATE = "ada/secret-sentiment"
DATASET = "ada/reviews"
# The app with a setting of its own, which comes as the first argument.
_SET = """
import json, sys
from space.setting import Setting
from space.serve import serve
if __name__ == "__main__":
    serve(Setting(**json.loads(sys.argv[1])), host=None, port=None, open_browser=False, block=True)
"""


@dataclass(frozen=True)
class Served:
    """The app: its address, its log, and the folder that its visits are in."""

    url: str
    log: Path
    temporary: Path
    process: subprocess.Popen


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("hub")) as server:
        fill(server, tmp_path_factory.mktemp("experts"))
        yield server


def fill(server: Running, folder: Path) -> None:
    """Two sentiment experts with statistics, two whose cards name a dataset instead, two of entities of which one has
    none, and models that do not go."""
    sentiment = with_statistics(relatives(folder / "sentiment"))
    entities = relatives(folder / "entities", labels=(NAMES, NAMES), task="token-classification")
    with_statistics(entities[:1])
    for repo, path in zip([*SENTIMENT, *ENTITIES], [*sentiment, *entities], strict=True):
        publish(server, repo, path, base=f"ada/{'base' if repo in SENTIMENT else 'entities-base'}")
    for repo, path in zip(NAMED, relatives(folder / "named"), strict=True):
        publish(server, repo, path, base="ada/named-base", dataset=DATASET)
    publish(server, "ada/base", sentiment[0].parent / "base")
    publish(server, "ada/gated-sentiment", sentiment[0], base="ada/base")
    HfApi(endpoint=server.url, token=server.token("ada")).update_repo_settings("ada/gated-sentiment", gated="manual")
    publish(server, "ada/other-sentiment", tiny_model(folder / "other", "distilbert"), base="ada/other-base")
    publish(server, PRIVATE, sentiment[0], base="ada/base")
    HfApi(endpoint=server.url, token=server.token("ada")).update_repo_settings(PRIVATE, private=True)
    # Large enough that its statistics and merges take a while.
    for repo, path in zip(SLOW, relatives(folder / "slow", hidden=256, layers=6), strict=True):
        publish(server, repo, path, base="ada/slow-base")
    api = HfApi(endpoint=server.url, token=server.token("ada"))
    api.create_repo(DATASET, repo_type="dataset")
    rows = "text,label\na good film,positive\nan awful plot,negative\nfine music,positive\nsad and bad,negative\n"
    api.upload_file(repo_id=DATASET, repo_type="dataset", path_in_repo="test.csv", path_or_fileobj=rows.encode())
    server.token("carl")


def publish(server: Running, repo: str, path: Path, base: str | None = None, dataset: str | None = None) -> None:
    user = repo.partition("/")[0]
    api = HfApi(endpoint=server.url, token=server.token(user))
    task = "token-classification" if "entities" in repo else "text-classification"
    front = f"license: apache-2.0\npipeline_tag: {task}\n" + (f"base_model: {base}\n" if base else "")
    front += f"datasets: [{dataset}]\n" if dataset else ""
    (path / "README.md").write_text(f"---\n{front}---\nA tiny model.\n")
    api.create_repo(repo)
    api.upload_folder(repo_id=repo, folder_path=path, commit_message="Model")


@contextmanager
def serving(
    hub: Running,
    folder: Path,
    *,
    setting: Mapping[str, object] | None = None,
    started_in: Path = ROOT,
    **environment: str,
) -> Iterator[Served]:
    """The app as a Space starts it: `python app.py`. `setting` is for limits that a test can reach."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A socket's path must be short, and tests' own folders are not.
    temporary = Path(tempfile.mkdtemp(prefix="fusehub-app-"))
    env = hub.env(home=folder / "home") | {"TMPDIR": str(temporary), "GRADIO_SERVER_PORT": str(port)}
    env |= {"PYTHONPATH": str(ROOT), "FUSEHUB_EXAMPLE": " ".join(SENTIMENT), **environment}
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        env.pop(name, None)
    env |= environment
    log = folder / "app.log"
    program = [str(ROOT / "app.py")] if setting is None else ["-c", _SET, json.dumps(setting)]
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, *program], cwd=started_in, env=env, stdout=out, stderr=out)
    url = f"http://127.0.0.1:{port}/"
    try:
        _until_served(url, process, log)
        yield Served(url, log, temporary, process)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(temporary, ignore_errors=True)


def _until_served(url: str, process: subprocess.Popen, log: Path) -> None:
    """Asks for what is not gradio's own: the very first request that is taken is answered by all of the app."""
    end = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{url}documents/README.md", timeout=60).close()
            return
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"The app took a request before it was whole: {error}") from error
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"The app did not start: {log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def app(hub: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The app on a laptop where nobody is logged in."""
    with serving(hub, tmp_path_factory.mktemp("app")) as served:
        yield served
        # No visitor's doing is a bug of ours.
        assert "Traceback" not in served.log.read_text()


@pytest.fixture(scope="session")
def chromium():
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("There is no Chromium, and CI must have one.")
        pytest.skip("There is no Chromium on this machine: the app's tests in a browser are left out.")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def window(chromium):
    """A browser that has the page's scripts already: whoever comes in a tab of it does not compile them again."""
    with _context(chromium) as context:
        yield context


@pytest.fixture
def visitor(chromium, app: Served, window):
    """`visitor()`: a new person's page of the app, at the first step; `visitor(width=360, dark=True)` on a phone.

    Several come in tabs of one window, each to a visit of their own; whoever is `alone`, or goes to another `url`,
    in a browser of theirs that nobody has used.
    """
    with ExitStack() as leaving:

        def come(url: str | None = None, *, alone: bool = False, width: int = 1100, dark: bool = False):
            context = leaving.enter_context(_context(chromium)) if alone or url else window
            page = context.new_page()
            leaving.callback(page.close)
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme="dark" if dark else "light", reduced_motion="reduce")
            page.goto(url or app.url)
            page.get_by_role("list", name="Models found").wait_for()
            return page

        yield come


@contextmanager
def _context(chromium):
    context = chromium.new_context()
    # Patience for machines that have other things to do.
    context.set_default_timeout(180_000)
    yield context
    context.close()


@pytest.fixture
def many_texts(tmp_path: Path) -> Path:
    """A file whose statistics take long enough to be cancelled."""
    path = tmp_path / "many.txt"
    path.write_text("\n".join(tiny_texts(20_000, longest=40)))
    return path
