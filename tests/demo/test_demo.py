"""The demo, for real: three experts are trained, published, merged without their data, scored, published, read back.

It takes minutes; with DEMO=full, on all of its texts, a quarter of an hour.
With FUSEHUB_DEMO=FOLDER it works in that folder and uses what an earlier run left there.
"""

import itertools
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.warm import python

FULL = os.environ.get("DEMO") == "full"
# The demo with another interpreter for its commands, which comes first.
_STARTS = "import sys; sys.executable = sys.argv.pop(1); from fusehub.cli.start import main; main()"


def interpreter(folder: Path) -> str:
    """One for which libraries are imported already, but where memory is measured: a merge is a process of its own."""
    place = folder / "python"
    forked, own = shlex.join(python()), shlex.quote(sys.executable)
    place.write_text(f'#!/bin/sh\n[ "$3" = merge ] && exec {own} "$@"\nexec {forked} "$@"\n')
    place.chmod(0o755)
    return str(place)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(os.environ.get("FUSEHUB_DEMO") or tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def report(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    if FULL:
        start = [sys.executable, "-m", "fusehub"]
    else:
        start = [*python(), "-c", _STARTS, interpreter(tmp_path_factory.mktemp("interpreter"))]
    command = [*start, "demo", "--folder", str(folder), "--json", *([] if FULL else ["--quick"])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_step_ran_and_was_timed(report: dict, folder: Path) -> None:
    steps = {"find", "check", "merge by mean", "merge by regmean", "compare", "publish", "read back"}
    assert steps <= set(report["steps"])
    assert json.loads((folder / "report.json").read_text()) == report


def test_regmean_differs_from_the_mean_and_beats_it_in_domain(report: dict, folder: Path) -> None:
    from safetensors.torch import load_file

    mean, solved = (load_file(folder / name / "model.safetensors") for name in ("mean", "regmean"))
    assert mean.keys() == solved.keys()
    assert sum(not mean[name].equal(solved[name]) for name in mean) == 38
    table = report["table"]
    assert table["regmean"]["in_domain"] > table["mean"]["in_domain"] + 0.02


def test_experts_know_their_domain(report: dict) -> None:
    """Whoever dealt the domains out otherwise would lose by it; else the comparison would say nothing."""
    domains = ("products", "films", "editorials")
    experts = [report["table"][f"minilm-{name}-sentiment"] for name in ("product", "film", "editorial")]
    dealt = {
        order: sum(expert[domain] for expert, domain in zip(experts, order, strict=True))
        for order in itertools.permutations(domains)
    }
    right = dealt.pop(domains)
    assert right > max(dealt.values()) + 0.03
    for expert, domain in zip(experts, domains, strict=True):
        others = [other[domain] for other in experts if other is not expert]
        # With little training, what reviews of one kind teach is nearly as good for those of another.
        assert expert[domain] > (max(others) if FULL else sum(others) / 2 + 0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak memory of another process")
def test_the_merge_needs_little_memory(report: dict) -> None:
    """An interpreter with torch, and a few layers; not three models with their optimizer-sized copies."""
    code = "import resource, torch; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    torch_alone = 1024 * int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert report["steps"]["merge by mean"]["peak_memory_bytes"] < torch_alone + 375 * 2**20


def test_what_was_published_holds_no_path_of_this_machine(folder: Path) -> None:
    for name in ("fusehub_recipe.yaml", "fusehub_report.json", "config.json"):
        text = (folder / "regmean" / name).read_text()
        assert str(folder.resolve()) not in text
        assert str(Path.home()) not in text
