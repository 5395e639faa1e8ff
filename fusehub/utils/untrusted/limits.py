"""What strangers may state, at most: every limit by its name, with what real files have and what more would cost.

A number of a stranger (bytes of a header, layers of a config, entries of an archive) is held against its limit before
memory or time is taken for it. What is beyond one is refused in words that name the file, the number and the limit;
texts alone are cut, as a model reads no more of them than its length.

    require_bytes(path.stat().st_size, JSON_BYTES, "user/expert: config.json")
"""

from __future__ import annotations

from fusehub.errors import BadFile

MIB = 2**20

# --- Files of tensors ---
TENSORS = 150_000
"""Tensors of one model. The largest mixtures of experts have 70,000, each expert's by itself; so many take seconds."""
HEADER_BYTES = 25_000_000
"""The header of a safetensors file, as much as the Hub's own client reads of one. 70,000 tensors take 10 MB."""
SHARDS = 2_000
"""Files of one model's weights. The largest models have a few hundred."""
PICKLE_BYTES = 4 * MIB
"""The pickle in a .bin, which names its tensors. A thousand tensors take 150 KB, and each byte may make an object."""
SHARED = 16
"""How often the tensors of a .bin may be as large as the file, as some share their numbers: T5 has one four times."""

# --- Configs and tables ---
JSON_BYTES = 32 * MIB
"""A config or an index. An index of 70,000 tensors has 8 MB."""
NESTED = 100
"""Lists and objects in each other. A config has four, and what holds the whole of a tokenizer six."""
YAML_BYTES = MIB
"""A recipe, or the front matter of a card. Cards with the results of a hundred benchmarks have 300 KB; reading YAML
takes seconds a megabyte."""
YAML_VALUES = 100_000
"""Values of one YAML document, aliases counted as what they stand for. A recipe of a hundred models, each with lists
over a hundred layers, has a tenth."""
LAYERS = 512
"""Layers, blocks and the like of a model. The deepest have 126, and those that were stacked from others 315."""
EXPERTS = 8_192
"""Experts of one layer. The most are 2,048."""
LABELS = 100_000
"""Labels of a head. ImageNet has 21,843 at most."""
SAVED_MODULES = 10_000
"""Modules that an adapter says it saves whole. Real ones name a head and embeddings."""
PATTERN_CHARACTERS = 100_000
"""An expression in an adapter's config. The longest that libraries write have 500."""
PATTERN_REPEATS = 100_000
"""How often an expression may say that things are repeated, all counts in it multiplied."""
PATTERN_SECONDS = 5.0
"""What the expressions in an adapter's config may take on the names of all modules. Real ones take milliseconds."""
MODULES = 50_000
"""Modules that are built to see what a config describes, each in 0.1 ms. NLLB's mixture of experts has 8,000."""
BUFFER_BYTES = 1024 * MIB
"""Numbers that a model computes from its config alone and keeps: masks and positions. Real ones have 100 MB."""

# --- Tokenizers ---
TOKENIZER_BYTES = 128 * MIB
"""A file of a tokenizer. A million tokens take 60 MB."""
ADDED_TOKENS = 100_000
"""Tokens that a tokenizer adds to its vocabulary, each in 0.3 ms. Models of speech add 65,536."""

# --- Data ---
CELL_CHARACTERS = 32 * MIB
"""A line, or a value, of a table. The longest novels have 8 million characters."""
COLUMNS = 10_000
"""Columns of a table."""
TEMPLATE_SECONDS = 5
"""What a chat template may take on a few conversations. Real ones take a millisecond each."""
TEMPLATE_BYTES = 4096 * MIB
"""Memory of the process that a chat template runs in, in which the conversations are too."""
ITEMS = 1_000_000
"""Items of a list in a table: words, labels, answers or turns."""
TABLE_BYTES = 1024 * MIB
"""A .json file, which is read as a whole; JSON lines and Parquet are read row by row and may be of any size."""
LITERAL_CHARACTERS = MIB
"""A list written as Python or numpy write it, which takes a hundred times its size to read. JSON is not held to it."""
TOKEN_CHARACTERS = 64
"""Characters of a text that are looked at for each token that a model reads of it. Words have four or five a token."""
QUESTION_CHARACTERS = MIB
"""A text that answers are looked for in, from one end to the other. The longest articles of Wikipedia have half."""
PARQUET_ROWS = 16
"""Rows of Parquet that are decoded at once: a text of many rows may be stored once."""
PARQUET_BYTES = 64 * MIB
"""A row group of Parquet that is always read, ..."""
PARQUET_RATIO = 200
"""... and how many times its size a larger one may unpack to."""
IMAGE_PIXELS = 128 * MIB
"""Pixels of an image. The cameras of phones have 108 million."""
IMAGE_RATIO = 200
"""How much longer than wide an image may be: made small, its short side becomes that of the model's images."""
IMAGE_SIDE = 4_096
"""The side of the images that a model is given, in pixels. The largest have 2,560."""


def require_bytes(size: int, most: int, what: str) -> None:
    """Raises `BadFile` where a file of `size` bytes, `what` for a person, is larger than `most`."""
    if size > most:
        raise BadFile(
            f"{what} has {size:,} bytes, and no more than {most:,} are read of such a file.",
            "Is it the right file? Write it again without what does not belong in it.",
        )
