"""Does FuseHub add an adapter to its base as peft does? Every kind of LoRA, on the same tensors.

    python tests/benchmarks/adapters.py

Makes small bases and adapters from seeds with peft, reads each as FuseHub does (tensor by tensor, no model is loaded),
has peft merge it (`merge_and_unload`) in float32 and in float64, and prints the differences over all tensors that the
adapter changes as a Markdown table:

    max abs     the largest difference of an element between FuseHub and peft in float32
    relative    ‖FuseHub − peft‖ / ‖peft‖
    to float64  the same of each in float32 to peft in float64

The last rows are merges of two adapters, written as one (`--as-adapter`), beside peft's `add_weighted_adapter`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[2]))
from fusehub.merging.merge import merge
from fusehub.models.checkpoints.checkpoint import Checkpoint
from fusehub.models.resolve import resolve
from tests.unit.experts import WEIGHTS
from tests.unit.lora_cases import CASES, TASK_OF, adapter, in_file
from tests.unit.tiny import TASKS, tiny_model

Tensors = dict[str, torch.Tensor]
PAIRS = {
    "mean of two, as an adapter": ("mean", [0.5, 0.5]),
    "0.7 of one less 0.2 of another, as an adapter": ("task_arithmetic", [0.7, -0.2]),
}


def main() -> None:
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)  # peft draws what it starts from
    print("| adapter | model | tensors | max abs | relative | FuseHub to float64 | peft to float64 |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as temporary:
        for number, name in enumerate(CASES):
            print(f"| {name} | {CASES[name][0]} | {one(Path(temporary) / str(number), name)} |", flush=True)
        for name in PAIRS:
            print(f"| {name} | llama | {two(Path(temporary) / name.replace(' ', '-'), name)} |", flush=True)


def one(folder: Path, name: str) -> str:
    """One adapter on its base."""
    arch, said = CASES[name]
    task = TASK_OF[said.get("task_type", "SEQ_CLS")]
    auto = getattr(transformers, TASKS[task])
    base = tiny_model(folder / "base", arch, task=task)
    made, theirs = adapter(folder / "adapter", base, auto=auto, **said)
    wide = peft.PeftModel.from_pretrained(auto.from_pretrained(base), made).double().merge_and_unload().state_dict()
    return row(ours(f"{base}+{made}"), base, theirs, wide)


def two(folder: Path, name: str) -> str:
    """Two adapters on one base, merged into one adapter by both."""
    method, weights = PAIRS[name]
    auto = transformers.AutoModelForCausalLM
    base = tiny_model(folder / "base", "llama", task="text-generation")
    said = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    made = [adapter(folder / f"adapter-{n}", base, seed=n, auto=auto, r=n + 3, **said)[0] for n in range(2)]
    results = []
    for wide in (False, True):
        model = auto.from_pretrained(base)
        both = peft.PeftModel.from_pretrained(model, made[0], adapter_name="0")
        both.load_adapter(made[1], adapter_name="1")
        both = both.double() if wide else both
        both.add_weighted_adapter(["0", "1"], weights, "both", combination_type="cat")
        both.set_adapter("both")
        results.append(both.merge_and_unload().state_dict())
    of_each = dict(zip(map(str, made), weights, strict=True))
    base_model = str(base) if method == "task_arithmetic" else None
    merge(list(of_each), folder / "merged", method=method, weights=of_each, base_model=base_model, as_adapter=True)
    return row(ours(str(folder / "merged")), base, *results)


def ours(name: str) -> Tensors:
    """All tensors as FuseHub reads them."""
    with Checkpoint(resolve(name)) as checkpoint:
        return {tensor: checkpoint[tensor] for tensor in checkpoint}


def row(ours: Tensors, base: Path, theirs: Tensors, wide: Tensors) -> str:
    """The columns of the table; what the adapter leaves as it is in the base is not counted."""
    stored = load_file(base / WEIGHTS)
    theirs, wide = in_file(theirs, base), in_file(wide, base)
    changed = [name for name, value in stored.items() if not torch.equal(value, theirs[name])]
    unlike = [name for name, value in stored.items() if not torch.equal(value, ours[name])]
    if changed != unlike:
        return f"changes other tensors: {sorted(set(changed) ^ set(unlike))[:3]} | | | |"
    a, b, c = ({name: tensors[name].double() for name in changed} for tensors in (ours, theirs, wide))
    largest = max(float((a[name] - b[name]).abs().max()) for name in changed)
    return f"{len(changed)} | {largest:.1e} | {relative(a, b):.1e} | {relative(a, c):.1e} | {relative(b, c):.1e}"


def relative(a: Tensors, b: Tensors) -> float:
    """‖a − b‖ / ‖b‖ over all tensors."""
    difference = sum(float((a[name] - b[name]).square().sum()) for name in b)
    return (difference / sum(float(value.square().sum()) for value in b.values())) ** 0.5


if __name__ == "__main__":
    main()
