"""What collecting costs beside a bare forward: time, memory, and what a second process brings.

    python -m tests.benchmarks.collect [--runs 5] [--threads 2] [--texts 512] [--cache DIR] [--record]

BERT-base (random weights of its own shapes, a head of three labels) reads 512 film reviews of the demo, in batches of
up to 4096 tokens. In one process, in turns: the bare forward; a plain hook on every linear layer that adds up
`x.T @ x`; FuseHub's collection. Then the peak of memory, and one process of one thread beside two.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.record import Row, keep, tell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "fusehub-benchmark")
    parser.add_argument("--record", action="store_true", help="into docs/performance.md")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    said = parser.parse_args()
    import torch

    torch.set_num_threads(1 if said.worker else said.threads)
    model, inputs, layout = prepare(said.cache, said.texts)
    if said.worker:
        processes, seconds = count(model, inputs, layout)
        if processes.is_main:
            print(seconds)
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    print(f"{len(inputs)} film reviews, {inputs.tokens} tokens")
    times: dict[str, list[float]] = {"bare forward": [], "plain hook": [], "fusehub": []}
    forward(model, inputs)
    before = peak()
    sums = count(model, inputs, layout)[0]
    memory = peak() - before
    for _ in range(said.runs):
        times["bare forward"].append(timed(forward, model, inputs))
        times["plain hook"].append(timed(plain, model, inputs))
        times["fusehub"].append(count(model, inputs, layout)[1])
    del sums
    bare = times["bare forward"]
    for name, own in times.items():
        ratios = [a / b for a, b in zip(own, bare, strict=True)]
        best = min(own) / min(bare)
        print(f"{name:14} {min(own):6.2f} s   x {statistics.median(ratios):.2f} (of the fastest runs: {best:.2f})")
    packed = packed_bytes(model) / 1e6
    print(f"memory on top of the model's own forward: {memory / 1e6:.0f} MB; packed grams are {packed:.0f} MB")
    ratio = statistics.median(a / b for a, b in zip(times["fusehub"], bare, strict=True))
    row = Row(
        f"counting BERT-base, {len(inputs)} texts",
        f"{ratio:.2f} × a bare forward ({min(times['fusehub']):.1f} s)",
        "1.5 ×",
        ratio <= 1.5,
        "multiplications: 67 million a token for the grams' triangles, 85 million for the forward's linear layers",
    )
    tell([row])
    if said.record:
        keep("collect", "python -m tests.benchmarks.collect", [row])
    alone, both = (statistics.median(workers(said, number) for _ in range(3)) for number in (1, 2))
    print(f"one process of one thread {alone:.2f} s, two {both:.2f} s: {alone / both:.2f} times as fast")


def prepare(cache: Path, texts: int):
    """The model, its inputs and its layout."""
    import torch
    import transformers

    from fusehub.data.examples import load_examples
    from fusehub.data.inputs import Inputs
    from fusehub.demo.corpus import encoder_folder, sentiment, write_dataset
    from fusehub.models.layout import layout_of
    from fusehub.models.resolve import resolve

    folder = cache / "films"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        write_dataset(sentiment(cache)["films"], folder)
    examples = load_examples(str(folder), "text-classification", limit=texts)
    inputs = Inputs.of(resolve(str(encoder_folder())), examples, max_length=512)
    config = transformers.BertConfig(num_labels=3, architectures=["BertForSequenceClassification"])
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(config).eval(), inputs, layout_of(config)


def forward(model, inputs) -> None:
    """Reads all texts, and nothing else."""
    import torch

    with torch.inference_mode():
        for _, batch in inputs.batches(batch_tokens=4096):
            model(**batch)


def plain(model, inputs) -> None:
    """The collection that one would write first: every layer, every row that is no padding, a full matrix."""
    import torch

    grams, handles, mask = {}, [], {}

    def hook(name):
        def before(module, args):
            x = args[0]
            x = x[mask["own"]] if x.ndim == 3 else x
            grams[name] = grams.get(name, 0) + x.T @ x

        return before

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            handles.append(module.register_forward_pre_hook(hook(name)))
    with torch.inference_mode():
        for _, batch in inputs.batches(batch_tokens=4096):
            mask["own"] = batch["attention_mask"].bool()
            model(**batch)
    for handle in handles:
        handle.remove()


def count(model, inputs, layout):
    """Collects as `fusehub collect` does, without reading and writing files: the processes, and the seconds."""
    from fusehub.collecting.passes import count_inputs
    from fusehub.collecting.resume import Saves
    from fusehub.utils.processes import Processes

    processes = Processes.find()
    with tempfile.TemporaryDirectory() as folder:
        saves = Saves(Path(folder), {}, processes, every=math.inf)
        processes.agree()
        started = time.perf_counter()
        count_inputs(model, layout, inputs, processes, saves)
        return processes, time.perf_counter() - started


def timed(function, *arguments) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - started


def peak() -> int:
    """Most bytes of memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def packed_bytes(model) -> int:
    """Bytes of all packed triangles, inputs that layers share counted once (q, k and v of BERT)."""
    from fusehub.models.layout import linears_of

    sizes = [
        own.in_features for name, own in linears_of(model).items() if ".key." not in name and ".value." not in name
    ]
    return sum(size * (size + 1) // 2 * 4 for size in sizes)


def workers(said, number: int) -> float:
    """Seconds that `number` processes of one thread take together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.collect",
        "--worker",
        "--texts",
        str(said.texts),
        "--cache",
        str(said.cache),
    ]
    common = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            command,
            env=common | {"WORLD_SIZE": str(number), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(number)
    ]
    said_by = [process.communicate()[0] for process in started]
    return float(said_by[0])


if __name__ == "__main__":
    main()
