"""A real server process on a temporary folder, and the unmodified client against it."""

import itertools
import os

os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import httpx2
import pytest
from huggingface_hub import HfApi, constants

from fusehub.localhub import running
from tests.warm import python

# The client reads the environment once: set it also where another test imported it first.
constants.HF_HUB_DISABLE_XET = True

_numbers = itertools.count()


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    """Whatever the tests send, the server answers without a crash of its own: its log stays empty."""
    with running(tmp_path_factory.mktemp("hub")) as server:
        yield server
    assert (server.root / "server.log").read_text() == ""


@pytest.fixture(scope="session")
def small_pages(tmp_path_factory):
    """A hub whose lists have three items a page and whose parts have 256 kB, to see both with little data."""
    with running(tmp_path_factory.mktemp("paged"), 0, "--page-size", "3", "--part-size", "262144") as server:
        yield server


@pytest.fixture(scope="session")
def as_user(hub):
    """`as_user("bob")`: the client with a token of bob, `as_user("bob", "read")` with a read-only one."""

    def make(name, role="write", server=hub):
        return HfApi(endpoint=server.url, token=server.token(name, role))

    return make


@pytest.fixture(scope="session")
def alice(as_user):
    return as_user("alice")


@pytest.fixture(scope="session")
def bob(as_user):
    return as_user("bob")


@pytest.fixture
def repo(alice):
    """The id of a new, empty model repository of alice."""
    repo_id = f"alice/model-{next(_numbers)}"
    alice.create_repo(repo_id)
    return repo_id


@pytest.fixture(scope="session")
def http(hub):
    with httpx2.Client(base_url=hub.url) as client:
        yield client


@pytest.fixture(scope="session")
def bearer(hub):
    return lambda name, role="write": {"Authorization": f"Bearer {hub.token(name, role)}"}


@pytest.fixture
def run_python(hub, tmp_path):
    """Run a script as a user of the hub, in a process of its own, with an empty cache."""
    import subprocess

    def run(code, user="alice", command=None):
        env = hub.env(user, home=tmp_path / "hf-home")
        env.pop("HF_HUB_OFFLINE", None)
        return subprocess.run(
            command or [*python(), "-c", code], env=env, capture_output=True, text=True, timeout=120, cwd=tmp_path
        )

    return run
