"""`python -m fusehub.localhub DIR --port N`: serve a folder; the first line on stdout is the address."""

import argparse
import sys
from pathlib import Path

from .errors import LocalHubError
from .process import serve


def _say(url: str) -> None:
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fusehub.localhub", description="A Hub on this machine.")
    parser.add_argument("dir", type=Path, help="folder that holds the repositories and users.json")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8730, help="0 takes any free port")
    parser.add_argument("--page-size", type=int, default=1000, help="longest page of a list")
    parser.add_argument("--part-size", type=int, default=512 * 2**20, help="larger files are uploaded in parts")
    parser.add_argument("--with-parent", action="store_true", help="stop when the program that started this one does")
    args = parser.parse_args()
    try:
        serve(
            args.dir,
            host=args.host,
            port=args.port,
            on_ready=_say,
            with_parent=args.with_parent,
            page_size=args.page_size,
            part_size=args.part_size,
        )
    except LocalHubError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
