"""How a dataset's samples are made: the steps of its transforms, and which part is the same every time.

The `Compose` in a dataset, or in what it wraps, is found (`study`), cut before its first random step, and
the dataset made into two parts (`Cut`). The dataset itself is never changed.
"""

from penstock.pipeline.compositions import CannotCut
from penstock.pipeline.cut import Cut
from penstock.pipeline.marks import Marks
from penstock.pipeline.proof import Costs
from penstock.pipeline.randomness import name_of, why_random
from penstock.pipeline.same import same
from penstock.pipeline.study import Step, Study, Until, study

__all__ = [
    "CannotCut",
    "Costs",
    "Cut",
    "Marks",
    "Step",
    "Study",
    "Until",
    "name_of",
    "same",
    "study",
    "why_random",
]
