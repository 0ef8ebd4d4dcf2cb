"""Serving: order, back-pressure, switches between runs, failures, deadlines, the end."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from serving_cases import SHAPE, Scripted, Sleeper, answers, images_of

from mathnas.errors import InvalidInputError
from mathnas.runtime.controller import Controller
from mathnas.runtime.decisions import Recorder, read_decisions, replay
from mathnas.runtime.goals import Goal
from mathnas.runtime.observation import Observation
from mathnas.runtime.policy import Decision, Policy, Reason
from mathnas.runtime.serving import Overloaded, Served, Server, ServingError
from mathnas.space import Network
from mathnas.testing.policies import policy_space, policy_table, policy_times

_T = TypeVar("_T")
ZERO = (0, 0, 0)


def run(main: Coroutine[Any, Any, _T]) -> _T:
    async def bounded() -> _T:
        return await asyncio.wait_for(main, 60)

    return asyncio.run(bounded())


def fixed(network: Network = ZERO, **options: Any) -> Scripted:
    return Scripted([network], **options)


# ---- answers -------------------------------------------------------------------------------------


def test_requests_are_answered_in_their_order_by_the_network_that_served() -> None:
    networks: list[Network] = [(0, 0, 0), (1, 2, 3), (3, 3, 3), (2, 0, 1)]

    async def main() -> tuple[list[Served], list[int]]:
        ended: list[int] = []
        async with Server(Sleeper(), Scripted(list(networks))) as server:

            async def ask(number: int) -> Served:
                served = await server.submit(images_of(number))
                ended.append(number)
                return served

            return list(await asyncio.gather(*(ask(number) for number in range(20)))), ended

    served, ended = run(main())
    assert ended == list(range(20))
    for number, answer in enumerate(served):
        # one decision after every run, until the script ends
        assert answer.network == networks[min(number, 3)]
        assert np.array_equal(answer.outputs, answers(images_of(number), answer.network))


def test_the_status_tells_what_happened() -> None:
    async def main() -> None:
        policy = Scripted([(0, 0, 0), (1, 1, 0), (1, 1, 3)])
        async with Server(Sleeper(), policy, quality=lambda net: 70.0 + sum(net)) as server:
            before = server.status
            assert (before.network, before.latency_ms, before.mean_quality) == (ZERO, None, None)
            for count in (2, 3, 5):
                await server.submit(images_of(*range(count)))
        status = server.status  # stopped, so everything is counted
        assert (status.requests, status.runs, status.images) == (3, 3, 10)
        assert (status.switches, status.changed, status.misses) == (2, 3, 0)
        assert status.networks == {(0, 0, 0): 2, (1, 1, 0): 3, (1, 1, 3): 5}
        assert status.quality == 75.0
        assert status.mean_quality == pytest.approx((2 * 70 + 3 * 72 + 5 * 75) / 10)
        assert status.reason is Reason.ROOM
        assert status.latency_ms == np.median(server.latencies_ms)
        record = status.to_dict()
        assert record["networks"][0] == {"network": [1, 1, 3], "images": 5}  # type: ignore[index]
        assert len(policy.seen) == 3

    run(main())


def test_waiting_images_run_together_up_to_the_largest_batch() -> None:
    async def main() -> None:
        sleeper = Sleeper()
        sleeper.open.clear()
        async with Server(sleeper, fixed(), max_batch=4) as server:
            first = asyncio.create_task(server.submit(images_of(100)))
            await asyncio.to_thread(sleeper.running.wait)
            sizes = [1, 1, 2, 1, 6, 3, 2]
            tasks = [
                asyncio.create_task(server.submit(images_of(*range(10 * i, 10 * i + size))))
                for i, size in enumerate(sizes)
            ]
            await asyncio.sleep(0)
            sleeper.open.set()
            served = await asyncio.gather(first, *tasks)
        # 1+1+2 | 1 | 6, which is more than a batch, alone | 3 | 2
        assert sleeper.batches == [1, 4, 1, 6, 3, 2]
        for i, size in enumerate(sizes):
            wanted = answers(images_of(*range(10 * i, 10 * i + size)), ZERO)
            assert np.array_equal(served[i + 1].outputs, wanted)
        assert served[1].latency_ms == served[2].latency_ms

    run(main())


def test_runs_of_a_fixed_size_are_filled_up() -> None:
    async def main() -> None:
        sleeper = Sleeper()
        async with Server(sleeper, fixed(), max_batch=4, fixed_batch=True) as server:
            for count in (1, 3, 4):
                images = images_of(*range(1, count + 1))
                served = await server.submit(images)
                assert np.array_equal(served.outputs, answers(images, ZERO))
            with pytest.raises(InvalidInputError, match="at most 4 images, as many as a run"):
                await server.submit(images_of(*range(5)))
        assert sleeper.batches == [4, 4, 4]
        assert server.status.images == 8

    run(main())


def test_the_oldest_request_waits_for_others() -> None:
    async def main() -> None:
        sleeper = Sleeper()
        async with Server(sleeper, fixed(), max_batch=3, max_wait_ms=20_000) as server:
            tasks = [asyncio.create_task(server.submit(images_of(i))) for i in range(2)]
            await asyncio.sleep(0.05)
            assert sleeper.batches == []
            # the third fills the batch, so nobody waits for the 20 seconds
            await asyncio.gather(*tasks, server.submit(images_of(2)))
            assert sleeper.batches == [3]
            # and the end does not wait for them either
            last = asyncio.create_task(server.submit(images_of(3)))
            await asyncio.sleep(0)
        assert (await last).outputs[0, 0] == 3

    run(main())


# ---- back-pressure -------------------------------------------------------------------------------


def test_a_full_queue_refuses_and_says_when_to_try_again() -> None:
    async def main() -> None:
        sleeper = Sleeper(part_seconds=0.002)
        async with Server(sleeper, fixed(), queue=3) as server:
            await server.submit(images_of(0))
            sleeper.running.clear()
            sleeper.open.clear()
            running = asyncio.create_task(server.submit(images_of(1)))
            await asyncio.to_thread(sleeper.running.wait)
            waiting = [server.request(images_of(i)) for i in range(3)]
            with pytest.raises(Overloaded, match="3 requests wait, and no more may") as refused:
                await server.submit(images_of(9))
            assert refused.value.retry_after_s >= 4 * 0.006
            assert (server.status.queue, server.status.refused) == (3, 1)
            sleeper.open.set()
            await asyncio.gather(running, *map(asyncio.wrap_future, waiting))
            await server.submit(images_of(9))  # there is room again
            assert server.status.queue == 0

    run(main())


def test_a_cancelled_request_is_not_run() -> None:
    async def main() -> None:
        sleeper = Sleeper()
        sleeper.open.clear()
        async with Server(sleeper, fixed()) as server:
            running = asyncio.create_task(server.submit(images_of(1)))
            await asyncio.to_thread(sleeper.running.wait)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(server.submit(images_of(2)), 0.02)
            sleeper.open.set()
            await running
            await server.submit(images_of(3))
        assert sleeper.batches == [1, 1]
        assert server.status.requests == 2

    run(main())


# ---- failures ------------------------------------------------------------------------------------


def test_a_run_that_raises_answers_its_request_and_serving_goes_on() -> None:
    async def main() -> None:
        sleeper = Sleeper()
        sleeper.fails = lambda images: bool((images == 13).any())
        async with Server(sleeper, fixed()) as server:
            with pytest.raises(ServingError, match="RuntimeError: the accelerator is on fire"):
                await server.submit(images_of(13))
            assert (await server.submit(images_of(1))).outputs[0, 0] == 1
        assert (server.status.failures, server.status.requests) == (1, 1)

    run(main())


def test_of_a_batch_only_the_request_at_fault_fails() -> None:
    async def main() -> None:
        sleeper = Sleeper()
        sleeper.fails = lambda images: bool((images == 13).any())
        sleeper.open.clear()
        async with Server(sleeper, fixed(), max_batch=8) as server:
            first = server.request(images_of(0))
            await asyncio.to_thread(sleeper.running.wait)
            futures = [server.request(images_of(value)) for value in (1, 13, 2)]
            sleeper.open.set()
            found = await asyncio.gather(
                *map(asyncio.wrap_future, (first, *futures)), return_exceptions=True
            )
        assert isinstance(found[2], ServingError)
        good = [answer for answer in found if isinstance(answer, Served)]
        assert [answer.outputs[0, 0] for answer in good] == [0, 1, 2]
        assert sleeper.batches == [1, 3, 1, 1, 1]

    run(main())


def test_outputs_that_are_not_as_many_as_images_are_a_failure() -> None:
    class Short(Sleeper):
        def run(self, images: Any) -> Any:
            result = super().run(images)
            result.outputs = result.outputs[:-1]
            return result

    async def main() -> None:
        async with Server(Short(), fixed()) as server:
            with pytest.raises(ServingError, match="2 images gave 1 outputs"):
                await server.submit(images_of(1, 2))

    run(main())


@pytest.mark.parametrize("what", ["policy", "network"])
def test_a_policy_at_fault_does_not_end_the_serving(what: str) -> None:
    class Faulty(Policy):
        name = "faulty"

        def start(self, time: float) -> Decision:
            return Decision(time, Reason.START, ZERO, 0)

        def observe(self, observation: Observation) -> Decision | None:
            if what == "policy":
                raise ZeroDivisionError("no times")
            return Decision(observation.time, Reason.ROOM, (9, 9, 9), 3)

    async def main() -> None:
        async with Server(Sleeper(), Faulty()) as server:
            for value in range(3):
                assert (await server.submit(images_of(value))).network == ZERO
        status = server.status
        assert (status.requests, status.faults, status.network) == (3, 3, ZERO)
        expected = "ZeroDivisionError: no times" if what == "policy" else "blocks 0 to 3, but got 9"
        assert expected in str(status.last_fault)

    run(main())


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, *SHAPE)), "float32 array, but got float64"),
        ([[0.0]], "float32 array, but got list"),
        (np.zeros((0, *SHAPE), np.float32), "at least one"),
        (np.zeros(SHAPE, np.float32), r"shape \(images, 1, 2, 2\)"),
        (np.zeros((1, 1, 2, 3), np.float32), r"but got \(1, 1, 2, 3\)"),
    ],
)
def test_other_images_are_refused(images: Any, message: str) -> None:
    async def main() -> None:
        sleeper = Sleeper()
        async with Server(sleeper, fixed(), input_shape=SHAPE) as server:
            with pytest.raises(InvalidInputError, match=message):
                await server.submit(images)
        assert sleeper.batches == []

    run(main())


@pytest.mark.parametrize(
    "options",
    [{"queue": 0}, {"max_batch": 0}, {"max_wait_ms": -1.0}, {"deadline_ms": float("nan")}],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match="but got"):
        Server(Sleeper(), fixed(), **options)


# ---- deadlines -----------------------------------------------------------------------------------


def test_misses_are_counted_against_the_deadline_that_holds() -> None:
    async def main() -> None:
        policy = fixed(goal=Goal(deadline_ms=60_000, floor=60.0))
        async with Server(Sleeper(part_seconds=0.002), policy) as server:
            assert server.deadline_ms == 60_000
            await server.submit(images_of(1))
            assert server.status.misses == 0
            server.set_deadline(5)
            await server.submit(images_of(2))
        assert policy.goals == [Goal(deadline_ms=5, floor=60.0)], "the rest of the goal stays"
        assert (server.status.misses, server.status.deadline_ms) == (1, 5.0)

    run(main())


def test_a_deadline_that_the_goal_does_not_allow_changes_nothing() -> None:
    server = Server(Sleeper(), fixed(goal=Goal(deadline_ms=20, low_ms=10)))
    with pytest.raises(InvalidInputError, match="low_ms < deadline_ms"):
        server.set_deadline(5)
    assert server.deadline_ms == 20


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_deadline_is_positive(value: float) -> None:
    with pytest.raises(InvalidInputError, match="positive milliseconds"):
        Server(Sleeper(), fixed()).set_deadline(value)


def test_a_policy_without_a_goal_says_so() -> None:
    class Plain(Policy):
        name = "plain"

        def start(self, time: float) -> Decision:
            return Decision(time, Reason.START, ZERO, 0)

        def observe(self, observation: Observation) -> Decision | None:
            return None

    with pytest.raises(InvalidInputError, match="the policy 'plain' keeps no goal"):
        Server(Sleeper(), Plain()).set_deadline(5)


def test_the_controller_serves_and_its_log_is_replayed(tmp_path: Path) -> None:
    """Deadlines set while it serves are followed, and the log makes the same decisions again."""

    def controller() -> Controller:
        return Controller(policy_table(), policy_times(), Goal(deadline_ms=8.0))

    async def main() -> None:
        deciding = controller()
        with Recorder(deciding, tmp_path / "log.jsonl") as policy:
            sleeper = Sleeper(policy_space(), times=policy_times())
            async with Server(sleeper, policy, queue=100) as server:
                assert server.deadline_ms == 8.0
                assert server.status.network == deciding.network
                for deadline in (20.0, 7.0, 0.001, 50.0):
                    server.set_deadline(deadline)
                    await asyncio.gather(*(server.submit(images_of(i)) for i in range(60)))
            assert server.status.network == deciding.network
            assert server.status.faults == 0

    run(main())
    (session,) = read_decisions(tmp_path / "log.jsonl")
    assert len(session.observations) == 240
    assert [goal.deadline_ms for goal in session.events if isinstance(goal, Goal)] == [
        *(20.0, 7.0, 0.001, 50.0)
    ]
    reached = [(d.limit_ms, d.reason is Reason.UNREACHABLE) for d in session.decisions]
    assert list(dict.fromkeys(reached)) == [
        *((8.0, False), (20.0, False), (7.0, False), (0.001, True), (50.0, False))
    ]
    assert list(replay(session, controller())) == []


# ---- the end -------------------------------------------------------------------------------------


def test_what_waits_is_answered_before_the_end() -> None:
    async def main() -> None:
        server = Server(Sleeper(part_seconds=0.001), fixed(), queue=50)
        server.start()
        futures = [server.request(images_of(i)) for i in range(40)]
        await server.stop()
        assert [future.result(0).outputs[0, 0] for future in futures] == list(range(40))
        with pytest.raises(ServingError, match="not running"):
            await server.submit(images_of(1))
        with pytest.raises(ServingError, match="started once"):
            server.start()
        await server.stop()  # twice is as good as once

    run(main())


def test_a_server_that_was_not_started_takes_nothing() -> None:
    with pytest.raises(ServingError, match="not running"):
        Server(Sleeper(), fixed()).request(images_of(1))


def test_nobody_waits_for_a_worker_that_died() -> None:
    class Deadly(Sleeper):
        def run(self, images: Any) -> Any:
            super().run(images)
            raise SystemExit  # ends the thread, and is no Exception

    dynamic = Deadly()
    dynamic.open.clear()
    server = Server(dynamic, fixed())
    server.start()
    futures = [server.request(images_of(i)) for i in range(3)]
    dynamic.open.set()
    for future in futures:
        with pytest.raises(ServingError, match="ended by SystemExit"):
            future.result(30)
    with pytest.raises(ServingError, match="not running"):
        server.request(images_of(1))
    assert server.status.last_fault == "SystemExit: "


# ---- threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_batch", [1, 16])
def test_no_request_is_lost_or_mixed_while_networks_and_deadlines_change(max_batch: int) -> None:
    """Three threads ask, one switches at random moments, one sets deadlines, the policy switches
    too: every answer is one network's, and every request has one."""
    rng = random.Random(max_batch)
    sleeper = Sleeper()
    space = sleeper.space

    def random_network(source: random.Random) -> Network:
        return tuple(source.randrange(size) for size in space.sizes)

    policy = Scripted([random_network(rng) for _ in range(5000)])
    server = Server(sleeper, policy, queue=64, max_batch=max_batch)
    server.start()
    done = threading.Event()

    def disturb(seed: int) -> int:
        source = random.Random(seed)
        count = 0
        while not done.is_set():
            sleeper.switch(random_network(source))
            server.set_deadline(source.uniform(1, 100))
            assert server.status.requests >= 0
            time.sleep(source.random() / 2000)
            count += 1
        return count

    def ask(first: int) -> int:
        pending: list[tuple[int, Future[Served]]] = []
        refused = 0
        for number in range(first, first + 700):
            while True:
                try:
                    pending.append((number, server.request(images_of(number, -number))))
                    break
                except Overloaded:
                    refused += 1
                    time.sleep(0.001)
        for number, future in pending:
            served = future.result(60)
            assert np.array_equal(
                served.outputs, answers(images_of(number, -number), served.network)
            )
        return refused

    with ThreadPoolExecutor(5) as pool:
        disturbers = [pool.submit(disturb, seed) for seed in range(2)]
        try:
            refused = sum(pool.map(ask, (0, 10_000, 20_000), timeout=120))
        finally:
            done.set()
        assert all(future.result() > 0 for future in disturbers)
    server.close()
    status = server.status
    assert (status.requests, status.images, status.queue) == (2100, 4200, 0)
    assert status.refused == refused
    assert status.failures == status.faults == 0
    assert sum(status.networks.values()) == 4200
    assert len(policy.goals) > 0
