"""Slabs through several threads: what is taken, in which order, how much happens at the same time, what errors do."""

import _thread
import threading
import time

import numpy as np
import pytest

from quantcore.files import streaming
from quantcore.files.streaming import Progress, Slab, cut, stream

N_THREADS = [1, 2, 5]


def read(slab, buffer):
    buffer[:] = slab % 256
    return buffer[: 1 + slab % len(buffer)]


def run(
    slabs,
    *,
    n_threads=2,
    read=read,
    compute=lambda slab, data, buffer: data.copy(),
    take=lambda *_: None,
    in_order=False,
):
    told = []
    progress = Progress(1 << 60, lambda *state: told.append(state))
    steps = {"read": read, "compute": compute, "take": take, "progress": progress}
    stream(slabs, **steps, buffer_bytes=(8, 16), n_threads=n_threads, in_order=in_order)
    return told


@pytest.mark.parametrize("n_threads", [*N_THREADS, None])
@pytest.mark.parametrize("n_slabs", [0, 1, 2, 3, 200])
def test_results_are_taken_in_order_with_their_own_buffers(n_threads, n_slabs):
    taken = []

    def compute(slab, data, buffer):
        time.sleep(0.0003 * (slab % 3))  # slabs overtake each other
        buffer[: data.size] = data
        return data, buffer[: data.size]

    def take(slab, result):
        time.sleep(0.0003 * (slab % 2))
        for part in result:
            np.testing.assert_array_equal(part, np.full(1 + slab % 8, slab % 256))
        taken.append((slab, threading.current_thread()))

    told = run(range(n_slabs), n_threads=n_threads, compute=compute, take=take)
    assert taken == [(slab, threading.current_thread()) for slab in range(n_slabs)]
    assert told == [(int(done), 1 << 60) for done in np.cumsum([1 + slab % 8 for slab in range(n_slabs)])]


@pytest.mark.parametrize("n_threads", N_THREADS)
def test_as_many_slabs_are_computed_at_once_as_there_are_threads(n_threads):
    all_at_once = threading.Event()
    lock = threading.Lock()
    now = most = 0

    def compute(slab, data, buffer):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
            if now == n_threads:
                all_at_once.set()
        assert all_at_once.wait(timeout=60)
        with lock:
            now -= 1

    run(range(4 * n_threads), n_threads=n_threads, compute=compute)
    assert most == n_threads


def test_next_slab_is_read_while_one_is_computed_and_one_is_taken():
    together = threading.Barrier(3)
    slabs_of = {"read": 2, "compute": 1, "take": 0}

    def meet(step, slab):
        if slab == slabs_of[step]:
            together.wait(timeout=60)

    def reading(slab, buffer):
        meet("read", slab)
        return buffer

    run(
        range(3),
        n_threads=1,
        read=reading,
        compute=lambda slab, *_: meet("compute", slab),
        take=lambda slab, _: meet("take", slab),
    )


@pytest.mark.parametrize("n_threads", [*N_THREADS, 10**6])
def test_buffers_are_few_and_used_again(n_threads):
    seen = set()

    def compute(slab, data, buffer):
        seen.add((data.ctypes.data, buffer.ctypes.data))

    run(range(200), n_threads=n_threads, compute=compute)
    assert len(seen) <= min(n_threads, 64) + 1 + streaming._N_WAITING


@pytest.mark.parametrize("n_threads", N_THREADS)
@pytest.mark.parametrize("step", ["read", "compute", "take"])
def test_first_error_is_raised_and_nothing_behind_it_taken(step, n_threads):
    taken = []

    def failing(name, slab, result):
        if name == step and slab >= 10:
            time.sleep(0.002 * (slab == 10))  # a later one fails earlier
            raise ValueError(f"slab {slab}")
        return result

    with pytest.raises(ValueError, match=r"^slab 10$"):
        run(
            range(1000),
            n_threads=n_threads,
            read=lambda slab, buffer: failing("read", slab, buffer),
            compute=lambda slab, data, _: failing("compute", slab, data),
            take=lambda slab, data: taken.append(failing("take", slab, slab)),
        )
    assert taken == list(range(10))


def test_in_order_reads_and_computes_slab_after_slab():
    calls = []

    def reading(slab, buffer):
        time.sleep(0.0003 * (slab % 3))
        calls.append(("read", slab))
        return buffer

    run(range(50), n_threads=5, read=reading, compute=lambda slab, *_: calls.append(("compute", slab)), in_order=True)
    assert calls == [(step, slab) for slab in range(50) for step in ("read", "compute")]


def test_interrupt_ends_all_threads():
    started = []

    def reading(slab, buffer):
        started.append(slab)
        return buffer

    def take(slab, _):
        if slab == 5:
            raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        run(iter(range(10**6)), read=reading, take=take)
    assert threading.active_count() == before
    assert len(started) < 20


@pytest.mark.parametrize(("size", "ends"), [(0, []), (1, [1]), (4, [4]), (5, [4, 5]), (12, [4, 8, 12])])
def test_an_item_is_cut_into_slabs_that_follow_one_another(size, ends):
    slabs = list(cut("tensor", size, 4))
    assert slabs == [Slab("tensor", start, stop) for start, stop in zip([0, *ends], ends, strict=False)]
    assert sum(slab.size for slab in slabs) == size


def test_progress_goes_on_through_streams_and_ends_with_the_total():
    told = []
    progress = Progress(40, lambda *state: told.append(state))
    for _ in range(2):  # the second one reads two bytes twice
        stream(
            cut("tensor", 21, 7),
            read=lambda slab, buffer: buffer[: slab.size],
            compute=lambda *_: None,
            take=lambda *_: None,
            buffer_bytes=(7, 0),
            n_threads=2,
            progress=progress,
        )
    assert told == [(done, 40) for done in (7, 14, 21, 28, 35, 40)]


def test_progress_that_nobody_asked_for_is_only_counted():
    progress = Progress(2, None)
    progress.advance(1)
    progress.advance(1)
    assert progress._done == 2


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("n_started", [0, 1])
def test_fewer_threads_than_wanted(monkeypatch, n_started, in_order):
    left, own = [n_started], _thread.start_new_thread

    def start(*arguments):
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        return own(*arguments)

    monkeypatch.setattr(_thread, "start_new_thread", start)
    taken, threads = [], set()

    def compute(slab, data, buffer):
        threads.add(threading.get_ident())
        return data.copy()

    def take(slab, result):
        taken.append((slab, result.tolist()))

    run(range(50), n_threads=4, compute=compute, take=take, in_order=in_order)
    assert taken == [(slab, [slab % 256] * (1 + slab % 8)) for slab in range(50)]
    assert len(threads) == 1 and (threading.get_ident() in threads) == (n_started == 0) and left == [0]
