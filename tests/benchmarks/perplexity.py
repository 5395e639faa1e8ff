"""What scoring a language model by its perplexity takes in memory, by how many words it knows.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.perplexity [--texts 16] [--record]

A Llama of one narrow layer, so that what is measured is the logits: by how much the peak memory of a process grows
over texts of 62 tokens, once it has scored two words. All logits at once are printed beside it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.record import Row, keep, tell
from tests.unit.tiny import tiny_model

TARGET = 256
TOKENS = 62
GROWTH = """
import resource, sys
from fusehub.comparing.evaluate import evaluate
model, few, many = sys.argv[1:]
evaluate([model], {"texts": few})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
evaluate([model], {"texts": many})
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--record", action="store_true", help="into docs/performance.md")
    said = parser.parse_args()
    texts, rows = said.texts, []
    for words in (32_000, 128_256, 262_144):
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            model = tiny_model(home / "m", "llama", task="text-generation", hidden=8, layers=1, vocab_size=words)
            (home / "few.txt").write_text("a film\n")
            (home / "many.txt").write_text((" ".join(["the film was great"] * 12) + "\n") * texts)
            command = [sys.executable, "-c", GROWTH, str(model), str(home / "few.txt"), str(home / "many.txt")]
            grown = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            whole = texts * TOKENS * words * 4 / 2**20
            rows.append(
                Row(
                    f"perplexity of a model that knows {words:,} words: growth of memory",
                    f"{grown:.0f} MB (all logits are {whole:.0f} MB)",
                    f"{TARGET} MB",
                    grown <= TARGET,
                    "a piece of logits",
                )
            )
            tell(rows[-1:])
    if said.record:
        keep("perplexity", "OMP_NUM_THREADS=1 python -m tests.benchmarks.perplexity", rows)


if __name__ == "__main__":
    main()
