"""Any collated batch, packed into one block: a pickle, with the bytes of tensors and arrays beside it.

Pickle's protocol 5 takes those bytes out of band, so that everything keeps its own type and the other side
gets views of the block.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from penstock.arena import Bytes, aligned
from penstock.collate.pickling import Pickler, PicklerWithClasses
from penstock.errors import BatchNotSendableError, BatchTooLargeError


class BlockWriter:
    """Packs one collated batch of any kind into a block that grows as needed.

    `reserve(nbytes)` returns the first `nbytes` of the block; what was written before stays there.
    """

    def __init__(self, reserve: Any) -> None:
        self._reserve = reserve
        self._end = 0

    def pack(self, batch: Any) -> tuple[int, int]:
        """Write `batch`; returns (start of the pickle, bytes of the block).

        Raises:
            BatchNotSendableError: if it holds something that can't be pickled.
            BatchTooLargeError: from `reserve`.
        """
        stream, places = self._pickled(batch)
        table = pickle.dumps((places, stream), protocol=5)
        start, block = self._take(len(table))
        block[start : start + len(table)] = np.frombuffer(table, np.uint8)
        return start, start + len(table)

    def _pickled(self, batch: Any) -> tuple[bytes, list[tuple[int, int]]]:
        """By reference to its classes, or, where that can't be, with them (cloudpickle)."""
        try:
            return self._pickled_by(Pickler, batch)
        except BatchTooLargeError:
            raise
        except Exception as plain:
            self._end = 0
            try:
                return self._pickled_by(PicklerWithClasses, batch)
            except BatchTooLargeError:
                raise
            except Exception:
                raise BatchNotSendableError(type(batch).__name__, f"{plain}") from plain

    def _pickled_by(self, pickler: type[pickle.Pickler], batch: Any) -> tuple[bytes, list[tuple[int, int]]]:
        stream = io.BytesIO()
        places: list[tuple[int, int]] = []
        pickler(stream, 5, buffer_callback=lambda buffer: places.append(self._place(buffer))).dump(batch)
        return stream.getvalue(), places

    def _place(self, buffer: pickle.PickleBuffer) -> tuple[int, int]:
        data = np.frombuffer(buffer.raw(), np.uint8)
        start, block = self._take(data.nbytes)
        block[start : start + data.nbytes] = data
        return start, data.nbytes

    def _take(self, nbytes: int) -> tuple[int, Bytes]:
        start, self._end = self._end, aligned(self._end + nbytes)
        return start, self._reserve(self._end)


def unpack(block: Bytes, start: int) -> Any:
    """The batch that `BlockWriter.pack` wrote; its tensors and arrays view `block` and keep it."""
    places, stream = pickle.loads(block[start:].tobytes())
    return pickle.loads(stream, buffers=[block[a : a + n] for a, n in places])
