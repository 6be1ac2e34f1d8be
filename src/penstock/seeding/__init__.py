"""The random state that every sample is made under."""

from penstock.seeding.find import find_generators
from penstock.seeding.generators import Generator, generator_of, global_generators
from penstock.seeding.quiet import draws_nothing
from penstock.seeding.seeder import LEARN, SampleSeeder, Seeds

__all__ = [
    "LEARN",
    "Generator",
    "SampleSeeder",
    "Seeds",
    "draws_nothing",
    "find_generators",
    "generator_of",
    "global_generators",
]
