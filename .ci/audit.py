"""Asks whether anything that is installed here has a known vulnerability: `make audit`.

pip-audit asks PyPI, package by package. It calls one that PyPI does not know "skipped" and ends well, even where PyPI
tells nothing of any. That is no all-clear, so what could not be asked is told apart here. It ends with 1 where
something was found, with 0 where it was asked and nothing was found, and with 3 where nobody answered.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

COMMAND = [sys.executable, "-m", "pip_audit", "--local", "--skip-editable", "--progress-spinner", "off"]
FOUND, UNASKED = 1, 3


def verdict(text: str) -> tuple[int, list[str]]:
    """The exit status for what pip-audit wrote as JSON, and what to say."""
    try:
        packages: list[dict[str, Any]] = json.loads(text)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return UNASKED, ["Nobody could be asked for vulnerabilities: is there a network?"]
    packages = [package for package in packages if package["name"] != "fusehub"]
    known = [(package, one) for package in packages for one in package.get("vulns", ())]
    if known:
        return FOUND, [
            f"{package['name']} {package['version']}: {one['id']}, mended in {', '.join(one['fix_versions']) or '-'}"
            for package, one in known
        ]
    unasked = [package["name"] for package in packages if "skip_reason" in package]
    if len(unasked) == len(packages):
        return UNASKED, ["Nobody could be asked for vulnerabilities: PyPI tells nothing of any package."]
    said = [f"{len(packages) - len(unasked)} packages have no known vulnerability."]
    return 0, said + [f"Not known to PyPI, and not asked for: {', '.join(unasked)}."] * bool(unasked)


def main() -> int:
    done = subprocess.run([*COMMAND, "--format", "json"], capture_output=True, text=True)
    status, said = verdict(done.stdout)
    if status == UNASKED:
        said += done.stderr.strip().splitlines()[-1:]
    sys.stderr.write("\n".join(said) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
