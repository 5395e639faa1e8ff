"""Weights on disk: every kind of file is read right, and what is written are the bytes that safetensors writes."""

import io
import json
import pickle
import zipfile
from random import Random

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusehub.errors import BadFile, NotFound, UnsafeFile
from fusehub.models.checkpoints.checkpoint import (
    Checkpoint,
    ShardWriter,
    SharedShard,
    headers,
    index_of,
    plan_shards,
    weight_hashes,
)
from fusehub.models.resolve import resolve
from fusehub.models.tensor_files import TensorInfo, dtype_name, sha256_of, torch_dtype

NUMBERS = torch.arange(24, dtype=torch.float64).reshape(4, 6) / 3
TENSORS = {
    "z.f32": NUMBERS.float(),
    "a.bf16": NUMBERS.bfloat16(),
    "m.f16": NUMBERS.half()[:3],
    "b.f64": NUMBERS,
    "ids.i64": torch.arange(5),
    "ids.i32": torch.arange(7, dtype=torch.int32),
    "mask.bool": torch.tensor([True, False, True]),
    "small.u8": torch.arange(3, dtype=torch.uint8),
    "scalar": torch.tensor(1.5),
    "nothing": torch.zeros(0, 4),
    "größe": torch.ones(2, 2),
}


def infos(tensors):
    return {name: TensorInfo(dtype_name(value.dtype), tuple(value.shape)) for name, value in tensors.items()}


def folder_with(tmp_path, write):
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    write(folder)
    return resolve(str(folder))


def single(folder):
    save_file(TENSORS, folder / "model.safetensors", metadata={"format": "pt"})


def sharded(folder):
    names = sorted(TENSORS)
    files = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for filename, own in files.items():
        save_file({name: TENSORS[name] for name in own}, folder / filename)
    weight_map = {name: filename for filename, own in files.items() for name in own}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def pickled(folder):
    torch.save(TENSORS, folder / "pytorch_model.bin")


def pickled_the_old_way(folder):
    torch.save(TENSORS, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def pickled_with_strides(folder):
    """As a trainer saves them: views of larger storages, and a weight under two names."""
    turned = {name: value.T.contiguous().T if value.ndim == 2 else value for name, value in TENSORS.items()}
    torch.save(turned, folder / "pytorch_model.bin")


def pickled_shards(folder):
    names = sorted(TENSORS)
    torch.save({name: TENSORS[name] for name in names[:4]}, folder / "pytorch_model-00001-of-00002.bin")
    torch.save({name: TENSORS[name] for name in names[4:]}, folder / "pytorch_model-00002-of-00002.bin")
    weight_map = {name: f"pytorch_model-0000{1 if i < 4 else 2}-of-00002.bin" for i, name in enumerate(names)}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


KINDS = [single, sharded, pickled, pickled_the_old_way, pickled_with_strides, pickled_shards]


@pytest.mark.parametrize("write", KINDS)
def test_every_kind_of_file_is_read(tmp_path, write):
    ref = folder_with(tmp_path, write)
    with Checkpoint(ref) as checkpoint:
        assert checkpoint.tensors == dict(sorted(infos(TENSORS).items()))
        assert list(checkpoint) == sorted(TENSORS) and len(checkpoint) == len(TENSORS)
        for name, expected in TENSORS.items():
            value = checkpoint[name]
            assert value.dtype == expected.dtype and torch.equal(value, expected), name
            assert value.is_contiguous()
    assert headers(ref) == checkpoint.tensors


@pytest.mark.parametrize("write", KINDS)
def test_some_rows_of_a_tensor_are_read(tmp_path, write):
    with Checkpoint(folder_with(tmp_path, write)) as checkpoint:
        for name in ("z.f32", "a.bf16", "b.f64", "ids.i64"):
            for start, stop in ((0, 2), (1, 3), (2, None), (0, 100), (3, 4)):
                assert torch.equal(checkpoint.read(name, start, stop), TENSORS[name][start:stop]), (name, start)


def test_a_tensor_that_is_not_there_is_named(tmp_path):
    with Checkpoint(folder_with(tmp_path, single)) as checkpoint, pytest.raises(NotFound, match="no tensor other"):
        checkpoint.read("other")


def test_safetensors_come_before_pickles(tmp_path):
    def both(folder):
        single(folder)
        (folder / "pytorch_model.bin").write_bytes(b"never read")

    ref = folder_with(tmp_path, both)
    assert ref.weight_files() == ["model.safetensors"]


def test_hashes_are_those_of_all_weight_files(tmp_path):
    ref = folder_with(tmp_path, sharded)
    assert weight_hashes(ref) == {
        name: sha256_of(ref.folder / name)
        for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    }


# --- files that are not right -------------------------------------------------------------------------------------


def damage(path, part):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])


@pytest.mark.parametrize("write", [single, sharded])
@pytest.mark.parametrize("part", [0, 0.1, 0.9])
def test_a_truncated_file_is_refused_by_its_name(tmp_path, write, part):
    ref = folder_with(tmp_path, write)
    name = ref.weight_files()[-1]
    damage(ref.folder / name, part)
    with pytest.raises(BadFile, match=rf"model: {name} is truncated or corrupt.*\n.*again"):
        Checkpoint(ref)


@pytest.mark.parametrize("write", [pickled, pickled_the_old_way])
def test_a_damaged_pickle_is_refused_by_its_name_wherever_the_damage_is(tmp_path, write):
    ref = folder_with(tmp_path, write)
    path = ref.folder / "pytorch_model.bin"
    content = path.read_bytes()
    random = Random(0)
    damaged = [content[:size] for size in range(0, len(content), len(content) // 60)]
    damaged += [random.randbytes(random.randint(1, 60)) for _ in range(60)]
    for bad in damaged:
        path.write_bytes(bad)
        with pytest.raises((BadFile, UnsafeFile), match=r"model: pytorch_model\.bin is"):
            Checkpoint(ref)
    for part in (0, 0.5, 0.97):
        path.write_bytes(content[: int(len(content) * part)])
        with pytest.raises(BadFile, match=r"pytorch_model\.bin is truncated or corrupt \(.+\)"):
            Checkpoint(ref)


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", b"\x00" * 64, b"<html>"],
)
@pytest.mark.parametrize("filename", ["model.safetensors", "pytorch_model.bin"])
def test_a_file_of_something_else_is_refused(tmp_path, content, filename):
    ref = folder_with(tmp_path, lambda folder: (folder / filename).write_bytes(content))
    with pytest.raises(BadFile, match=f"{filename} is truncated or corrupt"):
        Checkpoint(ref)


@pytest.mark.parametrize("filename", ["model.safetensors", "pytorch_model.bin"])
def test_what_git_leaves_of_a_large_file_is_named(tmp_path, filename):
    content = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n"
    ref = folder_with(tmp_path, lambda folder: (folder / filename).write_bytes(content))
    with pytest.raises(BadFile, match=f"{filename} is a pointer of Git LFS") as error:
        Checkpoint(ref)
    assert "git lfs pull" in error.value.fix


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ([], "holds a list, and no JSON object"),
        ({}, "has no weight_map"),
        ({"weight_map": {}}, "has no weight_map"),
        ({"weight_map": ["model.safetensors"]}, "has no weight_map"),
        ({"weight_map": {"a": 3}}, "has no weight_map"),
        ({"weight_map": {"a": "model-00001-of-00002.safetensors"}}, "has no model-00001-of-00002.safetensors, which"),
        ({"weight_map": {"a": "../secret.safetensors"}}, "has no ../secret.safetensors, which"),
    ],
)
def test_an_index_that_does_not_say_where_tensors_are_is_refused(tmp_path, index, words):
    write = lambda folder: (folder / "model.safetensors.index.json").write_text(json.dumps(index))  # noqa: E731
    with pytest.raises((BadFile, NotFound)) as error:
        Checkpoint(folder_with(tmp_path, write))
    assert words in error.value.what and error.value.fix


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "b": {"dtype": "F32", "shape": [1]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in "ab"},
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, header):
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + b"\0" * 8
    ref = folder_with(tmp_path, lambda folder: (folder / "model.safetensors").write_bytes(content))
    with pytest.raises(BadFile, match="truncated or corrupt"):
        Checkpoint(ref)


class Evil:
    """Unpickled, it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("inside", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(tmp_path, old, inside):
    trace = tmp_path / "ran"

    def write(folder):
        content = {"a": torch.ones(2), "b": Evil(trace)} if inside else Evil(trace)
        torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not old)

    ref = folder_with(tmp_path, write)
    with pytest.raises(
        UnsafeFile, match=r"pytorch_model\.bin is a pickle with more than plain weights.*\n.*safetensors"
    ):
        Checkpoint(ref)
    assert not trace.exists()


def test_the_payload_of_the_test_above_works(tmp_path):
    buffer = io.BytesIO()
    pickle.dump(Evil(tmp_path / "ran"), buffer)
    pickle.loads(buffer.getvalue()).close()
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [[torch.ones(2)], {"a": 3}, {"model": {"a": torch.ones(2)}}, torch.ones(2)])
def test_a_pickle_that_is_no_dictionary_of_tensors_is_refused(tmp_path, content):
    ref = folder_with(tmp_path, lambda folder: torch.save(content, folder / "pytorch_model.bin"))
    with pytest.raises(BadFile, match=r"pytorch_model\.bin is not a dictionary of tensors"):
        Checkpoint(ref)


def test_a_zip_that_is_no_checkpoint_is_refused(tmp_path):
    def write(folder):
        with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as file:
            file.writestr("hello.txt", "hello")

    with pytest.raises((BadFile, UnsafeFile), match=r"pytorch_model\.bin"):
        Checkpoint(folder_with(tmp_path, write))


def test_a_dtype_that_is_not_known_is_refused_by_its_name(tmp_path):
    def write(folder):
        save_file({"a": torch.ones(2, 2, dtype=torch.complex64)}, folder / "model.safetensors")

    with pytest.raises(BadFile, match=r"model\.safetensors has tensors of dtype C64"):
        Checkpoint(folder_with(tmp_path, write))


def test_a_file_that_shrinks_while_it_is_open_is_noticed(tmp_path):
    ref = folder_with(tmp_path, single)
    with Checkpoint(ref) as checkpoint:
        (ref.folder / "model.safetensors").write_bytes(b"short")
        with pytest.raises(BadFile, match="ended in the middle of"):
            checkpoint.read("z.f32")


# --- writing ------------------------------------------------------------------------------------------------------


def write_all(folder, tensors, max_shard_size=10**9, rows=None):
    """Writes as a merge does: tensors in the plan's order, in pieces of `rows` rows."""
    shards = plan_shards(infos(tensors), max_shard_size)
    hashes = {}
    for shard in shards:
        writer = ShardWriter(folder, shard)
        for name in shard.tensors:
            value = tensors[name]
            pieces = value.split(rows) if rows and value.ndim and len(value) else [value]
            for piece in pieces:
                writer.append(piece)
        hashes[shard.filename] = writer.close()
    return shards, hashes


@pytest.mark.parametrize("rows", [None, 1, 3])
def test_the_bytes_equal_those_of_save_file(tmp_path, rows):
    tensors = {
        **TENSORS,
        **{f"more.{d}": torch.ones(3, 2).to(getattr(torch, d)) for d in ("int8", "int16", "float8_e4m3fn", "uint16")},
    }
    shards, hashes = write_all(tmp_path, tensors, rows=rows)
    save_file(tensors, tmp_path / "reference", metadata={"format": "pt"})
    assert [shard.filename for shard in shards] == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "reference").read_bytes()
    assert hashes == {"model.safetensors": sha256_of(tmp_path / "reference")}


def test_a_tensor_that_is_not_contiguous_is_written_as_its_values(tmp_path):
    turned = {"a": torch.arange(6.0).reshape(2, 3).T}
    write_all(tmp_path, turned)
    assert torch.equal(load_file(tmp_path / "model.safetensors")["a"], turned["a"])


@pytest.mark.parametrize("limit", [1, 100, 250, 10**6])
def test_shards_are_as_large_as_allowed_and_hold_everything(tmp_path, limit):
    tensors = {name: value for name, value in TENSORS.items() if value.numel()}
    shards, _ = write_all(tmp_path, tensors, limit)
    assert (len(shards) > 1) == (limit < 10**6)
    assert all(shard.nbytes <= limit or len(shard.tensors) == 1 for shard in shards)
    loaded = {}
    for shard in shards:
        own = load_file(tmp_path / shard.filename)
        save_file(own, tmp_path / "reference", metadata={"format": "pt"})
        assert (tmp_path / "reference").read_bytes() == (tmp_path / shard.filename).read_bytes()
        assert not own.keys() & loaded.keys()
        loaded |= own
    assert all(torch.equal(loaded[name], value) for name, value in tensors.items())
    assert loaded.keys() == tensors.keys()
    index = index_of(shards)
    assert index["weight_map"] == {name: shard.filename for shard in shards for name in shard.tensors}
    assert index["metadata"] == {
        "total_parameters": sum(value.numel() for value in tensors.values()),
        "total_size": sum(value.nbytes for value in tensors.values()),
    }
    if len(shards) > 1:
        count = len(shards)
        assert [s.filename for s in shards] == [
            f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)
        ]


def test_a_shard_that_two_write_at_once_piece_by_piece_has_the_bytes_of_one(tmp_path):
    tensors = {name: torch.randn(5, 3, generator=torch.Generator().manual_seed(ord(name))) for name in "abcd"}
    (tmp_path / "alone").mkdir()
    [shard], _ = write_all(tmp_path / "alone", tensors)
    SharedShard.lay(tmp_path, shard)
    first, second = SharedShard(tmp_path, shard), SharedShard(tmp_path, shard)
    # Neither in the order of the file, and one between the pieces of the other.
    for place in range(0, 5, 2):
        first.append("d", tensors["d"][place : place + 2])
        second.append("a", tensors["a"][place : place + 2])
    second.append("c", tensors["c"])
    first.append("b", tensors["b"])
    first.close()
    second.close()
    assert (tmp_path / shard.filename).read_bytes() == (tmp_path / "alone" / shard.filename).read_bytes()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_shard_with_too_few_or_too_many_bytes_is_no_shard(tmp_path, count):
    shard = plan_shards({"a": TensorInfo("F32", (2, 2))}, 100)[0]
    writer = ShardWriter(tmp_path, shard)
    for _ in range(count):
        writer.append(torch.ones(1, 2))
    with pytest.raises(ValueError, match="bytes were not written"):
        writer.close()


def test_dtypes_have_the_same_name_both_ways():
    for name in ("F64", "F32", "BF16", "F16", "I64", "U8", "BOOL", "F8_E4M3"):
        assert dtype_name(torch_dtype(name)) == name
