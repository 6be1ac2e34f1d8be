"""The shared memory in which batches are put together, and who may touch which part of it when.

One anonymous file (``memfd_create``), sparse and far larger than the machine, is mapped once in every
process that works on it; so it costs one descriptor and one mapping a process, whatever the number of
batches. It is divided into spans of equal size. Span 0 holds the control words; every other span is a
*slot*, room for one batch, of which only what was reserved takes memory. Nothing of it is seen in
/dev/shm, counts against that file system's size, or outlives the processes.

Contract
--------
- `Arena` belongs to the main process: it alone says which slot is whose. A slot is *free*, or
  *acquired* (tasks may write into it), or *leased* (a batch in the user's hands views it).
      acquire: free -> acquired      lease: acquired -> leased
      release: acquired -> free      the last view of a leased slot dies: leased -> free
- That last step happens wherever the garbage collector runs it, in any thread and in the middle of
  any other call: it does nothing but append to a deque, which takes no lock.
- `Memory` is what a worker has of it. A worker writes only into the slot, and the rows of it, that its
  task names, after it reserved them; two workers may reserve and write one slot at once.
- Reserving (``posix_fallocate``) is where lack of memory shows, as `BatchTooLargeError`, instead of as a
  SIGBUS at some later write.
- No call here waits for another process.
"""

from penstock.arena.layout import ALIGN, MAX_WORKERS, PAGE, STACK_BYTES, Bytes, aligned
from penstock.arena.memory import Memory
from penstock.arena.notes import Notes
from penstock.arena.slots import Arena, ArenaPool

__all__ = [
    "ALIGN",
    "MAX_WORKERS",
    "PAGE",
    "STACK_BYTES",
    "Arena",
    "ArenaPool",
    "Bytes",
    "Memory",
    "Notes",
    "aligned",
]
