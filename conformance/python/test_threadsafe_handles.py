"""Handles of `call_soon_threadsafe`: since 3.14 any thread may cancel one, and then knows where it stands."""

import asyncio
import sys
import threading

import pytest

needs_shared_handles = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="before 3.14 such handles are no different"
)


def scheduled(loop, callback):
    """The handle of a callback that another thread schedules."""
    handles = []
    thread = threading.Thread(target=lambda: handles.append(loop.call_soon_threadsafe(callback)))
    thread.start()
    thread.join()
    return handles[0]


@needs_shared_handles
def test_the_class_is_asyncios(loop):
    handle = scheduled(loop, print)
    assert isinstance(handle, asyncio.events._ThreadSafeHandle)
    assert not handle.cancelled()
    handle.cancel()
    assert handle.cancelled()
    handle.cancel()
    assert "cancelled" in repr(handle)


@needs_shared_handles
@pytest.mark.parametrize("ask", ["cancel", "cancelled"])
def test_another_thread_waits_while_the_callback_runs(loop, ask):
    """Whoever has cancelled, or asked, can be sure that the callback is not in the middle of something."""
    events = []
    began, asked = threading.Event(), threading.Event()

    def callback():
        began.set()
        asked.wait(5)
        # The other thread is in its call by now, or will be: it must not return before this one ends.
        threading.Event().wait(0.05)
        events.append("callback ended")
        loop.stop()

    def other():
        began.wait(5)
        asked.set()
        getattr(handle, ask)()
        events.append("answered")

    handle = loop.call_soon_threadsafe(callback)
    thread = threading.Thread(target=other)
    thread.start()
    loop.run_forever()
    thread.join()
    assert events == ["callback ended", "answered"]


def test_a_callback_may_cancel_its_own_handle(loop):
    seen = []

    def callback():
        handle.cancel()
        seen.append(handle.cancelled())
        loop.stop()

    handle = loop.call_soon_threadsafe(callback)
    loop.run_forever()
    assert seen == [True]


def test_a_raising_callback_leaves_its_handle_usable(loop, reports):
    def callback():
        loop.call_soon(loop.stop)
        raise ZeroDivisionError

    handle = loop.call_soon_threadsafe(callback)
    loop.run_forever()
    (report,) = reports.take(1)
    assert report["handle"] is handle
    handle.cancel()
    assert handle.cancelled()
