"""ZeroGPU: where `spaces` is, models are run in functions that it lends a GPU; without it nothing changes."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.app.conftest import DATASET, ROOT, SENTIMENT, serving
from tests.app.programs import Client

# What the package `spaces` does on ZeroGPU, but for the GPU: it wraps a function, and is told for how long.
_SPACES = """
def GPU(duration=60):
    def wrap(function):
        import functools, inspect

        def told():
            print(f"lent for {duration} seconds: {function.__name__}", flush=True)

        @functools.wraps(function)
        def one(*args, **options):
            told()
            return function(*args, **options)

        @functools.wraps(function)
        def many(*args, **options):
            told()
            yield from function(*args, **options)

        return many if inspect.isgeneratorfunction(function) else one

    return wrap
"""


def test_a_gpu_is_lent_for_what_runs_models_and_for_nothing_else(hub, tmp_path_factory) -> None:
    # Sockets of the processes that are started lie below it, and their addresses must be short.
    tmp_path = tmp_path_factory.mktemp("gpu")
    package = tmp_path / "packages"
    package.mkdir()
    (package / "spaces.py").write_text(_SPACES)
    environment = {"SPACES_ZERO_GPU": "true", "PYTHONPATH": f"{package}{os.pathsep}{ROOT}"}
    with serving(hub, tmp_path, **environment) as app:
        client = Client(app.url)
        assert client.predict(models=SENTIMENT, api_name="/check")["ok"]
        merged = client.predict(models=SENTIMENT, method="regmean", options={}, api_name="/merge")
        assert "lent" not in app.log.read_text()
        everyone = [*SENTIMENT, merged["name"]]
        compared = client.predict(models=everyone, texts=["fine"], api_name="/compare")
        assert compared["models"][-1] == merged["name"]
        assert app.log.read_text().split("\n").count("lent for 120 seconds: answer") == 1
        client.predict(models=everyone, data={"films": f"{DATASET}/test"}, limit=2, api_name="/evaluate")
        assert app.log.read_text().split("\n").count("lent for 120 seconds: carry_out") == 1
        assert "Traceback" not in app.log.read_text()


def test_without_spaces_the_functions_are_as_they_were() -> None:
    code = (
        "import sys; sys.modules['spaces'] = None; from space.workers import zero_gpu as gpu; "
        "print(gpu.marked(len) is len, gpu.is_lent_for('compare'))"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["True", "False"]
