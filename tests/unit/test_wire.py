"""Messages over real socket pairs, whatever way the bytes are cut."""

from __future__ import annotations

import itertools
import os
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.backends.processes.wire import Channel, Line, frame, pair, unframe

LARGE = b"x" * (8 << 20)
"""Far more than a socket's buffer takes."""
MESSAGES = st.lists(
    st.none() | st.integers() | st.text(max_size=5) | st.tuples(st.binary(max_size=40)), max_size=8
)


@pytest.fixture
def ends() -> Iterator[tuple[Line, Channel]]:
    ours, theirs = pair()
    with closing(ours), closing(theirs):
        yield Line(ours), Channel(theirs)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


def drain(line: Line) -> None:
    """Write as a selector loop does, until nothing is left."""
    while line.unsent:
        select.select([], [line.sock], [])
        line.flush()


def test_messages_go_both_ways_in_order(ends: tuple[Line, Channel]) -> None:
    line, channel = ends
    line.post(frame({"a": 1}))
    line.flush()
    line.post(frame([2, 3]))
    line.flush()
    assert [channel.receive(), channel.receive()] == [{"a": 1}, [2, 3]]
    channel.send("first")
    channel.send(None)
    assert line.receive() == ["first", None]


def test_nothing_there_is_no_message(ends: tuple[Line, Channel]) -> None:
    line, _ = ends
    assert line.receive() == []
    assert not line.ended


@given(MESSAGES, st.lists(st.integers(0, 10_000), max_size=10))
def test_a_line_takes_the_stream_in_any_pieces(messages: list[Any], cuts: list[int]) -> None:
    ours, theirs = pair()
    with closing(ours), closing(theirs):
        line, got = Line(ours), []
        for piece in pieces(b"".join(map(frame, messages)), cuts):
            theirs.sendall(piece)
            got += line.receive()
        assert got == messages


@given(MESSAGES, st.lists(st.integers(0, 10_000), max_size=10))
def test_a_channel_takes_the_stream_in_any_pieces(messages: list[Any], cuts: list[int]) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # keeps the pieces apart
    with closing(ours), closing(theirs):
        for piece in pieces(b"".join(map(frame, messages)), cuts):
            ours.sendall(piece)
        channel = Channel(theirs)
        assert [channel.receive() for _ in messages] == messages


@given(st.none() | st.tuples(st.integers(), st.text()))
def test_unframe_is_the_inverse_of_frame(message: Any) -> None:
    assert unframe(frame(message)) == message


def test_many_messages_come_in_one_call(ends: tuple[Line, Channel]) -> None:
    line, channel = ends
    for number in range(50):
        channel.send(number)
    assert line.receive() == list(range(50))


def test_a_message_larger_than_the_socket_takes_does_not_block(ends: tuple[Line, Channel]) -> None:
    line, channel = ends
    line.post(frame(LARGE))  # nobody reads yet: returns all the same
    line.flush()
    line.post(frame("after it"))
    line.flush()
    assert line.unsent
    got: list[Any] = []
    reader = threading.Thread(target=lambda: got.extend(channel.receive() for _ in range(2)))
    reader.start()
    drain(line)
    reader.join()
    assert got == [LARGE, "after it"]


def test_a_line_receives_a_message_larger_than_the_socket_takes(ends: tuple[Line, Channel]) -> None:
    line, channel = ends
    writer = threading.Thread(target=channel.send, args=(LARGE,))
    writer.start()
    got: list[Any] = []
    while not got:
        select.select([line.sock], [], [])
        got = line.receive()
    writer.join()
    assert got == [LARGE]


def test_both_may_send_large_messages_at_once(ends: tuple[Line, Channel]) -> None:
    line, channel = ends
    got: list[Any] = []

    def child() -> None:
        channel.send(LARGE)  # blocks until it is read
        got.append(channel.receive())

    line.post(frame(LARGE))

    line.flush()
    thread = threading.Thread(target=child)
    thread.start()
    received: list[Any] = []
    while not received or line.unsent:
        select.select([line.sock], [line.sock] if line.unsent else [], [])
        line.flush()
        received += line.receive()
    thread.join()
    assert received == [LARGE]
    assert got == [LARGE]


def test_a_line_sees_the_other_end_close_after_the_last_message(ends: tuple[Line, Channel]) -> None:
    line, channel = ends
    channel.send("last")
    channel.sock.close()
    assert line.receive() + line.receive() == ["last"]
    assert line.ended
    assert line.receive() == []


def test_a_line_sees_the_other_end_close_within_a_message(ends: tuple[Line, Channel]) -> None:
    line, channel = ends
    channel.sock.sendall(frame("half a message")[:-3])
    assert line.receive() == []
    channel.sock.close()
    assert line.receive() == []
    assert line.ended


def test_posting_to_an_end_that_is_gone_raises_nothing(ends: tuple[Line, Channel]) -> None:
    line, channel = ends
    channel.sock.close()
    line.post(frame(1))
    line.flush()
    assert line.ended
    assert not line.unsent


def test_a_channel_sees_the_line_close_after_the_last_message(ends: tuple[Line, Channel]) -> None:
    line, channel = ends
    line.post(frame("last"))
    line.flush()
    line.close()
    assert channel.receive() == "last"
    assert channel.receive() is None


def test_a_channel_sees_the_line_close_within_a_message(ends: tuple[Line, Channel]) -> None:
    line, channel = ends
    line.sock.sendall(frame("half a message")[:-3])
    line.close()
    assert channel.receive() is None


def test_sending_to_a_line_that_is_gone_raises(ends: tuple[Line, Channel]) -> None:
    line, channel = ends
    line.close()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        channel.send(1)


def test_our_end_is_closed_in_a_forked_child_and_theirs_is_not() -> None:
    ours, theirs = pair()
    with closing(ours), closing(theirs):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if ours.fileno() == -1 and theirs.fileno() >= 0 else 1)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        ours.sendall(b"still open here")
