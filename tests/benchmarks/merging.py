"""Time and memory of merging, cold process included, beside reading and writing the same bytes.

    python -m tests.benchmarks.merging [--runs 3] [--only bert] [--folder DIR] [--record]

Makes its models from seeds (a base and small changes of it), runs `fusehub merge` in a process of its own, and
prints the median wall time, the peak memory of that process, and both as ratios: time to that of copying as many
bytes (every expert read once, the result written once), memory to the size of one model.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.commands import FUSEHUB, ROOT, taken_by
from tests.benchmarks.record import Row, keep, tell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", choices=sorted(CASES), nargs="+")
    parser.add_argument("--folder", type=Path, help="keep the models here, for the next time")
    parser.add_argument("--record", action="store_true", help="into docs/performance.md")
    parser.add_argument("--make", metavar="CASE", choices=sorted(CASES), help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.make:
        _, make, experts, _ = CASES[said.make]
        make(said.folder / said.make, experts)
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{'case':46} {'seconds':>8} {'copying':>8} {'ratio':>6} {'peak':>9} {'one model':>10} {'ratio':>6}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        root = said.folder or Path(temporary)
        for names in TOGETHER:
            wanted = [name for name in names if not said.only or name in said.only]
            for name in wanted:
                # In a process of its own: a process starts with the peak memory of the one that started it.
                taken_by([sys.executable, "-m", "tests.benchmarks.merging", "--make", name, "--folder", root])
            # Each round has them all, one after the other: what else the machine does is alike for them.
            rounds = [{name: run(name, root) for name in wanted} for _ in range(said.runs)]
            for name in wanted:
                report(name, [done[name] for done in rounds], root)
            if {"bert", "bert_regmean"} <= set(wanted):
                rows.append(beside_the_mean(rounds))
            if "bert_regmean" in wanted:
                rows.append(in_two_processes(root, said.runs))
            if said.folder is None:
                for name in wanted:
                    shutil.rmtree(root / name)
    tell(rows)
    if said.record:
        keep("merging", "python -m tests.benchmarks.merging", rows)


def beside_the_mean(rounds: Sequence[Mapping[str, Run]]) -> Row:
    """RegMean's whole command beside the mean's, of neighbouring runs."""
    ratio, processor = (
        statistics.median(getattr(done["bert_regmean"], fact) / getattr(done["bert"], fact) for done in rounds)
        for fact in ("seconds", "processor")
    )
    peak = statistics.median(done["bert_regmean"].peak for done in rounds) / 1e6
    seconds = statistics.median(done["bert_regmean"].seconds for done in rounds)
    return Row(
        "RegMean of 3 × BERT-base from compact statistics, whole command",
        f"{ratio:.2f} × the mean's time ({processor:.2f} × its processor time), {seconds:.1f} s, {peak:.0f} MB",
        "3 ×, 700 MB",
        ratio <= 3 and peak <= 700,
        "processor time: multiplications in float32 2/5, imports and the plan 1/6, then decoding, sums, hashing",
    )


def in_two_processes(root: Path, runs: int) -> Row:
    """RegMean in two processes of one thread beside one."""
    pairs = [(together("bert_regmean", root, 1), together("bert_regmean", root, 2)) for _ in range(runs)]
    faster = statistics.median(one / two for one, two in pairs)
    return Row(
        "the same in two processes of one thread",
        f"{faster:.2f} × as fast as one ({statistics.median(one for one, _ in pairs):.1f} s)",
        "1.7 ×",
        faster >= 1.7,
        "each process imports and plans for itself",
    )


@dataclass(frozen=True)
class Run:
    """One merge: seconds by the clock and of processors, bytes at its peak, and the seconds that copying as many
    bytes took just after it."""

    seconds: float
    processor: float
    peak: int
    copying: float


def experts_of(name: str, root: Path) -> list[Path]:
    return [root / name / f"expert-{number}" for number in range(CASES[name][2])]


def run(name: str, root: Path) -> Run:
    folders, target = experts_of(name, root), root / "merged"
    shutil.rmtree(target, ignore_errors=True)
    taken = taken_by([*FUSEHUB, "merge", *folders, "--method", CASES[name][3], "--out", target])
    shutil.rmtree(target)
    return Run(taken.seconds, taken.processor, taken.peak, copy_as_much(folders, root / "copy"))


def together(name: str, root: Path, count: int) -> float:
    """Wall seconds of one merge in `count` processes of one thread that find each other as torchrun's do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    target = root / "merged"
    command = [*FUSEHUB, "merge", *map(str, experts_of(name, root)), "--method", CASES[name][3]]
    common = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if count > 1:
        common |= {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = time.perf_counter()
    processes = [
        subprocess.Popen(
            [*command, "--out", str(target)],
            env=common | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for rank in range(count)
    ]
    for process in processes:
        _, complaint = process.communicate()
        if process.returncode:
            sys.exit(f"{' '.join(command)}\n{complaint.decode()}")
    seconds = time.perf_counter() - started
    shutil.rmtree(target)
    return seconds


def report(name: str, runs: Sequence[Run], root: Path) -> None:
    """Prints the line of one case."""
    model = sum(path.stat().st_size for path in experts_of(name, root)[0].glob("*.safetensors"))
    seconds, copying, peak = (
        statistics.median(getattr(run, fact) for run in runs) for fact in ("seconds", "copying", "peak")
    )
    print(
        f"{CASES[name][0]:46} {seconds:8.2f} {copying:8.2f} {seconds / copying:6.2f} "
        f"{peak / 1e6:6.0f} MB {model / 1e6:7.0f} MB {peak / model:6.2f}",
        flush=True,
    )


def copy_as_much(folders: list[Path], target: Path) -> float:
    """Seconds to read every expert once and to write one of them, in pieces of 8 MB."""
    started = time.perf_counter()
    buffer = bytearray(8 * 2**20)
    for number, folder in enumerate(folders):
        for path in sorted(folder.glob("*.safetensors")):
            with path.open("rb", buffering=0) as source, target.open("wb", buffering=0) as copy:
                while count := source.readinto(buffer):
                    if number == 0:
                        copy.write(memoryview(buffer)[:count])
    target.unlink()
    return time.perf_counter() - started


def bert(root: Path, experts: int) -> list[Path]:
    """BERT-base in float32, one file each."""
    from transformers import BertConfig, BertForSequenceClassification

    return family(root, experts, BertForSequenceClassification, BertConfig(num_labels=2))


def llama(root: Path, experts: int) -> list[Path]:
    """The shape of a Llama of 1.1 billion parameters in bfloat16, in shards."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(
        hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32,
        num_key_value_heads=4, vocab_size=32000, num_labels=2, pad_token_id=0,
    )  # fmt: skip
    return family(root, experts, LlamaForSequenceClassification, config, torch.bfloat16)


def minilm(root: Path, experts: int) -> list[Path]:
    """The demo's shape, MiniLM with six layers, with statistics beside the weights."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        num_labels=3, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    folders = family(root, experts, BertForSequenceClassification, config)
    for seed, folder in enumerate(folders):
        if not (folder / "fusehub").exists():
            random_statistics(folder, seed)
    return folders


def bert_statistics(root: Path, experts: int) -> list[Path]:
    """BERT-base with statistics beside the weights."""
    folders = bert(root, experts)
    for seed, folder in enumerate(folders):
        if not (folder / "fusehub").exists():
            random_statistics(folder, seed)
    return folders


def family(root: Path, experts: int, model_class: type, config: object, dtype: object = None) -> list[Path]:
    """`experts` models that differ a little from one base, as fine-tuned ones do."""
    import torch

    folders = [root / f"expert-{number}" for number in range(experts)]
    if all((folder / "config.json").exists() for folder in folders):
        return folders
    with torch.device("meta"):
        model = model_class(config)
    model = model.to(dtype or torch.float32).to_empty(device="cpu")
    for number, folder in enumerate(folders):
        base = torch.Generator().manual_seed(0)
        own = torch.Generator().manual_seed(number + 1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.02, generator=base)
                parameter.add_(torch.randn(parameter.shape, generator=own, dtype=parameter.dtype), alpha=0.002)
        model.save_pretrained(folder, max_shard_size="1GB")
    return folders


def random_statistics(folder: Path, seed: int) -> None:
    """Statistics of random inputs: what a solve costs does not depend on the numbers."""
    import torch

    from fusehub.models.checkpoints.checkpoint import weight_hashes
    from fusehub.models.layout import layout_of
    from fusehub.models.resolve import resolve
    from fusehub.models.tasks import load_config
    from fusehub.statistics.file import write_statistics
    from fusehub.statistics.grams import GramSum

    ref = resolve(str(folder))
    draw = torch.Generator().manual_seed(seed)
    sums, aliases = {}, {}
    for name, linear in layout_of(load_config(ref)).linears.items():
        shared = name.replace(".key.", ".query.").replace(".value.", ".query.")
        if shared != name:
            aliases[name] = shared
            continue
        sums[name] = GramSum(linear.in_features)
        sums[name].add(torch.randn(2 * linear.in_features, linear.in_features, generator=draw))
    model = {"id": folder.name, "commit": None, "weights": weight_hashes(ref)}
    facts = {"examples": 1, "tokens": 1, "data": {"source": "random numbers", "revision": None}}
    write_statistics(folder / "fusehub", sums, aliases, {"model": model, **facts})


CASES = {
    "bert": ("mean of 3 x BERT-base, float32", bert, 3, "mean"),
    "llama": ("mean of 2 x Llama 1.1B, bfloat16 shards", llama, 2, "mean"),
    "minilm": ("RegMean of 3 x MiniLM, from statistics", minilm, 3, "regmean"),
    "bert_regmean": ("RegMean of 3 x BERT-base, from statistics", bert_statistics, 3, "regmean"),
}
TOGETHER = (("bert", "bert_regmean"), ("llama",), ("minilm",))
"""Cases that are compared with each other are measured in turn."""

if __name__ == "__main__":
    main()
