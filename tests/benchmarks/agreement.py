"""Does FuseHub merge as mergekit does? Both on the same tensors, by mergekit's own recipes.

    python tests/benchmarks/agreement.py [--folder DIR] [--environment DIR]

Installs mergekit 0.1.5 into an environment of its own (kept in the cache for the next time), makes a base and three
experts of it from seeds (a small Llama, in float32 and in bfloat16), writes one recipe for both
programs, runs both, and prints the largest differences over all tensors as a Markdown table:

    max abs     the largest difference of an element between the two results
    relative    ‖FuseHub − mergekit‖ / ‖mergekit‖ over all tensors
    to float64  the same of each program's result to the formula in float64, not rounded at the end
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[2]))
from fusehub.merging.merge import merge
from tests.unit.experts import WEIGHTS, relatives, save_weights

MERGEKIT = "mergekit==0.1.5"
# Of the same version as here, so that both programs compute with the same kernels.
TORCH = f"torch=={torch.__version__.partition('+')[0]}"
GRADIENT = [{"filter": "attn", "value": [0, 0.5, 1]}, {"filter": "mlp", "value": [1, 0.5, 0]}, {"value": 0.3}]
# Name of the case -> (method, parameters, each model's parameters, whether the base is listed, experts).
CASES = {
    "linear": ("linear", {}, [{"weight": 1.0}, {"weight": 0.5}, {"weight": 0.25}], False),
    "linear, not normalized": ("linear", {"normalize": False}, [{"weight": 0.4}] * 3, False),
    "linear, weight by layer": ("linear", {}, [{"weight": [0.2, 1.0]}, {"weight": [1.0, 0.2]}], False),
    "task_arithmetic": ("task_arithmetic", {}, [{"weight": 0.3}] * 3, True),
    "task_arithmetic, negative": ("task_arithmetic", {"lambda": 0.8}, [{"weight": 1.0}, {"weight": -0.5}], True),
    "ties, density 1": ("ties", {"density": 1.0}, [{"weight": 0.5}] * 3, True),
    "ties, density 0.5": ("ties", {"int8_mask": True}, [{"weight": 0.5, "density": 0.5}] * 3, True),
    "ties, density 0.2, rescale": ("ties", {"rescale": True}, [{"weight": 1.0, "density": 0.2}] * 2, True),
    "slerp, t 0.4": ("slerp", {"t": 0.4}, [{}], True),
    "slerp, t by layer": ("slerp", {"t": GRADIENT}, [{}], True),
    "nuslerp": ("nuslerp", {}, [{"weight": 0.7}, {"weight": 0.3}], True),
    "breadcrumbs": ("breadcrumbs", {}, [{"weight": 0.4, "density": 0.8, "gamma": 0.05}] * 3, True),
    "model_stock": ("model_stock", {}, [{}] * 3, True),
    "sce": ("sce", {"select_topk": 0.5}, [{}] * 3, True),
}
# Of BERT, mergekit wants a pooler that transformers' BertForMaskedLM neither has nor stores.
KINDS = (("llama", "text-generation"),)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keep models and results here")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    parser.add_argument("--environment", type=Path, default=cache / "fusehub" / "mergekit-0.1.5")
    said = parser.parse_args()
    program = mergekit(said.environment)
    print("| method | model | dtype | max abs | relative | FuseHub to float64 | mergekit to float64 |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as temporary:
        root = said.folder or Path(temporary)
        for architecture, task in KINDS:
            for dtype in (torch.float32, torch.bfloat16):
                folder = root / f"{architecture}-{str(dtype).removeprefix('torch.')}"
                folder.mkdir(parents=True, exist_ok=True)
                labels = (("no", "yes"),) * 3
                experts = relatives(folder, architecture, labels=labels, task=task, hidden=64, layers=4, dtype=dtype)
                as_dtype(folder / "base", dtype)
                for case in CASES:
                    row = compare(case, folder, experts, dtype, program)
                    print(f"| {case} | {architecture} | {str(dtype).removeprefix('torch.')} | {row} |", flush=True)


def mergekit(environment: Path) -> Path:
    """mergekit's program, installed where it is not yet."""
    program = environment / "bin" / "mergekit-yaml"
    if not program.exists():
        venv.create(environment, with_pip=True)
        subprocess.run([environment / "bin" / "python", "-m", "pip", "install", "-q", TORCH, MERGEKIT], check=True)
    return program


def as_dtype(folder: Path, dtype: torch.dtype) -> None:
    """Stores the base in the dtype of the experts."""
    save_weights(folder, {name: value.to(dtype) for name, value in load_file(folder / WEIGHTS).items()})


def compare(case: str, folder: Path, experts: list[Path], dtype: torch.dtype, program: Path) -> str:
    """Runs one case by both programs; the columns of its row."""
    method, parameters, models, with_base = CASES[case]
    recipe: dict[str, object] = {
        "merge_method": method,
        "models": [{"model": str(m), "parameters": own} for m, own in zip(experts, models, strict=False)],
        "parameters": parameters,
        "dtype": str(dtype).removeprefix("torch."),
    }
    if with_base:
        recipe["base_model"] = str(folder / "base")
    name = "".join(letter if letter.isalnum() else "-" for letter in case)
    path, ours, theirs = folder / f"{name}.yaml", folder / f"{name}-fusehub", folder / f"{name}-mergekit"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    merge(path, ours)
    exact = folder / f"{name}-float64"
    merge(path, exact, out_dtype="float64")
    run([str(program), str(path), str(theirs), "--no-copy-tokenizer"], os.environ | {"HF_HUB_OFFLINE": "1"})
    a, b, c = (weights(place) for place in (ours, theirs, exact))
    if set(a) != set(b):
        return f"other tensors: {sorted(set(a) ^ set(b))[:3]} | | |"
    largest = max(float((a[key] - b[key]).abs().max()) for key in a)
    return f"{largest:.1e} | {relative(a, b):.1e} | {relative(a, c):.1e} | {relative(b, c):.1e}"


def run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: value.double()
        for path in sorted(folder.glob("*.safetensors"))
        for name, value in load_file(path).items()
    }


def relative(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """‖a − b‖ / ‖b‖ over all tensors."""
    difference = sum(float((a[name] - b[name]).square().sum()) for name in b)
    return (difference / sum(float(value.square().sum()) for value in b.values())) ** 0.5


if __name__ == "__main__":
    main()
