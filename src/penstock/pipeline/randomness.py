"""Which transforms are known to be random, by their type; no library is imported to find out.

A step that isn't known here may be random all the same: `proof` tells by running it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_TORCHVISION = frozenset(
    [
        "AugMix",
        "AutoAugment",
        "ColorJitter",
        "CutMix",
        "ElasticTransform",
        "GaussianBlur",
        "GaussianNoise",
        "JPEG",
        "MixUp",
        "RandAugment",
        "ScaleJitter",
        "TrivialAugmentWide",
    ]
)
"""Those of v1 and v2 whose names don't begin with ``Random``."""
_ALBUMENTATIONS_CHOICES = frozenset(
    ["OneOf", "SomeOf", "RandomOrder", "OneOrOther", "SelectiveChannelTransform"]
)
_ALBUMENTATIONS_FIXED = frozenset(
    [
        "CenterCrop",
        "CenterCrop3D",
        "Crop",
        "LongestMaxSize",
        "Normalize",
        "Pad",
        "Pad3D",
        "PadIfNeeded",
        "PadIfNeeded3D",
        "Resize",
        "SmallestMaxSize",
    ]
)
"""These work out their parameters from the image alone, by the method that others draw them in."""


def library_of(value: Any) -> str:
    """The first part of the module's name in which the class, or the function, was made."""
    return str(getattr(_maker(value), "__module__", "") or "").partition(".")[0]


def name_of(step: Any) -> str:
    """What to call a step."""
    return str(getattr(_maker(step), "__qualname__", type(step).__qualname__)).replace("<locals>.", "")


def why_random(step: Any) -> str | None:
    """Why a step counts as random, or None if its type doesn't say so."""
    if library_of(step) == "albumentations":
        return _of_albumentations(step)
    bases = [(cls.__module__.partition(".")[0], cls.__name__) for cls in type(step).__mro__]
    if ("monai", "Compose") not in bases:
        for library, name in bases:
            if library == "monai" and name in ("Randomizable", "RandomizableTrait"):
                return f"MONAI's {name}"
            if library == "torchvision" and (name.startswith("Random") or name in _TORCHVISION):
                return f"torchvision's {name}"
    if name_of(step).rpartition(".")[2].startswith("Random"):
        return "its name"
    if _draws_parameters(step):
        return "it draws parameters (make_params)"
    inner = (why_random(each) for each in _inside(step))
    return next((reason for reason in inner if reason), None)


def _maker(value: Any) -> Any:
    return value if hasattr(value, "__qualname__") else type(value)


def _inside(step: Any) -> Iterator[Any]:
    """The steps of a composition inside a composition."""
    inner = getattr(step, "transforms", None)
    if isinstance(inner, list | tuple):
        yield from (each for each in inner if callable(each))


def _draws_parameters(step: Any) -> bool:
    """Whether a transform of torchvision's v2 API, the user's own too, overrides the method that draws."""
    for name in ("make_params", "_get_params"):
        maker = next((cls for cls in type(step).__mro__ if name in vars(cls)), None)
        if maker is not None and maker.__name__ != "Transform":
            return any(cls.__module__.startswith("torchvision.") for cls in type(step).__mro__)
    return False


def _of_albumentations(step: Any) -> str | None:
    kind = type(step)
    if kind.__name__ in _ALBUMENTATIONS_CHOICES:
        return f"albumentations' {kind.__name__}"
    if 0 < getattr(step, "p", 1.0) < 1:
        return f"p={step.p:g}"
    if kind.__name__ not in _ALBUMENTATIONS_FIXED:
        for name in ("get_params", "get_params_dependent_on_data"):
            maker = next((cls for cls in kind.__mro__ if name in vars(cls)), None)
            if maker is not None and maker.__name__ not in ("BasicTransform", "NoOp"):
                return f"it draws parameters ({name})"
    return next((reason for each in _inside(step) if (reason := why_random(each))), None)
