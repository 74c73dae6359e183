"""A callback that writes and then forks: what it wrote leaves once, whatever the child does with its copy."""

import os

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")

HOW_CHILDREN_LEAVE = {
    "exit": "sys.exit()",
    "close": "transport.close()",
    "abort": "transport.abort()",
    "size": "transport.get_write_buffer_size()",
}

PREPARED = r"""
import os, socket, sys, time, warnings
warnings.simplefilter("ignore")

def pair():
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    return near, far

async def forked(callback):
    # Once the child that the callback forked has ended, and what it sent has come.
    pid = loop.create_future()
    loop.call_soon(lambda: pid.set_result(callback()))
    os.waitpid(await pid, 0)
    await asyncio.sleep(0.01)

async def read_on(sock, enough):
    data = b""
    while len(data) < enough:
        data += await loop.sock_recv(sock, 1 << 20)
    return data

def run(main):
    global loop
    loop = new_event_loop()
    loop.run_until_complete(main())
    loop.close()
"""


@pytest.mark.parametrize("leaving", HOW_CHILDREN_LEAVE)
def test_a_child_does_not_send_it_again(script, leaving):
    done = script(
        PREPARED
        + r"""
async def main():
    near, far = pair()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
    def callback():
        transport.write(b"once;")
        if pid := os.fork():
            return pid
        LEAVE
        os._exit(0)
    await forked(callback)
    print(far.recv(100))
    transport.close()
run(main)
""".replace("LEAVE", HOW_CHILDREN_LEAVE[leaving])
    )
    assert done.stdout == "b'once;'\n"


@pytest.mark.parametrize("leaving", ["exit", "close", "size"])
def test_a_child_does_not_write_to_a_pipe_again(script, leaving):
    done = script(
        PREPARED
        + r"""
async def main():
    reading, writing = os.pipe()
    transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(writing, "wb", 0))
    def callback():
        transport.write(b"once;")
        if pid := os.fork():
            return pid
        LEAVE
        os._exit(0)
    await forked(callback)
    print(os.read(reading, 100))
    transport.close()
run(main)
""".replace("LEAVE", HOW_CHILDREN_LEAVE[leaving])
    )
    assert done.stdout == "b'once;'\n"


@pytest.mark.parametrize("leaving", ["exit", "size"])
def test_a_child_does_not_send_records_again(script, leaving):
    """A record that came twice would end the connection."""
    done = script(
        PREPARED
        + r"""
import ssl, trustme
authority = trustme.CA()
serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
authority.issue_cert("localhost").configure_cert(serving)
asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
authority.configure_trust(asking)

class Collecting(asyncio.Protocol):
    data, lost = b"", False
    def data_received(self, data):
        self.data += data
    def connection_lost(self, error):
        self.lost = True

async def main():
    near, far = pair()
    (transport, _), (_, peer) = await asyncio.gather(
        loop.create_connection(asyncio.Protocol, sock=near, ssl=asking, server_hostname="localhost"),
        loop.connect_accepted_socket(Collecting, far, ssl=serving),
    )
    def callback():
        transport.write(b"once;")
        if pid := os.fork():
            return pid
        LEAVE
        os._exit(0)
    await forked(callback)
    transport.write(b"more;")
    await asyncio.sleep(0.05)
    print(peer.data, peer.lost)
    transport.abort()
    await asyncio.sleep(0.01)
run(main)
""".replace("LEAVE", HOW_CHILDREN_LEAVE[leaving])
    )
    assert done.stdout == "b'once;more;' False\n"


def test_what_the_turn_wrote_before_is_not_sent_again_either(script):
    """Many callbacks of one turn write, each to a transport of its own, and then the last of them forks."""
    done = script(
        PREPARED
        + r"""
async def main():
    pairs = [pair() for _ in range(40)]
    transports = [(await loop.create_connection(asyncio.Protocol, sock=near))[0] for near, _ in pairs]
    def callback():
        if pid := os.fork():
            return pid
        for transport in transports:
            transport.close()
        sys.exit()
    for transport in transports:
        loop.call_soon(transport.write, b"once;")
    await forked(callback)
    print({far.recv(100) for _, far in pairs})
    for transport in transports:
        transport.close()
run(main)
"""
    )
    assert done.stdout == "{b'once;'}\n"


def test_what_the_kernel_has_no_room_for_is_sent_once(script):
    done = script(
        PREPARED
        + r"""
SIZE = 3_000_000
async def main():
    near, far = pair()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
    transport.write(bytes(SIZE))
    def callback():
        transport.write(b"tail;")
        if pid := os.fork():
            return pid
        transport.get_write_buffer_size()
        transport.close()
        sys.exit()
    await forked(callback)
    data = await read_on(far, SIZE + 5)
    await asyncio.sleep(0.01)
    try:
        data += far.recv(100)
    except BlockingIOError:
        pass
    print(len(data) - SIZE, data[-5:])
    transport.abort()
run(main)
"""
    )
    assert done.stdout == "5 b'tail;'\n"


@pytest.mark.parametrize("leaving", ["os._exit(0)", "sys.exit()"])
def test_what_a_child_writes_leaves_even_if_it_ends_at_once(script, leaving):
    done = script(
        PREPARED
        + r"""
async def main():
    near, far = pair()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
    def callback():
        transport.write(b"parent;")
        if pid := os.fork():
            return pid
        transport.write(b"child;")
        if pid := os.fork():
            os.waitpid(pid, 0)
        LEAVE
    await forked(callback)
    transport.write(b"parent again;")
    await asyncio.sleep(0)
    print((await read_on(far, 26)))
    transport.close()
run(main)
""".replace("LEAVE", leaving)
    )
    assert done.stdout == "b'parent;child;parent again;'\n"


def test_a_child_of_multiprocessing_closes_a_writer(script):
    done = script(
        PREPARED
        + r"""
import multiprocessing
async def main():
    near, far = pair()
    reader, writer = await asyncio.open_connection(sock=near)
    writer.write(b"once;")
    child = multiprocessing.get_context("fork").Process(target=writer.close)
    child.start()
    child.join()
    await asyncio.sleep(0.01)
    print(far.recv(100))
    writer.close()
run(main)
"""
    )
    assert done.stdout == "b'once;'\n"
