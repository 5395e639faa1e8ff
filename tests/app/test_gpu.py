"""ZeroGPU: where `spaces` is, heavy work is done in functions that it lends a GPU; without it nothing changes."""

from __future__ import annotations

import os
import subprocess
import sys

from gradio_client import Client

from tests.app.conftest import ROOT, SENTIMENT, serving

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


def test_heavy_work_is_done_in_functions_that_are_lent_a_gpu(hub, tmp_path) -> None:
    package = tmp_path / "packages"
    package.mkdir()
    (package / "spaces.py").write_text(_SPACES)
    environment = {"SPACES_ZERO_GPU": "true", "PYTHONPATH": f"{package}{os.pathsep}{ROOT}"}
    with serving(hub, tmp_path, **environment) as app:
        client = Client(app.url, verbose=False)
        merged = client.predict(models=SENTIMENT, method="regmean", options={}, api_name="/merge")
        compared = client.predict(models=[*SENTIMENT, merged["name"]], texts=["fine"], api_name="/compare")
        assert compared["models"][-1] == "regmean"
        log = app.log.read_text()
        assert "lent for 120 seconds: carry_out" in log
        assert "lent for 120 seconds: answer" in log
        assert "Traceback" not in log


def test_without_spaces_the_functions_are_as_they_were() -> None:
    code = (
        "import sys; sys.modules['spaces'] = None; from space import gpu; print(gpu.marked(len) is len, gpu.is_lent())"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["True", "False"]
