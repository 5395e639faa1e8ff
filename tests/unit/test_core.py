"""The core alone: who installs FuseHub without extras checks, merges and predicts, and is told what the rest needs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.unit.core_alone import ROOT, blocked
from tests.unit.experts import rel, relatives, texts_of, weights_of, with_statistics

WEIGHT = "bert.encoder.layer.0.attention.self.query.weight"


@pytest.fixture(scope="module")
def experts(tmp_path_factory) -> list[Path]:
    return with_statistics(relatives(tmp_path_factory.mktemp("experts")))


def alone(program: str, folder: Path) -> subprocess.CompletedProcess:
    path = folder / "program.py"
    path.write_text(program)
    command = [sys.executable, "-m", "tests.unit.core_alone", str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_what_is_left_out_is_what_extras_bring() -> None:
    assert {"accelerate", "datasets", "sklearn", "gradio", "psutil", "peft", "PIL", "starlette"} <= blocked()
    assert not {"torch", "transformers", "huggingface_hub", "numpy", "yaml", "fusehub"} & blocked()


def test_models_are_checked_merged_and_asked(experts, tmp_path) -> None:
    ran = alone(merging(experts, tmp_path), tmp_path)
    assert ran.returncode == 0, ran.stderr
    require_merged(experts, tmp_path, json.loads(ran.stdout))


@pytest.mark.skipif("FRESH" not in os.environ, reason="Minutes, and the network: `make test-all`.")
def test_a_fresh_environment_with_the_core_alone_merges(experts, tmp_path) -> None:
    source = tmp_path / "source"
    for name in ("fusehub", "space"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    # A constraint may not have extras.
    pins = tmp_path / "pins.txt"
    pins.write_text(re.sub(r"\[[^]]*\]", "", (ROOT / "requirements.txt").read_text()))
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-c", pins, source], check=True)
    (tmp_path / "program.py").write_text(merging(experts, tmp_path))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run([python, "program.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    require_merged(experts, tmp_path, json.loads(ran.stdout))


def merging(experts: list[Path], folder: Path) -> str:
    return f"""
import json, sys, fusehub
experts = {[str(path) for path in experts]!r}
assert fusehub.check(experts).ok
for method in ("mean", "regmean"):
    fusehub.merge(fusehub.Recipe.of(experts, method), {str(folder)!r} + "/" + method)
said = fusehub.compare([*experts, {str(folder / "regmean")!r}], ["a good film"])
print(json.dumps({{"models": said.models, "heavy": [n for n in ("accelerate", "datasets") if n in sys.modules]}}))
"""


def require_merged(experts: list[Path], folder: Path, told: dict) -> None:
    assert told["heavy"] == [] and "regmean" in told["models"]
    mean = sum(weights_of(path)[WEIGHT].double() for path in experts) / 2
    assert rel(weights_of(folder / "mean")[WEIGHT], mean) < 1e-6
    assert not torch.equal(weights_of(folder / "regmean")[WEIGHT], weights_of(folder / "mean")[WEIGHT])


CALLS = {
    "collect": "fusehub.collect(expert, texts, out)",
    "evaluate": "fusehub.evaluate([expert], {'films': rows})",
    "app": "__import__('fusehub.cli.browser').cli.browser.open_app([])",
    "demo": "__import__('fusehub.demo.run').demo.run.run(__import__('pathlib').Path(out))",
}
"""What needs an extra, by its name."""


@pytest.fixture(scope="module")
def told(experts, tmp_path_factory) -> dict[str, str]:
    """What each of them says to do, in one process that has none."""
    folder = tmp_path_factory.mktemp("told")
    (folder / "texts.txt").write_text("\n".join(texts_of(0)))
    (folder / "rows.csv").write_text("text,label\na good film,positive\na bad film,negative\n")
    program = f"""
import fusehub, json
expert, texts, rows = {str(experts[0])!r}, {str(folder / "texts.txt")!r}, {str(folder / "rows.csv")!r}
out, told = {str(folder / "out")!r}, {{}}
for extra, call in {CALLS!r}.items():
    try:
        eval(call)
    except fusehub.FuseHubError as error:
        told[extra] = error.fix
print(json.dumps(told))
"""
    ran = alone(program, folder)
    assert ran.returncode == 0, ran.stderr
    assert not (folder / "out").exists()
    return json.loads(ran.stdout)


@pytest.mark.parametrize("extra", CALLS)
def test_what_needs_an_extra_names_it(told, extra) -> None:
    assert told[extra] == f'Install it with: pip install "fusehub[{extra}]"'
