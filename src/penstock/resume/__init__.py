"""``state_dict`` and ``load_state_dict`` of a loader: what a state holds, and how an epoch goes on from it.

A state is a plain dictionary. It describes the batches that were handed over, whatever was made ahead:

    version, loader         of this form; what the loader is like, to be checked
    _num_yielded, missing   how many batches of the epoch were handed over; with ``in_order=False`` the
                            numbers of those that weren't, while a later one was
    _iterator_finished      the epoch is over: the next one follows
    order                   from what the order of its indices can be made again; of an iterable dataset,
                            how far each worker's iterator has come
    next                    instead of it, between epochs: from what the next epoch's will follow
    base_seed, count        from what the samples' seeds follow; None before the first epoch
    announced               the epoch that the loader's ``set_epoch`` was told, if any
    sampler_epoch           that which the sampler was told
    generator               the state of the loader's ``generator`` when the epoch's base seed had been drawn,
                            or as it is between epochs
    dataset                 what a map-style dataset itself tells by ``state_dict``

The names with an underscore are torchdata's: Accelerate writes to them.
"""

from penstock.resume.books import Books
from penstock.resume.passage import Passage

__all__ = ["Books", "Passage"]
