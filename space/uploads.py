"""Files that a visitor uploads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from .visit import Visit


def take_uploads(visit: Visit, files: Any) -> list[str]:
    """Uploaded files, moved out of where the server serves files from, into the visit's folder."""
    taken = []
    for file in files if isinstance(files, list) else [files] if files else []:
        source = Path(file)
        target = visit.new_folder(source.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source, target)
        taken.append(str(target))
    return taken
