"""What add_reader and its family refuse, and with which words."""

import os
import re
import socket
import sys

import pytest

from harness import outcome, piped

BAD_FILES = {
    "negative": lambda: -1,
    "very negative": lambda: -(2**31),
    "huge": lambda: 2**40,
    "none": lambda: None,
    "string": lambda: "x",
    "float": lambda: 1.5,
    "object": object,
    "fileno raises": lambda: type("F", (), {"fileno": lambda self: 1 // 0})(),
    "fileno is odd": lambda: type("F", (), {"fileno": lambda self: "x"})(),
    "closed socket": lambda: _closed_socket(),
}


def _closed_socket():
    sock = socket.socket()
    sock.close()
    return sock


@pytest.mark.parametrize("call", ["add_reader", "add_writer", "remove_reader", "remove_writer"])
@pytest.mark.parametrize("make", BAD_FILES.values(), ids=BAD_FILES)
def test_what_is_no_file(compare, call, make):
    def scenario(loop, reports):
        args = (print,) if call.startswith("add") else ()
        thing = make()
        return outcome(lambda: getattr(loop, call)(thing, *args))

    compare(scenario)


@pytest.mark.parametrize("call", ["add_reader", "add_writer"])
def test_a_closed_number(loop, call):
    sock = socket.socket()
    number = sock.fileno()
    sock.close()
    with pytest.raises(OSError) as caught:
        getattr(loop, call)(number, print)
    if sys.platform == "linux":
        assert (type(caught.value), caught.value.errno) == (OSError, 9)
    # The refused file left nothing behind.
    assert loop.remove_reader(number) is False
    with socket.socket() as again:
        assert again.fileno() == number
        loop.add_writer(again, print)
        assert loop.remove_writer(again) is True


@pytest.mark.skipif(sys.platform != "linux", reason="only epoll refuses regular files")
@pytest.mark.parametrize("call", ["add_reader", "add_writer"])
def test_a_regular_file_is_refused(loop, call, tmp_path):
    with open(tmp_path / "file", "w+") as file:
        with pytest.raises(PermissionError) as caught:
            getattr(loop, call)(file, print)
        assert caught.value.errno == 1
        assert loop.remove_reader(file) is False
        assert loop.remove_writer(file) is False


@pytest.mark.skipif(sys.platform != "linux", reason="epoll decides")
@pytest.mark.parametrize("call", ["add_reader", "add_writer"])
@pytest.mark.parametrize(
    ("path", "can_be_waited_for"),
    [
        ("/dev/null", False),
        ("/dev/zero", False),
        ("/dev/urandom", False),
        ("/proc/self/stat", False),
        ("/", False),
        ("/proc/self/mounts", True),
        ("/proc/pressure/cpu", True),
    ],
)
def test_a_file_is_asked_whether_it_can_be_waited_for(loop, call, path, can_be_waited_for):
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as exc:
        pytest.skip(str(exc))
    try:
        if can_be_waited_for:
            getattr(loop, call)(fd, int)
        else:
            with pytest.raises(PermissionError):
                getattr(loop, call)(fd, int)
        assert getattr(loop, call.replace("add", "remove"))(fd) is can_be_waited_for
    finally:
        os.close(fd)


@pytest.mark.parametrize("call", ["add_reader", "add_writer", "remove_reader", "remove_writer"])
def test_the_file_of_a_transport_is_refused(compare, call):
    def scenario(loop, reports):
        async def main():
            async with piped() as (transport, protocol, peer):
                args = (print,) if call.startswith("add") else ()
                results = []
                for thing in (
                    transport.get_extra_info("socket"),
                    transport.get_extra_info("socket").fileno(),
                ):
                    results.append(outcome(lambda thing=thing: getattr(loop, call)(thing, *args)))
                return [(kind, re.sub(r"\d+", "N", text.split("<")[0])) for kind, text in results]

        return loop.run_until_complete(main())

    assert compare(scenario)[0][0] == "RuntimeError"
