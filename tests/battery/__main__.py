"""Runs the battery: `python -m tests.battery --folder battery`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from tests.battery.families import families
from tests.battery.measured import write_measured
from tests.battery.report import write_report
from tests.battery.run import Battery
from tests.battery.tasks import AcrossTasks


def main() -> None:
    """Reads the arguments, runs what is missing, writes the document."""
    parser = argparse.ArgumentParser(prog="make battery", description="The paper's comparison on real text.")
    parser.add_argument("--folder", type=Path, default=Path("battery"), help="where models are kept")
    parser.add_argument("--family", choices=("sentiment", "entities"), help="only one of the two families")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds of the experts")
    parser.add_argument("--report", action="store_true", help="only write the document from the results there are")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where the document and the results go")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    entities = os.environ.get("NER_DATA")
    chosen = families(arguments.folder, Path(entities) if entities else None)
    if arguments.family:
        if arguments.family not in chosen:
            parser.error("entities need NER_DATA=FOLDER, a folder of DOMAIN.train.jsonl, .val.jsonl and .test.jsonl")
        chosen = {arguments.family: chosen[arguments.family]}
    results, seeds = arguments.docs / "results", range(arguments.seeds)
    if not arguments.report:
        for family in chosen.values():
            Battery(family, arguments.folder, results, seeds).run()
        if len(chosen) > 1:
            AcrossTasks(list(chosen.values()), arguments.folder, results, seeds).run()
    print(write_report(list(chosen.values()), arguments.docs))
    if arguments.docs.resolve() == Path("docs").resolve():
        write_measured(arguments.docs)


if __name__ == "__main__":
    main()
