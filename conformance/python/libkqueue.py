"""What kqueue on Linux cannot show.

The library that plays the kernel there reads a socket's error (SO_ERROR) when it reports it, and reading clears it:
what a reset or refused connection should end with is gone before anybody can ask. Tests about that are skipped, with
this reason, for as long as the installed library does so. And it asks for the status of a process before it reports
the end of it: of one that somebody else has reaped it reports nothing.
"""

from __future__ import annotations

import socket

import pytest

from harness import reset, tcp_pair

ERROR_TAKEN = "libkqueue takes the error of a socket when it reports it"
REAPED = "libkqueue does not report the end of a process that somebody else has reaped"

ABOUT_ERRORS = frozenset(
    {
        "test_context.py::test_protocol_callbacks_run_in_the_context_of_creation[zloop-kqueue-reset]",
        "test_datagram.py::test_a_refusing_peer[zloop-kqueue]",
        "test_datagram.py::test_methods_that_raise[zloop-kqueue-error_received]",
        "test_kernel_resources.py::test_a_reset_is_seen_as_a_reset[zloop-kqueue]",
        "test_server.py::test_close_stops_listening[zloop-kqueue]",
        "test_server.py::test_start_serving_false[zloop-kqueue]",
        "test_sock.py::test_connection_refused[zloop-kqueue]",
        "test_sock_edges.py::test_connecting_to_nobody[zloop-kqueue-127.0.0.1]",
        "test_sock_edges.py::test_connecting_to_nobody[zloop-kqueue-::1]",
        "test_sock_edges.py::test_connecting_to_nobody[zloop-kqueue-0:0::1]",
        "test_sock_edges.py::test_connecting_to_nobody[zloop-kqueue-localhost]",
        "test_sock_waiting.py::test_the_other_end_goes_while_waiting[zloop-kqueue]",
        "test_streams_tcp.py::test_drain_waits_for_a_full_peer_and_fails_on_reset[zloop-kqueue]",
        "test_streams_tcp.py::test_refused_connections[zloop-kqueue]",
        "test_streams_tcp.py::test_reset_by_the_peer[zloop-kqueue]",
        "test_streams_tcp.py::test_reset_while_waiting_in_a_handler[zloop-kqueue]",
        "test_traps.py::test_trap_06_reset_and_abort[zloop-kqueue]",
        "test_traps_system.py::test_trap_39_a_refused_datagram[zloop-kqueue]",
        "test_transport_closing.py::test_a_protocol_method_that_raises[zloop-kqueue-pause_writing]",
        "test_transport_closing.py::test_reset_by_the_peer[zloop-kqueue-tcp]",
        "test_transport_closing.py::test_reset_by_the_peer[zloop-kqueue-unix]",
        "test_transport_closing.py::test_reset_while_paused[zloop-kqueue]",
        "test_transport_closing.py::test_reset_while_writing[zloop-kqueue]",
        "test_transport_tcp.py::test_all_errors[zloop-kqueue]",
        *(
            f"test_tls_crowds.py::test_a_crowd[zloop-kqueue-{engine}-leaves {when}-{role}]"
            for engine in ("direct", "portable")
            for when in ("without a word", "inside a record", "in the shutdown")
            for role in ("server", "acceptor", "client")
        ),
    }
)

ABOUT_REAPING = frozenset({"test_subprocess_edges.py::test_somebody_else_reaps[zloop-kqueue]"})


def takes_errors() -> bool:
    """Whether a reset is gone from the socket once the loop has seen it."""
    import zloop

    near, far = tcp_pair()
    loop = zloop.new_event_loop(backend="kqueue")
    with near:
        loop.add_reader(near, loop.stop)
        reset(far)
        loop.run_forever()
        loop.remove_reader(near)
        loop.close()
        return near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def excuse(item: pytest.Item) -> None:
    """Skip a test that is about such an error, or such a process."""
    name = item.nodeid.rpartition("/")[2]
    for names, reason in ((ABOUT_ERRORS, ERROR_TAKEN), (ABOUT_REAPING, REAPED)):
        if name in names:
            item.add_marker(pytest.mark.skip(reason=reason))
