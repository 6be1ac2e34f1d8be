"""Messages over a socket pair: each a pickle of plain values behind its length.

`Channel` is the worker's end: it blocks. `Line` is the main process's end: it never does; what the
socket doesn't take at once stays in a buffer until `flush` is called again. So the two can't wait on
each other: a worker that blocks in sending is read from whenever the main process waits.
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
import weakref
from typing import Any

_LENGTH = struct.Struct("<I")
_CHUNK = 1 << 16

_owned: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def pair(kind: int = socket.SOCK_STREAM) -> tuple[socket.socket, socket.socket]:
    """(ours, the child's): a socket pair of which ours is closed in every process forked from here.

    A copy of our end in some forked child would keep a worker from seeing that we are gone.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    _owned.add(ours)
    return ours, theirs


def _close_inherited() -> None:
    for sock in list(_owned):
        sock.close()
    _owned.clear()


os.register_at_fork(after_in_child=_close_inherited)


def frame(message: Any) -> bytes:
    body = pickle.dumps(message, protocol=5)
    return _LENGTH.pack(len(body)) + body


def unframe(data: bytes) -> Any:
    """The message of exactly one frame."""
    return pickle.loads(memoryview(data)[_LENGTH.size :])


class _Frames:
    """Takes bytes as they come and gives the messages that are complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        self._buffer += data
        bodies, at = [], 0
        while len(self._buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, at)
            start, end = at + _LENGTH.size, at + _LENGTH.size + length
            if end > len(self._buffer):
                break
            bodies.append(bytes(self._buffer[start:end]))
            at = end
        if at:
            del self._buffer[:at]
        return [pickle.loads(body) for body in bodies]


class Channel:
    """The end of a child: `send` and `receive` block, and the other end's closing ends both."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._frames = _Frames()
        self._ready: list[Any] = []

    def send(self, message: Any) -> None:
        """Raises BrokenPipeError or ConnectionResetError when the main process is gone."""
        self.sock.sendall(frame(message))

    def receive(self) -> Any:
        """The next message, or None when the main process closed its end or is gone."""
        while not self._ready:
            try:
                data = self.sock.recv(_CHUNK)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._ready = self._frames.feed(data)
        return self._ready.pop(0)


class Line:
    """The end of the main process: never blocks."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._frames = _Frames()
        self._unsent = bytearray()
        self.ended = False

    @property
    def unsent(self) -> bool:
        return bool(self._unsent) and not self.ended

    def post(self, message: bytes) -> None:
        """Have a framed message sent by the next calls of `flush`."""
        self._unsent += message

    def flush(self) -> None:
        """Send what the socket takes now; `unsent` tells whether something is left."""
        while self._unsent and not self.ended:
            try:
                sent = self.sock.send(self._unsent)
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                self.ended = True
                return
            del self._unsent[:sent]

    def receive(self) -> list[Any]:
        """All messages that are there; `ended` is set once the other end is closed."""
        messages: list[Any] = []
        while not self.ended:
            try:
                data = self.sock.recv(_CHUNK)
            except BlockingIOError:
                break
            except ConnectionResetError:
                data = b""
            if not data:
                self.ended = True
            messages += self._frames.feed(data)
            if len(data) < _CHUNK:
                break
        return messages

    def close(self) -> None:
        self.ended = True
        self.sock.close()
