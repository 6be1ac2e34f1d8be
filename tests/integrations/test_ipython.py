"""In a notebook's kernel: classes of a cell, an interrupted cell, and the kernel's end with loaders open."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.integration
jupyter_client = pytest.importorskip("jupyter_client")
pytest.importorskip("ipykernel")

CELL = """
import time
from penstock import DataLoader

class OfACell:
    def __len__(self):
        return 1000
    def __getitem__(self, index):
        if index >= 900:
            time.sleep(1000)
        return index

def begin(**options):
    loader = DataLoader(OfACell(), batch_size=10, num_workers=2, **options)
    iterator = iter(loader)
    print(next(iterator).tolist())
    return loader, iterator
"""
FIRST = str(list(range(10))) + "\n"


@pytest.fixture(scope="module")  # so that what jupyter_client leaves open was open before the test
def kernel() -> Iterator[tuple[Any, Any]]:
    manager, client = jupyter_client.manager.start_new_kernel(kernel_name="python3", startup_timeout=60)
    yield manager, client
    client.stop_channels()
    if manager.is_alive():
        manager.shutdown_kernel(now=True)
    manager.cleanup_resources()


def execute(client: Any, code: str, until: str = "") -> tuple[str, list[str]]:
    """What a cell printed, and the exceptions that it ended with; with `until`, when it printed that."""
    printed, errors = "", []
    asked = client.execute(code)
    while True:
        message = client.get_iopub_msg(timeout=60)
        if message["parent_header"].get("msg_id") != asked:
            continue
        kind, content = message["msg_type"], message["content"]
        if kind == "stream":
            printed += content["text"]
        elif kind == "error":
            errors.append(content["ename"])
        ended = kind == "status" and content["execution_state"] == "idle"
        if ended or (until and until in printed):
            return printed, errors


def test_an_interrupted_cell_and_the_kernels_end(kernel: tuple[Any, Any]) -> None:
    manager, client = kernel
    assert execute(client, CELL) == ("", [])
    assert execute(client, "loader, iterator = begin()") == (FIRST, [])
    execute(client, "print('begun', flush=True)\nfor batch in iterator: pass", until="begun")
    manager.interrupt_kernel()
    message = client.get_shell_msg(timeout=60)
    while message["content"].get("status") != "error":
        message = client.get_shell_msg(timeout=60)
    assert message["content"]["ename"] == "KeyboardInterrupt"
    assert execute(client, "first = begin()\nagain = begin(persistent_workers=True)") == (2 * FIRST, [])
    family = psutil.Process(manager.provisioner.pid).children(recursive=True)
    assert len(family) >= 5
    manager.shutdown_kernel()
    assert psutil.wait_procs(family, timeout=10)[1] == []
