"""Threads side by side: results in their places, errors to whoever asks, nothing left behind."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from xtarfs.pool import Pool


def test_every_call_gives_its_own_result_or_error() -> None:
    def work(number: int) -> int:
        if number % 3 == 0:
            raise ValueError(str(number))
        return number * number

    with Pool(3) as pool:
        tasks = [pool.submit(partial(work, number)) for number in range(50)]
        for number, task in enumerate(tasks):
            if number % 3:
                assert task.result() == task.result() == number * number
            else:
                with pytest.raises(ValueError, match=f"^{number}$"):
                    task.result()


def test_threads_are_started_as_they_are_needed_and_end() -> None:
    before = threading.active_count()
    gate = threading.Event()
    with Pool(4) as pool:
        assert threading.active_count() == before
        waiting = [pool.submit(gate.wait) for _ in range(2)]
        assert threading.active_count() == before + 2
        waiting += [pool.submit(gate.wait) for _ in range(9)]
        assert threading.active_count() == before + 4
        gate.set()
        assert all(task.result() for task in waiting)
    assert threading.active_count() == before


def test_calls_run_beside_one_another() -> None:
    barrier = threading.Barrier(3, timeout=30)  # whoever comes alone fails
    with Pool(3) as pool:
        for task in [pool.submit(barrier.wait) for _ in range(3)]:
            task.result()


def test_what_was_cancelled_or_has_not_begun_at_the_end_is_not_done() -> None:
    begun, gate = threading.Event(), threading.Event()
    done: list[str] = []

    def hold() -> None:
        begun.set()
        gate.wait()
        done.append("begun")

    pool = Pool(1)
    pool.submit(hold)
    begun.wait()
    cancelled = pool.submit(partial(done.append, "cancelled"))
    cancelled.cancel()
    follows = pool.submit(partial(done.append, "follows"))
    threading.Timer(0.05, gate.set).start()
    follows.result()
    assert done == ["begun", "follows"]
    gate.clear()
    begun.clear()
    pool.submit(hold)
    begun.wait()
    pool.submit(partial(done.append, "too late"))
    threading.Timer(0.2, gate.set).start()
    pool.close()
    assert done == ["begun", "follows", "begun"]
