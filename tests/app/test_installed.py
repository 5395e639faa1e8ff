"""The app where it is installed: under a name of its own, started by `fusehub app`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request


def test_every_part_of_it_is_imported_under_that_name_alone(tmp_path) -> None:
    program = """
import importlib, pkgutil, sys, fusehub_space
for module in pkgutil.walk_packages(fusehub_space.__path__, "fusehub_space."):
    importlib.import_module(module.name)
print([name for name in sys.modules if name.partition(".")[0] == "space"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.stdout.strip() == "[]", ran.stderr


def test_the_command_opens_it(hub, tmp_path) -> None:
    environment = hub.env(home=tmp_path / "home") | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "fusehub", "app", "--no-browser"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as app:
        try:
            said = ""
            for line in app.stdout:
                said += line
                if found := re.search(r"http://127\.0\.0\.1:\d+/?", line):
                    break
            assert found, said
            with urllib.request.urlopen(found[0], timeout=60) as page:
                assert b"FuseHub" in page.read()
        finally:
            app.terminate()
        assert app.wait(60) == 143
