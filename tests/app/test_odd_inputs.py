"""No text in any box of the app is taken for a fault of FuseHub's own."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.app.conftest import ROOT, SENTIMENT


def test_whatever_is_typed_is_answered_in_words(hub, tmp_path) -> None:
    """Each of the odd texts in each box: see `odd_inputs`, which runs against the Hub in a process of its own."""
    environment = hub.env(home=tmp_path) | {"PYTHONPATH": str(ROOT)}
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-m", "tests.app.odd_inputs", *SENTIMENT],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["wrong"] == [], done.stderr[-3000:]
    assert found["not walked"] == []
