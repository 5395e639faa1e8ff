"""Devices that lack float64, as Apple's: everything that runs a model gives what it gives on the CPU."""

import inspect
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import fusehub
from fusehub.comparing.compare import compare
from fusehub.errors import FuseHubError
from fusehub.methods import linear_system
from fusehub.utils.devices import find_device, find_dtype, has_float64, wide
from tests.unit.experts import WEIGHTS, relatives, run_python, text_file, texts_of, with_statistics

# argv: where to write, the device, the two experts and a file of texts for each.
_EVERYTHING = """
import contextlib, json, sys
from pathlib import Path
out, device, *rest = sys.argv[1:]
from tests.unit import plain_device
if device == plain_device.NAME:
    plain_device.start()
import torch, fusehub
from fusehub.utils.devices import has_float64
from fusehub.collecting import noise
from fusehub.statistics import grams
assert has_float64(device) == (device == "cpu")
models, wide, texts, out = rest[:2], rest[2:4], rest[4:], Path(out)
# The CPU may add products up in another order than the device that counts: those of bfloat16, and those by oneDNN;
# where nothing is taken off the grams' correlations (alpha 1), their last bits tell.
grams.exact_products = contextlib.nullcontext
grams.add_product = lambda out, left, right, factor: out.addmm_(left, right.T, alpha=factor)
grams.transposed = lambda rows: rows.T.contiguous()
# The same noise in both processes.
noise.os.urandom = lambda count: bytes(i * 37 % 251 for i in range(count))
ways = {
    "grams": {}, "exact": {"fisher": True}, "drawn": {"fisher": True, "fisher_samples": 2},
    "noise": {"noise": noise.Noise(1.0)},
}
for name, how in ways.items():
    fusehub.collect(models[0], texts[0], out / name, size="full", **how).close()
data = dict(zip(models, texts))
fusehub.merge(models, out / "merged", method="regmean_plus_plus", data=data)
# Layers that are wide enough for float32 to be worth it, solved from every way of storing grams.
from fusehub.methods import linear_system
factorized, places = linear_system.Factorized, []
linear_system.Factorized = lambda matrix: places.append(str(matrix.device)) or factorized(matrix)
precisions = {}
for size in ("full", "half", "compact", "tiny"):
    for number, model in enumerate(wide):
        fusehub.collect(model, texts[number], out / f"{size}-{number}", size=size).close()
    statistics = {model: str(out / f"{size}-{number}") for number, model in enumerate(wide)}
    for alpha in (0.9, 1.0):
        result = fusehub.merge(
            wide, out / f"{size}-{alpha}", parameters={"alpha": alpha, "affine": True}, statistics=statistics
        )
        precisions[f"{size}-{alpha}"] = dict(result.precision)
(out / "solved.json").write_text(json.dumps([precisions, sorted(set(places))]))
said = fusehub.compare(models, ["a good film", "sad and slow"], ensemble=True).to_dict()
(out / "said.json").write_text(json.dumps([a["probabilities"] for text in said["texts"] for a in text["answers"]]))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, Path]:
    """Device -> the folder of what was made on it. In bfloat16, as on all accelerators, so as not to be another's."""
    folder = tmp_path_factory.mktemp("devices")
    models = relatives(folder / "models", layers=1, dtype=torch.bfloat16)
    wide = relatives(folder / "wide", layers=1, dtype=torch.bfloat16, hidden=256)
    texts = [text_file(folder, number, texts_of(number, 12)) for number in range(2)]
    made = {}
    for device in ("cpu", "plain"):
        made[device] = folder / device
        done = run_python(_EVERYTHING, made[device], device, *models, *wide, *texts, cwd=Path(__file__).parents[2])
        assert done.returncode == 0, done.stderr[-3000:]
    return made


@pytest.mark.parametrize("name", ["grams", "exact", "drawn", "noise"])
def test_statistics_are_the_same_as_on_the_cpu(found, name) -> None:
    for file in sorted((found["cpu"] / name).glob("*.safetensors")):
        expected, got = load_file(file), load_file(found["plain"] / name / file.name)
        assert expected.keys() == got.keys()
        for key, value in expected.items():
            torch.testing.assert_close(
                got[key], value, rtol=1e-4, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}"
            )


def test_a_merge_that_runs_the_models_is_the_same_as_on_the_cpu(found) -> None:
    expected, got = (load_file(found[device] / "merged" / WEIGHTS) for device in ("cpu", "plain"))
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-2, atol=1e-3)


def test_layers_are_solved_on_the_device_as_on_the_cpu(found) -> None:
    (on_cpu, places), (on_device, others) = (
        json.loads((found[device] / "solved.json").read_text()) for device in ("cpu", "plain")
    )
    # What must be in float64 is on the CPU.
    assert places == ["cpu"] and others == ["cpu", "plain:0"]
    assert {"float32", "float64"} <= {own for said in on_device.values() for own in said.values()}
    assert on_cpu == on_device
    for merge in on_cpu:
        expected, got = (load_file(found[device] / merge / WEIGHTS) for device in ("cpu", "plain"))
        for name, value in expected.items():
            torch.testing.assert_close(got[name], value, rtol=1e-2, atol=1e-4, msg=lambda text, name=name: name + text)


def test_answers_are_the_same_as_on_the_cpu(found) -> None:
    expected, got = (json.loads((found[device] / "said.json").read_text()) for device in ("cpu", "plain"))
    assert [list(own) for own in expected] == [list(own) for own in got]
    assert all(mine == pytest.approx(own, abs=2e-2) for mine, own in zip(got, expected, strict=True))


def test_a_tensor_is_made_wide_where_that_can_be() -> None:
    assert has_float64("cpu") and wide(torch.ones(2)).dtype == torch.float64


def test_a_device_that_is_not_there_is_refused_in_words(experts) -> None:
    assert find_device("cpu") == "cpu" and find_device("auto") == find_device()
    for name in ("cuda:7", "mps", "gpu"):
        with pytest.raises(FuseHubError, match=f"no device {name} here") as refused:
            compare([str(path) for path in experts()], ["fine"], device=name)
        # What there is, and none of the lists of what torch could be built for.
        assert refused.value.fix.startswith("Say cpu") and "hpu" not in str(refused.value)
        assert len(refused.value.what) < 120


def test_a_device_that_is_too_small_is_named_with_the_layer(experts, monkeypatch, tmp_path) -> None:
    def solve(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(linear_system.System, "solve", solve)
    models = [str(path) for path in with_statistics(experts())]
    with pytest.raises(FuseHubError, match=r"cpu has too little memory to solve .*weight") as refused:
        fusehub.merge(models, tmp_path / "out", device="cpu")
    assert "--device cpu" in refused.value.fix
    assert not list(tmp_path.glob("*out*"))


def test_the_environment_names_the_device_where_nothing_else_does(experts, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("FUSEHUB_DEVICE", "cuda:7")
    models = [str(path) for path in experts()]
    assert find_device("cpu") == "cpu"
    for name in (None, "auto"):
        with pytest.raises(FuseHubError, match=r"no device cuda:7 here, which FUSEHUB_DEVICE names"):
            compare(models, ["fine"], device=name)
        with pytest.raises(FuseHubError, match=r"no device cuda:7 here, which FUSEHUB_DEVICE names"):
            fusehub.merge(models, tmp_path / "out", method="mean", device=name)
    fusehub.merge(models, tmp_path / "out", method="mean", device="cpu")


def test_a_device_and_a_dtype_are_said_by_name_or_as_torch_has_them() -> None:
    assert find_device(torch.device("cpu")) == find_device("cpu") == "cpu"
    assert find_dtype("bfloat16") is find_dtype(torch.bfloat16) is torch.bfloat16 and find_dtype(None) is None
    for name in ("bfloat", "nn"):
        with pytest.raises(FuseHubError, match=f"no dtype {name}"):
            find_dtype(name)


def test_devices_and_dtypes_are_said_alike_everywhere() -> None:
    for name in ("collect", "compare", "evaluate", "load_heads", "merge", "tune"):
        assert inspect.signature(getattr(fusehub, name)).parameters["device"].annotation == "Device | None"
    for name in ("merge", "tune", "load_heads"):
        assert "torch.dtype | None" in inspect.signature(getattr(fusehub, name)).parameters["dtype"].annotation
