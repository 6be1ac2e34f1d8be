"""Finding a dataset's transforms, proving what is the same every time, and cutting there."""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.datasets import FakeData
from torchvision.transforms import v2

import penstock
from penstock.errors import NotRepeatableError
from penstock.pipeline import Study, same, study, why_random
from penstock.pipeline.proof import Generators
from tests.equality import difference


class Pictures(Dataset[Any]):
    """Small tensors or Pillow images, and a label."""

    def __init__(self, transform: Any, size: int = 12, pillow: bool = False) -> None:
        self.transform, self.size, self.pillow = transform, size, pillow

    def __len__(self) -> int:
        return self.size

    def picture(self, index: int) -> Any:
        pixels = (np.arange(3 * 16 * 12).reshape(16, 12, 3) * (index + 3) % 251).astype(np.uint8)
        return Image.fromarray(pixels) if self.pillow else torch.from_numpy(pixels).permute(2, 0, 1)

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.picture(index)), index


class TwoViews(Pictures):
    def __getitem__(self, index: int) -> Any:
        picture = self.picture(index)
        return {"views": [self.transform(picture), self.transform(picture)], "label": index}


class WithMask(Pictures):
    def __getitem__(self, index: int) -> Any:
        mask = tv_tensors.Mask(torch.full((16, 12), index))
        picture, mask = self.transform(tv_tensors.Image(self.picture(index)), mask)
        return picture, mask, index


class Listed(Pictures):
    def __getitem__(self, index: int) -> Any:
        value = self.picture(index)
        for step in self.transform:
            value = step(value)
        return value


class OfTheClass(Pictures):
    transform = v1.Compose([v1.Resize(9), v1.RandomCrop(5)])

    def __init__(self) -> None:
        self.size, self.pillow = 12, False


def darker(value: Any) -> Any:
    return value // 2


def noisy(value: torch.Tensor) -> torch.Tensor:
    return value + torch.randint(0, 9, (1,))


def pythons_noise(value: torch.Tensor) -> torch.Tensor:
    return value + random.randrange(9)


def of_the_system(value: torch.Tensor) -> torch.Tensor:
    return value + os.urandom(1)[0]


def in_place(value: torch.Tensor) -> torch.Tensor:
    value[:, 0] = torch.randint(0, 255, (1,))
    return value


CUTS: dict[str, tuple[Dataset[Any], int | None]] = {
    "v1": (Pictures(v1.Compose([v1.Resize(9), v1.CenterCrop(8), v1.RandomCrop(5)])), 2),
    "v1 of Pillow": (
        Pictures(v1.Compose([v1.Resize(9), v1.ColorJitter(0.5), v1.ToTensor()]), pillow=True),
        1,
    ),
    "v2": (Pictures(v2.Compose([v2.Resize(9), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32)])), 1),
    "nested": (Pictures(v1.Compose([v1.Compose([v1.Resize(9), v1.CenterCrop(8)]), v1.RandomCrop(5)])), 2),
    "random inside": (Pictures(v1.Compose([v1.Resize(9), v1.RandomApply([v1.CenterCrop(4)])])), 1),
    "sequential": (Pictures(torch.nn.Sequential(v1.Resize(9), v1.RandomCrop(5))), 1),
    "list": (Listed([darker, darker, noisy]), 2),
    "tuple": (Listed((darker, noisy, darker)), 1),
    "random from the first step": (Pictures(v1.Compose([v1.RandomCrop(5), v1.Resize(9)])), 0),
    "one step": (Pictures(v1.RandomCrop(5)), 0),
    "a function": (Pictures(noisy), 0),
    "found by running": (Pictures(v1.Compose([darker, pythons_noise, darker])), 1),
    "in place": (Pictures(v1.Compose([darker, torch.clone, in_place])), 2),
    "two views": (TwoViews(v1.Compose([v1.Resize(9), v1.RandomCrop(5)])), 1),
    "image and mask": (WithMask(v2.Compose([v2.Resize(9), v2.RandomCrop(5), v2.RandomHorizontalFlip()])), 1),
    "subset": (Subset(Pictures(v1.Compose([darker, noisy])), [3, 1, 2]), 1),
    "torchvision's own": (
        FakeData(9, (3, 12, 12), transform=v1.Compose([v1.Resize(9), v1.RandomCrop(5)])),
        1,
    ),
    "of the class": (OfTheClass(), 1),
    "nothing random": (Pictures(v1.Compose([v1.Resize(9), v1.CenterCrop(8)])), None),
    "no transform": (Pictures(torch.clone), None),
}
"""A dataset, and how many steps are kept; None for whole samples."""


def seed(value: int) -> None:
    torch.manual_seed(value)
    random.seed(value)
    np.random.seed(value)


def assert_equal_samples(dataset: Any, found: Study) -> None:
    """The sample in one go, and in two parts of which the first is made under another seed."""
    for index in range(len(dataset)):
        seed(index)
        whole = dataset[index]
        seed(1000 + index)
        values, marks = found.cut.start(index)
        seed(index)
        parts = found.cut.finish(values, marks)
        assert difference(whole, parts) is None


@pytest.mark.parametrize("name", CUTS)
def test_it_is_cut_before_the_first_random_step(name: str) -> None:
    dataset, kept = CUTS[name]
    found = study(dataset)
    steps = [steps for _, steps in found.pipelines]
    assert found.whole is (kept is None)
    assert all([step.kept for step in each] == [n < kept for n in range(len(each))] for each in steps)
    assert_equal_samples(dataset, found)


def test_the_dataset_stays_as_it_is() -> None:
    transform = v1.Compose([darker, noisy])
    inner = Pictures(transform)
    dataset = ConcatDataset([Subset(inner, [1, 2]), inner])
    study(dataset).cut.start(1)
    assert inner.transform is transform
    assert vars(inner) == vars(Pictures(transform))
    assert dataset.datasets[1] is inner


def test_each_part_of_several_datasets_has_its_own_cut() -> None:
    one, other = Pictures(v1.Compose([darker, noisy])), Pictures(v1.Compose([noisy, darker]))
    dataset: Any = ConcatDataset([one, other])
    found = study(dataset)
    assert {where: [step.kept for step in steps] for where, steps in found.pipelines} == {
        "dataset.datasets[0].transform": [True, False],
        "dataset.datasets[1].transform": [False, False],
    }
    assert_equal_samples(dataset, found)


def test_parts_may_be_wrapped_differently() -> None:
    one, other = Pictures(v1.Compose([darker, noisy])), Pictures(v1.Compose([darker, darker, noisy]))
    dataset: Any = ConcatDataset([one, Subset(other, [2, 0])])
    found = study(dataset)
    assert {where: [step.kept for step in steps] for where, steps in found.pipelines} == {
        "dataset.datasets[0].transform": [True, False],
        "dataset.datasets[1].dataset.transform": [True, True, False],
    }
    assert "of which the first step is kept:" in found.explain()
    assert_equal_samples(dataset, found)


@pytest.mark.parametrize(
    "use",
    [
        lambda x: x // 2,
        lambda x: -x,
        lambda x: abs(x),
        lambda x: x % 2,
        lambda x: x**2,
        lambda x: x & 1,
        lambda x: torch.from_numpy(x),
        lambda x: {torch.Tensor: x}[type(x)],
        lambda x: x if isinstance(x, torch.Tensor | np.ndarray) else 1 / 0,
    ],
)
def test_work_on_what_the_transform_gives_is_noticed(use: Callable[[Any], Any]) -> None:
    class Working(Pictures):
        def __getitem__(self, index: int) -> Any:
            picture, label = super().__getitem__(index)
            return use(picture), label

    numpy_wanted = "from_numpy" in use.__code__.co_names
    steps = [darker, noisy, (lambda x: x.numpy()) if numpy_wanted else noisy]
    with pytest.raises(NotRepeatableError, match="the dataset works on what its transform gives it"):
        study(Working(v1.Compose(steps)))


class Sizes(Pictures):
    """A crop to 16 draws for the sixth one only, which the proof may miss."""

    def picture(self, index: int) -> Any:
        return torch.rand(3, 20, 20) if index == 5 else torch.zeros(3, 16, 16)


class Outer(Dataset[Any]):
    def __init__(self, dataset: Any, transform: Any) -> None:
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        picture, label = self.dataset[index]
        return self.transform(picture), label


class Quarters(Sizes):
    """Works on what its transform gives."""

    def __getitem__(self, index: int) -> Any:
        picture, label = super().__getitem__(index)
        return picture / 4, label


CROP = v1.Compose([darker, v1.RandomCrop(16)])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Outer(Sizes(CROP, 64), v1.Compose([darker, noisy])),
        lambda: Outer(penstock.cache(Sizes(CROP, 64), memory=1 << 20), v1.Compose([darker, noisy])),
        lambda: ConcatDataset([Pictures(v1.Compose([darker, noisy])), Subset(Quarters(CROP, 64), range(64))]),
    ],
    ids=["around", "around a cache", "beside"],
)
def test_what_is_random_by_type_is_not_kept_where_another_is_cut(make: Callable[[], Any]) -> None:
    with pytest.raises(NotRepeatableError, match="would be kept, and is random"):
        study(make())


def test_a_cache_that_ends_at_random_is_not_cached_whole() -> None:
    cached = penstock.cache(Sizes(CROP, 64), memory=1 << 20)
    with pytest.raises(NotRepeatableError, match="or is cached already"):
        penstock.cache(Subset(cached, range(64)), memory=1 << 20)


def test_not_even_by_hand() -> None:
    with pytest.raises(NotRepeatableError, match=r"step 1 of dataset.transform \(RandomCrop\) is random"):
        study(Sizes(v1.Compose([darker, v1.RandomCrop(16), darker, noisy]), 64), until=3)


def test_a_transform_that_is_not_called_may_be_random() -> None:
    class Two(Pictures):
        def __init__(self) -> None:
            super().__init__(v1.Compose([darker, noisy]))
            self.for_training = CROP

    dataset = Two()
    found = study(dataset)
    assert [where for where, _ in found.pipelines] == ["dataset.transform"]
    assert_equal_samples(dataset, found)


class Halves(Pictures):
    """Works on what its transform gives."""

    def __getitem__(self, index: int) -> Any:
        picture, label = super().__getitem__(index)
        return picture / 2, label


@pytest.mark.parametrize(
    ("other", "until"),
    [(Halves(v1.Compose([darker])), None), (Pictures(v1.Compose([darker, darker])), "noisy")],
)
def test_a_part_that_cannot_be_cut_there_stays_whole(other: Any, until: str | None) -> None:
    dataset: Any = ConcatDataset([Pictures(v1.Compose([darker, noisy])), Subset(other, [2, 0])])
    found = study(dataset, until)
    assert [where for where, _ in found.pipelines] == ["dataset.datasets[0].transform"]
    assert_equal_samples(dataset, found)


def test_a_number_of_numpys_is_a_number() -> None:
    found = study(Pictures(v1.Compose([darker, darker, noisy])), np.int64(1))  # type: ignore[arg-type]
    assert [step.kept for step in found.pipelines[0][1]] == [True, False, False]
    with pytest.raises(ValueError, match=r"until should be a step's number or name, but got 1.5"):
        study(Pictures(darker), 1.5)  # type: ignore[arg-type]


def test_the_outermost_transform_is_cut() -> None:
    class Wrapper(Pictures):
        def __init__(self, dataset: Any, transform: Any) -> None:
            super().__init__(transform)
            self.dataset = dataset

        def __getitem__(self, index: int) -> Any:
            picture, label = self.dataset[index]
            return self.transform(picture), label

    dataset = Wrapper(Pictures(v1.Compose([darker, darker])), v1.Compose([darker, noisy]))
    found = study(dataset)
    assert [where for where, _ in found.pipelines] == ["dataset.transform"]
    assert_equal_samples(dataset, found)


def test_a_cut_travels_with_its_dataset() -> None:
    dataset = Pictures(v1.Compose([darker, noisy]))
    found = study(dataset)
    copy, cut = pickle.loads(pickle.dumps((dataset, found.cut)))
    assert cut.dataset is copy
    seed(5)
    whole = copy[3]
    seed(5)
    assert difference(whole, cut.finish(*cut.start(3))) is None


def test_what_the_dataset_is_given_later_counts() -> None:
    dataset = Pictures(v1.Compose([darker, noisy]))
    found = study(dataset)
    dataset.pillow = False
    dataset.picture = lambda index: torch.full((3, 4, 4), index)  # type: ignore[method-assign]
    values, _ = found.cut.start(8)
    assert values[0].unique().tolist() == [4]


def test_until_cuts_by_name_and_by_number() -> None:
    dataset = Pictures(v1.Compose([v1.Resize(9), v1.CenterCrop(8), v1.RandomCrop(5)]))
    for until in ("CenterCrop", 1):
        found = study(dataset, until)
        assert [step.kept for step in found.pipelines[0][1]] == [True, False, False]
        assert_equal_samples(dataset, found)


def test_until_may_not_lie_behind_a_random_step() -> None:
    dataset = Pictures(v1.Compose([v1.Resize(9), v1.RandomCrop(5), v1.CenterCrop(4)]))
    with pytest.raises(NotRepeatableError, match=r"step 1 of dataset.transform \(RandomCrop\) is random"):
        study(dataset, "CenterCrop")


def test_until_that_is_no_step_tells_the_steps() -> None:
    dataset = Pictures(v1.Compose([v1.Resize(9), v1.RandomCrop(5)]))
    for until in ("Rotate", 7, -1):
        with pytest.raises(ValueError, match=r"dataset.transform has: 0 Resize, 1 RandomCrop"):
            study(dataset, until)


class DrawsFirst(Pictures):
    def picture(self, index: int) -> Any:
        return super().picture(index) + torch.randint(0, 2, (1,))


class DrawsInVain(Pictures):
    def picture(self, index: int) -> Any:
        return super().picture(index) + (torch.rand(1).item() < 1e-9)


class WorksOnIt(Pictures):
    def __getitem__(self, index: int) -> Any:
        return self.transform(self.picture(index)) + 1


class LooksAtIt(Pictures):
    def __getitem__(self, index: int) -> Any:
        picture = self.transform(self.picture(index))
        return picture + 1 if isinstance(picture, torch.Tensor) else picture


class DropsIt(Pictures):
    def __getitem__(self, index: int) -> Any:
        self.transform(self.picture(index))
        return index


class Counts(Pictures):
    seen = 0

    def __getitem__(self, index: int) -> Any:
        self.seen += 1
        return self.transform(self.picture(index)), self.seen


class HasEpochs(Pictures):
    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class Fails(Pictures):
    def __getitem__(self, index: int) -> Any:
        raise OSError("no such disk")


class Uncopied(Pictures):
    def __getitem__(self, index: int) -> Any:
        return self.transform(self.picture(index)), (number for number in range(index))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Uncopied, "what is to be kept can't be copied .TypeError: "),
        (DrawsFirst, "what dataset.transform is given isn't the same every time"),
        (DrawsInVain, "what dataset.transform is given isn't the same every time"),
        (WorksOnIt, "works on what its transform gives it"),
        (LooksAtIt, "made in two parts, a sample isn't what it is in one go"),
        (DropsIt, "isn't found in the sample"),
        (Counts, "isn't the same every time"),
        (HasEpochs, "set_epoch"),
        (Fails, "none of the 8 samples that were tried could be made: OSError"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_the_reason(kind: type[Pictures], reason: str) -> None:
    with pytest.raises(NotRepeatableError, match=reason):
        study(kind(v1.Compose([v1.RandomCrop(5)])))


def test_what_cannot_be_seeded_is_refused() -> None:
    with pytest.raises(NotRepeatableError, match="draws from something that can't be seeded"):
        study(Pictures(v1.Compose([darker, of_the_system])))


def test_bad_samples_are_left_out_of_the_proof() -> None:
    class SomeBad(Pictures):
        def picture(self, index: int) -> Any:
            if index % 2:
                raise OSError(index)
            return super().picture(index)

    assert len(study(SomeBad(v1.RandomCrop(5))).looks) == 4


class Stream(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter([1])


@pytest.mark.parametrize("dataset", [iter([1]), 5, Stream()])
def test_a_map_style_dataset_is_needed(dataset: Any) -> None:
    with pytest.raises(TypeError, match="map-style"):
        study(dataset)


def test_an_empty_dataset_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        study(Pictures(noisy, size=0))


class OpensLate(Pictures):
    file = None

    def picture(self, index: int) -> Any:
        if self.file is None:
            self.file = open(os.devnull)  # noqa: SIM115
        return super().picture(index)


def test_the_proof_leaves_nothing_in_this_process() -> None:
    dataset = OpensLate(v1.RandomCrop(5))
    state = torch.get_rng_state()
    study(dataset)
    assert dataset.file is None
    assert torch.equal(torch.get_rng_state(), state)


def test_a_dataset_that_ends_the_process_is_told_of() -> None:
    class Ends(Pictures):
        def picture(self, _: int) -> Any:
            os._exit(3)

    with pytest.raises(RuntimeError, match="exit code 3"):
        study(Ends(noisy))


def test_a_look_at_the_kept_part() -> None:
    found = study(
        Pictures(v1.Compose([darker, noisy]), size=3),
        look=lambda values, marks: (values[1], len(marks.places)),
    )
    assert found.looks == ((0, 1), (1, 1), (2, 1))


def test_what_was_found_is_explained() -> None:
    text = study(Pictures(v1.Compose([v1.Resize(9), v1.RandomCrop(5), noisy]))).explain()
    assert "dataset.transform, of which the first step is kept" in text
    assert "kept  Resize" in text
    assert "run   RandomCrop (random: torchvision's RandomCrop)" in text
    assert "run   noisy" in text


class RandomThing:
    def __call__(self, value: Any) -> Any:
        return value


class OwnV2(v2.Transform):
    def make_params(self, _: list[Any]) -> dict[str, Any]:
        return {"angle": float(torch.rand(1))}


@pytest.mark.parametrize(
    ("step", "is_random"),
    [
        (v1.RandomCrop(4), True),
        (v1.ColorJitter(), True),
        (v1.GaussianBlur(3), True),
        (v1.TrivialAugmentWide(), True),
        (v1.Normalize(0, 1), False),
        (v1.ToTensor(), False),
        (v1.Lambda(darker), False),
        (v2.RandomApply([v2.CenterCrop(3)]), True),
        (v2.JPEG((5, 90)), True),
        (v2.Compose([v2.CenterCrop(3), v2.RandomErasing()]), True),
        (v2.CenterCrop(3), False),
        (v2.ToDtype(torch.float32), False),
        (RandomThing(), True),
        (OwnV2(), True),
        (darker, False),
    ],
    ids=lambda value: type(value).__name__ if callable(value) else str(value),
)
def test_random_by_type(step: Any, is_random: bool) -> None:
    assert (why_random(step) is not None) is is_random


def test_albumentations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")
    A = pytest.importorskip("albumentations")

    class Arrays(Pictures):
        def __getitem__(self, index: int) -> Any:
            picture = self.picture(index).permute(1, 2, 0).contiguous().numpy()
            made = self.transform(image=picture, mask=picture[..., 0])
            return made["image"], made["mask"], index

    some = [A.Resize(9, 9), A.CenterCrop(8, 8), A.RandomCrop(5, 5), A.HorizontalFlip(), A.Normalize()]
    for transform, kept in ((some, 2), (some[:2], None), (some[2:], 0)):
        dataset = Arrays(A.Compose(transform))
        found = study(dataset)
        assert found.whole is (kept is None)
        assert [sum(step.kept for step in steps) for _, steps in found.pipelines] == (
            [] if kept is None else [kept]
        )
        generators = Generators(dataset)
        for index in range(4):
            generators.seed(index)
            whole = dataset[index]
            values, marks = found.cut.start(index)
            generators.seed(index)
            assert difference(whole, found.cut.finish(values, marks)) is None
    assert why_random(A.HorizontalFlip(p=1)) is None
    assert why_random(A.Compose([A.OneOf([A.HorizontalFlip()])])) == "albumentations' OneOf"


def test_monai() -> None:
    T = pytest.importorskip("monai.transforms")
    data = pytest.importorskip("monai.data")
    items = [{"image": torch.full((1, 8, 8), float(index)), "name": index} for index in range(6)]
    steps = [
        T.ScaleIntensityD("image", factor=2),
        T.RandFlipD("image", 0.5),
        T.RandGaussianNoiseD("image", 0.5),
    ]
    dataset = data.Dataset(items, T.Compose(steps))
    found = study(dataset)
    assert [step.kept for step in found.pipelines[0][1]] == [True, False, False]
    for index in range(6):
        dataset.transform.set_random_state(index)
        whole = dataset[index]
        values, marks = found.cut.start(index)
        dataset.transform.set_random_state(index)
        assert same(whole["image"].as_tensor(), found.cut.finish(values, marks)["image"].as_tensor())


@pytest.mark.parametrize(
    ("make", "other"),
    [
        (lambda: torch.tensor([1.0, float("nan")]), torch.tensor([1.0, 2.0])),
        (lambda: torch.arange(10)[::10], torch.arange(1, 11)[::10]),
        (lambda: np.arange(3), np.arange(3.0)),
        (lambda: {"a": [1, "x"], "b": (2.5, None)}, {"a": [1, "x"], "b": (2.5, 0)}),
        (lambda: tv_tensors.Image(torch.ones(1, 2, 2)), torch.ones(1, 2, 2)),
        (lambda: Image.new("RGB", (3, 2), (1, 2, 3)), Image.new("RGB", (3, 2), (1, 2, 4))),
        (lambda: tv_tensors.BoundingBoxes([[1, 2, 3, 4]], format="XYXY", canvas_size=(5, 5)),
         tv_tensors.BoundingBoxes([[1, 2, 3, 4]], format="XYWH", canvas_size=(5, 5))),
    ],
)  # fmt: skip
def test_same(make: Callable[[], Any], other: Any) -> None:
    assert same(make(), make())
    assert not same(make(), other)
