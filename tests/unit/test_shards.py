"""Shards: samples in a file and back, bit for bit; files that are whole or not taken for whole."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import tv_tensors

from penstock import DamagedShardError, NotStorableError
from penstock.shards import (
    EncodedImage,
    Layout,
    Pixels,
    Shard,
    clear_leftovers,
    encode,
    write_atomically,
    write_shard,
)
from penstock.shards.packing import pack, unpack
from penstock.shards.samples import opened
from tests.equality import difference


class Pair(NamedTuple):
    left: Any
    right: Any


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    assert difference(found, expected, where) is None


def stored(path: Path, samples: list[Any], **options: Any) -> Shard:
    batch, layout = encode(samples, **options)
    write_shard(path, batch, layout)
    return Shard(path, verify=True)


def columns(shard: Shard) -> dict[str, str]:
    return {field.name: str(field.type) for field in shard.batch.schema}


def image(mode: str = "RGB", size: tuple[int, int] = (7, 5), seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    made = Image.fromarray(pixels)
    return made.quantize(16) if mode == "P" else made.convert(mode)


DTYPES = [
    *("uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64", "bool"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "float8_e4m3fn"),
]
GENERATOR = torch.Generator().manual_seed(0)


def tensor(dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Any bits, but for bool."""
    kind = getattr(torch, dtype)
    size = int(np.prod(shape)) * kind.itemsize
    raw = torch.randint(0, 2 if dtype == "bool" else 256, (size,), dtype=torch.uint8, generator=GENERATOR)
    return raw.view(kind).reshape(shape) if size else torch.empty(shape, dtype=kind)


SAMPLES: dict[str, list[Any]] = {
    "numbers": [(1, 2.5, True, None), (-(2**63), float("inf"), False, None)],
    "nothing": [None, None],
    "texts": ["", "a", "ü☃😀"],
    "bytes": [b"", b"\0\xff"],
    "dicts": [{"a": {"b": [1, (2, "x")]}, 3: {}}] * 2,
    "named": [Pair(1, Pair("x", [2.0])), Pair(2, Pair("y", [3.0]))],
    "sometimes None": [("a", 1, 0.5, b"x"), (None, None, None, None), ("b", 2, 1.5, b"")],
    "sometimes no tensor": [torch.ones(2), None],
    "of several kinds": [1, 2.0, "three", None, [4], {"five": torch.ones(2)}],
    "lists of many lengths": [{"x": 1, "boxes": [1] * n} for n in range(4)],
    "large numbers": [2**63, -(2**100), 7],
    "broken text": ["\udcff", "plain"],
    "NumPy's numbers": [
        (np.float32(1.5), np.int64(-1), np.bool_(True)),
        (np.float32(2), np.int64(1), np.bool_(False)),
    ],
    "odd NumPy": [np.array(["a", "bcd"]), np.array(["x"]), np.array([1, 2], dtype=">i4")],
    "structured": [np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])],
    "shapes that differ": [torch.arange(n * 3.0).reshape(n, 3) for n in (2, 0, 5)],
    "arrays whose shapes differ": [np.arange(n, dtype=np.int16) for n in (0, 3, 1)],
    "booleans": [torch.tensor([True, False]), torch.tensor([False, True])],
    "booleans of NumPy": [np.array([True, False]), np.array([False, True])],
    "one": [7],
    "empty containers": [((), [], {}), ((), [], {})],
    "images": [image(seed=n) for n in range(3)],
    "images of several sizes": [(image(size=(3 + n, 4)), n) for n in range(3)],
    "image or tensor": [(image(), 1), (torch.ones(3), 2)],
    "bounding boxes": [
        {
            "image": tv_tensors.Image(torch.ones(3, 4, 5)),
            "boxes": tv_tensors.BoundingBoxes(
                torch.ones(n, 4), format=tv_tensors.BoundingBoxFormat.CXCYWH, canvas_size=(4, 5 + n)
            ),
        }
        for n in range(1, 4)
    ],
    **{
        mode: [image(mode), image(mode, (2, 3))]
        for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "F", "I", "I;16")
    },
}
for dtype in DTYPES:
    SAMPLES[f"torch.{dtype}"] = [tensor(dtype, (3, 2)), tensor(dtype, (3, 2))]
    SAMPLES[f"torch.{dtype}, no dimension"] = [tensor(dtype, ()), tensor(dtype, ())]
    SAMPLES[f"torch.{dtype}, shapes"] = [tensor(dtype, (1, 2)), tensor(dtype, (3, 2))]


class TestBackAgain:
    def test_bit_for_bit(self, tmp_path: Path) -> None:
        for name, samples in SAMPLES.items():
            shard = stored(tmp_path / "x.arrow", samples)
            assert_same([shard[row] for row in range(len(shard))], samples, name)

    def test_bit_for_bit_when_packed(self) -> None:
        for name, samples in SAMPLES.items():
            assert_same(unpack(pack([opened(sample) for sample in samples])), samples, name)

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
                lambda inner: (
                    st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
                ),
                max_leaves=6,
            ),
            min_size=1,
            max_size=4,
        )
    )
    def test_any_plain_samples(self, tmp_path: Path, samples: list[Any]) -> None:
        shard = stored(tmp_path / "x.arrow", samples)
        assert_same([shard[row] for row in range(len(shard))], samples)

    def test_a_tensor_that_is_not_contiguous(self, tmp_path: Path) -> None:
        samples = [torch.arange(6).reshape(2, 3).T, torch.arange(6).reshape(3, 2)]
        assert_same(stored(tmp_path / "x.arrow", samples)[0], samples[0].contiguous())
        negated = torch.tensor([1 + 2j, 3j]).conj().imag
        assert stored(tmp_path / "y.arrow", [negated])[0].tolist() == [-2, -3]
        odd = torch.tensor([1 + 2j]).conj().imag  # one number, with a stride of two
        assert stored(tmp_path / "y.arrow", [odd, 1])[0].tolist() == odd.tolist()

    def test_a_palette_and_the_info_of_an_image(self, tmp_path: Path) -> None:
        made = image("P")
        made.info.update(transparency=3, dpi=(72, 72), what=object())
        shard = stored(tmp_path / "x.arrow", [made])
        back = shard[0]
        del made.info["what"]
        assert back == made
        assert back.convert("RGBA") == made.convert("RGBA")

    def test_a_file_that_pillow_has_open(self, tmp_path: Path) -> None:
        image().save(tmp_path / "x.jpg")
        with Image.open(tmp_path / "x.jpg") as opened:
            back = stored(tmp_path / "x.arrow", [opened])[0]
            assert type(back) is Image.Image
            assert (back.tobytes(), back.size, back.info) == (opened.tobytes(), opened.size, opened.info)

    @pytest.mark.parametrize(
        ("sample", "words"),
        [
            (object(), "an object"),
            ([{1, 2}, print], "builtin_function_or_method"),
            (torch.ones(1, requires_grad=True), "detach"),
            (torch.ones(1).to_sparse(), "sparse"),
            (torch.nn.Parameter(torch.ones(1)), "subclass"),
            (np.array([object()]), "numpy.ndarray"),
            ({(1, 2): 3}, "a key of a dict"),
            ({"a": Path("x")}, "Path"),
        ],
        ids=lambda value: value if isinstance(value, str) else type(value).__name__,
    )
    def test_what_is_no_plain_data_is_refused(self, sample: Any, words: str) -> None:
        with pytest.raises(NotStorableError, match=words):
            encode([sample])

    def test_a_class_that_nobody_can_find_is_refused(self) -> None:
        class Local(NamedTuple):
            x: int

        with pytest.raises(NotStorableError, match="define it in a module"):
            encode([Local(1)])
        with pytest.raises(NotStorableError, match="define it in a module"):
            encode([[1], Local(1)])

    def test_reading_calls_nothing_else(self) -> None:
        with pytest.raises(pickle.UnpicklingError, match="which isn't plain data"):
            unpack(pickle.dumps(os.getcwd))


class TestColumns:
    def test_they_are_plain(self, tmp_path: Path) -> None:
        sample = {
            "image": torch.ones(3, 4, 5, dtype=torch.uint8),
            "label": 1,
            "path": "x",
            "w": np.float32(1),
        }
        assert columns(stored(tmp_path / "x.arrow", [sample])) == {
            "image": "fixed_size_list<item: fixed_size_list<item: fixed_size_list<item: uint8>[5]>[4]>[3]",
            "label": "int64",
            "path": "large_string",
            "w": "float",
        }

    def test_the_names(self, tmp_path: Path) -> None:
        samples = [(torch.ones(n), {"a": [n], "b": Pair(1, 2)}) for n in range(2)]
        names = ["0", "0.shape", "1.a.0", "1.b.left", "1.b.right"]
        assert list(columns(stored(tmp_path / "x.arrow", samples))) == names
        clashing = [{"a": torch.ones(1), "a.shape": 1, "a.": {"": 1}, "": 3}]
        assert len(set(columns(stored(tmp_path / "y.arrow", clashing)))) == 4
        pairs = (
            [(Pixels(torch.ones(1, 1, 3)), 1)],
            [{"": (EncodedImage(b""), 1), "path": "x"}],
            [Pixels(torch.ones(1, 1, 3))],
        )
        found = [list(columns(stored(tmp_path / "z.arrow", pair))) for pair in pairs]
        assert found == [["image", "label"], ["image", "label", "path"], ["image"]]

    @pytest.mark.parametrize(
        "second",
        [torch.rand(2, 3, 4), torch.rand(5, 1, 3), torch.rand(2, 3, 4).double()],
        ids=["of one shape", "of several", "of several dtypes"],
    )
    def test_pixels_come_back_with_their_channels_first(self, second: torch.Tensor, tmp_path: Path) -> None:
        images = [torch.rand(2, 3, 4), second]
        shard = stored(tmp_path / "x.arrow", [(Pixels(image), 7) for image in images])
        for (found, _), image in zip(shard, images, strict=True):
            assert found.dtype is image.dtype
            assert torch.equal(found, image.permute(2, 0, 1))
            assert found.stride() == image.permute(2, 0, 1).stride()

    def test_a_wider_layout(self, tmp_path: Path) -> None:
        _, wide = encode([(torch.ones(n), n) for n in range(1, 3)])
        narrow = [(torch.ones(5), 1)]
        batch, layout = encode(narrow, layout=wide)
        assert layout == wide
        assert Layout.from_json(layout.to_json()) == layout
        write_shard(tmp_path / "x.arrow", batch, layout)
        assert_same(Shard(tmp_path / "x.arrow")[0], narrow[0])

    @pytest.mark.parametrize("second", ["numbers", "dicts", "images", "torch.float32"])
    def test_samples_of_any_two_kinds(self, second: str, tmp_path: Path) -> None:
        for name, samples in SAMPLES.items():
            _, layout = encode(samples)
            shard = stored(tmp_path / "x.arrow", SAMPLES[second], layout=layout)
            assert_same([shard[row] for row in range(len(shard))], SAMPLES[second], name)


class TestReading:
    def test_tensors_view_the_file(self, tmp_path: Path) -> None:
        shard = stored(tmp_path / "x.arrow", [torch.arange(1000), torch.arange(1000)])
        assert shard[0].data_ptr() == shard[0].data_ptr()
        assert shard[1].data_ptr() - shard[0].data_ptr() == 8000
        before = (tmp_path / "x.arrow").read_bytes()
        shard[0].add_(1)
        assert (tmp_path / "x.arrow").read_bytes() == before
        assert_same(Shard(tmp_path / "x.arrow")[0], torch.arange(1000))

    def test_a_tensor_outlives_its_shard(self, tmp_path: Path) -> None:
        kept = stored(tmp_path / "x.arrow", [torch.arange(1000)])[0]
        (tmp_path / "x.arrow").unlink()
        assert_same(kept, torch.arange(1000))

    def test_no_descriptor_is_kept(self, tmp_path: Path) -> None:
        before = len(os.listdir("/proc/self/fd"))
        shards = [stored(tmp_path / f"{n}.arrow", [n]) for n in range(20)]
        assert len(os.listdir("/proc/self/fd")) == before
        assert [shard[0] for shard in shards] == list(range(20))

    def test_a_row_that_is_not_there(self, tmp_path: Path) -> None:
        shard = stored(tmp_path / "x.arrow", [1, 2])
        with pytest.raises(IndexError):
            shard[2]
        with pytest.raises(IndexError):
            shard[-1]

    def test_about(self, tmp_path: Path) -> None:
        batch, layout = encode([1])
        write_shard(tmp_path / "x.arrow", batch, layout, {"why": ["so"]}, {b"other": b"yes"})
        shard = Shard(tmp_path / "x.arrow")
        assert shard.about == {"why": ["so"]}
        assert shard.batch.schema.metadata[b"other"] == b"yes"

    def test_the_same_samples_make_the_same_bytes(self, tmp_path: Path) -> None:
        for name in "a", "b":
            stored(tmp_path / name, SAMPLES["bounding boxes"])
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


class TestDamage:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "x.arrow"
        stored(path, [(torch.arange(20), f"sample {n}") for n in range(20)])
        return path

    def test_a_file_cut_short_anywhere(self, path: Path) -> None:
        whole = path.read_bytes()
        for length in (0, 1, 15, 16, 17, len(whole) // 2, len(whole) - 16, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(DamagedShardError, match="cut short") as caught:
                Shard(path)
            assert caught.value.path == str(path)

    def test_a_bit_that_flipped_anywhere(self, path: Path) -> None:
        whole = path.read_bytes()
        for place in range(0, len(whole), 97):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            with pytest.raises(DamagedShardError):
                Shard(path, verify=True)

    def test_something_added(self, path: Path) -> None:
        with path.open("ab") as file:
            file.write(bytes(100))
        with pytest.raises(DamagedShardError, match="cut short, or no shard"):
            Shard(path)


@contextmanager
def files_no_larger_than(nbytes: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


KILLED = """
import os, signal, sys
from pathlib import Path
from penstock.shards import write_atomically
def write(file):
    file.write(bytes(100_000))
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
write_atomically(Path(sys.argv[1]), write)
"""


class TestWriting:
    def test_a_disk_that_is_full(self, tmp_path: Path) -> None:
        path = tmp_path / "x.arrow"
        path.write_bytes(b"what was there")
        with files_no_larger_than(10_000), pytest.raises(OSError) as caught:  # noqa: PT011
            stored(path, [torch.zeros(100_000)])
        assert caught.value.errno == errno.EFBIG
        assert path.read_bytes() == b"what was there"
        assert os.listdir(tmp_path) == ["x.arrow"]

    def test_a_writer_that_is_killed(self, tmp_path: Path) -> None:
        done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "x")], check=False)
        assert done.returncode == -signal.SIGKILL
        (left,) = os.listdir(tmp_path)
        assert left.startswith(".x.")
        clear_leftovers(tmp_path)
        assert os.listdir(tmp_path) == []

    def test_what_is_there_is_replaced(self, tmp_path: Path) -> None:
        for content in b"one", b"two":
            write_atomically(tmp_path / "x", lambda file, content=content: file.write(content) and None)
        assert (tmp_path / "x").read_bytes() == b"two"


def test_a_file_whose_name_is_no_utf8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.arrow"))
    batch, layout = encode([torch.arange(3)])
    write_shard(path, batch, layout, {})
    assert torch.equal(Shard(path)[0], torch.arange(3))


def test_what_is_no_file_is_an_error_of_the_systems(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        Shard(tmp_path)


@pytest.mark.parametrize("value", [np.str_(""), np.bytes_(b""), np.str_("x")], ids=repr)
def test_texts_of_numpys_come_back(value: Any) -> None:
    back = unpack(pack(value))
    assert (back, type(back)) == (value, type(value))
