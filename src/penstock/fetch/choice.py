"""Which fetcher a recipe wants."""

from __future__ import annotations

from penstock.fetch.fetcher import Fetcher
from penstock.fetch.indexed import IndexFetcher
from penstock.fetch.recipe import Recipe
from penstock.fetch.streamed import StreamFetcher


def fetcher_for(recipe: Recipe) -> type[Fetcher]:
    """The class for this kind of dataset."""
    return StreamFetcher if recipe.iterable else IndexFetcher
