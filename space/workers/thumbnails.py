"""Small copies of images that visitors upload, as addresses that hold them, so that no file need be served."""

from __future__ import annotations

import base64
import io

from fusehub.data.images import Picture

# The longer side, in pixels: twice what the page shows, for screens with fine ones.
_SIDE = 192


def thumbnail(name: str, path: str) -> str:
    """The image as a `data:` address. Raises `BadFile` where it is none that can be read."""
    image = Picture(name, path).open()
    image.thumbnail((_SIDE, _SIDE))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
