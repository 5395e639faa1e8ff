"""Devices that lack float64, as Apple's: everything that runs a model gives what it gives on the CPU."""

import inspect
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import fusehub
from fusehub.comparing.compare import compare
from fusehub.errors import FuseHubError
from fusehub.utils.devices import find_device, find_dtype, has_float64, wide
from tests.unit.experts import WEIGHTS, relatives, run_python, text_file, texts_of

# argv: where to write, the device, the two experts and a file of texts for each.
_EVERYTHING = """
import json, sys
from pathlib import Path
out, device, *rest = sys.argv[1:]
from tests.unit import plain_device
if device == plain_device.NAME:
    plain_device.start()
import torch, fusehub
from fusehub.utils.devices import has_float64
from fusehub.collecting import noise
assert has_float64(device) == (device == "cpu")
models, texts, out = rest[:2], rest[2:], Path(out)
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
said = fusehub.compare(models, ["a good film", "sad and slow"], ensemble=True).to_dict()
(out / "said.json").write_text(json.dumps([a["probabilities"] for text in said["texts"] for a in text["answers"]]))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, Path]:
    """Device -> the folder of what was made on it. In bfloat16, as on all accelerators, so as not to be another's."""
    folder = tmp_path_factory.mktemp("devices")
    models = relatives(folder / "models", layers=1, dtype=torch.bfloat16)
    texts = [text_file(folder, number, texts_of(number, 12)) for number in range(2)]
    made = {}
    for device in ("cpu", "plain"):
        made[device] = folder / device
        done = run_python(_EVERYTHING, made[device], device, *models, *texts, cwd=Path(__file__).parents[2])
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


def test_answers_are_the_same_as_on_the_cpu(found) -> None:
    import json

    expected, got = (json.loads((found[device] / "said.json").read_text()) for device in ("cpu", "plain"))
    assert [list(own) for own in expected] == [list(own) for own in got]
    assert all(mine == pytest.approx(own, abs=2e-2) for mine, own in zip(got, expected, strict=True))


def test_a_tensor_is_made_wide_where_that_can_be() -> None:
    assert has_float64("cpu") and wide(torch.ones(2)).dtype == torch.float64


def test_a_device_that_is_not_there_is_refused_in_words(experts) -> None:
    assert find_device("cpu") == "cpu" and find_device("auto") == find_device()
    for name in ("cuda:7", "mps", "gpu"):
        with pytest.raises(FuseHubError, match=f"no device {name} here"):
            compare([str(path) for path in experts()], ["fine"], device=name)


def test_a_device_and_a_dtype_are_said_by_name_or_as_torch_has_them() -> None:
    assert find_device(torch.device("cpu")) == find_device("cpu") == "cpu"
    assert find_dtype("bfloat16") is find_dtype(torch.bfloat16) is torch.bfloat16 and find_dtype(None) is None
    for name in ("bfloat", "nn"):
        with pytest.raises(FuseHubError, match=f"no dtype {name}"):
            find_dtype(name)


def test_devices_and_dtypes_are_said_alike_everywhere() -> None:
    for name in ("collect", "compare", "evaluate", "load_heads"):
        assert inspect.signature(getattr(fusehub, name)).parameters["device"].annotation == "Device | None"
    for name in ("merge", "tune", "load_heads"):
        assert "torch.dtype | None" in inspect.signature(getattr(fusehub, name)).parameters["dtype"].annotation
