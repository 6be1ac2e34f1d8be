"""How many forks lie between this process and that which imported this: `count`.

Asking the system for the process's id takes longer, which a batch of cheap samples would feel.
"""

from __future__ import annotations

import os

count = 0


def _count() -> None:
    global count
    count += 1


os.register_at_fork(after_in_child=_count)
