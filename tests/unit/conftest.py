"""Experts with statistics, made once a session and never written to; a Hub for each file of tests, and its users."""

import functools
import os
import subprocess
import time

os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import pytest
import typer.testing

from tests.unit.experts import relatives, with_statistics

# The tree of commands, which no command changes, is built once and not for each that a test runs.
typer.testing._get_command = functools.cache(typer.testing._get_command)


@pytest.fixture(scope="session")
def experts(tmp_path_factory):
    """`experts("gpt2")`: folders of two experts with statistics; their base lies beside them, as `base`."""
    made = {}

    def make(arch="bert", **options):
        key = repr((arch, sorted(options.items())))
        if key not in made:
            made[key] = with_statistics(relatives(tmp_path_factory.mktemp(arch), arch, **options))
        return made[key]

    return make


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A local Hub with three users."""
    from fusehub.localhub import running

    with running(tmp_path_factory.mktemp("hub")) as server:
        for name in ("ann", "bob", "eve"):
            server.add_user(name)
        yield server


@pytest.fixture(scope="module")
def ann(hub, tmp_path_factory):
    """What ann does on it: `ann("find", "--json")`."""
    from tests.unit.at_hub import session

    with session(hub, "ann", tmp_path_factory.mktemp("ann")) as run:
        yield run


@pytest.fixture(scope="module")
def bob(hub, tmp_path_factory):
    from tests.unit.at_hub import session

    with session(hub, "bob", tmp_path_factory.mktemp("bob")) as run:
        yield run


@pytest.fixture
def little_patience(monkeypatch):
    """What strangers write may take one second of computing, and not five; the seconds that are told of it."""
    for limit in ("models.adapters.settings.PATTERN_SECONDS", "data.chat_rendering.TEMPLATE_SECONDS"):
        monkeypatch.setattr(f"fusehub.{limit}", 1)
    return 1


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small disk: {mounted.stderr.strip()}")
    yield folder
    for _ in range(20):
        if subprocess.run(["umount", str(folder)], capture_output=True).returncode == 0:
            break
        time.sleep(0.1)
