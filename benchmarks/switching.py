"""What switching costs: the switch, deciding before it, and cutting networks into resident parts.

    python benchmarks/switching.py [--package FILE] [--requests N] [--switches N] [--rounds N]

The supernet on CIFAR-10 in five stages with the five published candidates each: 3,125 networks (32
pixels, one thread, fp32), deployed for onnxruntime with statistics of random images, on which times
do not depend; or the blocks of a package, of the same layers. What is compared is timed in turns;
the 10 % quantile over slices leaves out most of what else the machine did. At last two threads send
requests while a third one switches at random moments: every answer must be, to the bit, that of the
network that it says, and that one must have served meanwhile.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

import mathnas as mn
from _machine import header
from mathnas.devices.onnxruntime import session_options
from mathnas.devices.timing import TimingSettings, time_in_turns
from mathnas.nets.files import read_supernet
from mathnas.nets.grouped import GroupedSupernet
from mathnas.nets.inputs import example_inputs, input_shape
from mathnas.nets.mobilenetv3 import MobileNetV3Net
from mathnas.nets.onnx_export import export_onnx
from mathnas.runtime.controller import Controller
from mathnas.runtime.deploying import deploy
from mathnas.runtime.dynamic import DynamicNetwork, Run
from mathnas.runtime.goals import Goal
from mathnas.runtime.observation import PartTimes
from mathnas.runtime.onnx_parts import OnnxResident
from mathnas.runtime.package import Package
from mathnas.runtime.resident import Images
from mathnas.runtime.torch_parts import TorchParts
from mathnas.search import Answer
from mathnas.space import Network
from mathnas.spaces.mobilenetv3 import PUBLISHED_CANDIDATES
from mathnas.table import BlockEffects

SUPERNET = Path(__file__).parent / "supernets" / "cifar10_mobilenetv3.safetensors"
BATCHES = (1, 64)
INPUTS = 4  # different requests
Floats = npt.NDArray[np.float64]


def opened() -> GroupedSupernet:
    fine, _ = read_supernet(SUPERNET)
    assert isinstance(fine, MobileNetV3Net)
    return GroupedSupernet(fine.eval(), fine.space.stages(PUBLISHED_CANDIDATES["cpu"]))


def viewed(space: mn.SearchSpace) -> GroupedSupernet:
    """The supernet in a package's groups."""
    assert isinstance(space, mn.GroupedSpace)
    return GroupedSupernet(opened().fine, space)


def deployed(supernet: GroupedSupernet) -> Package:
    batches = [torch.from_numpy(images(100, seed, input_shape(supernet))) for seed in range(2)]
    zeros = np.zeros(supernet.space.num_blocks)
    table = table_of(PartTimes(supernet.space, 0.0, zeros, 0.0))
    return deploy(supernet, table, batches)


def chosen(space: mn.SearchSpace) -> dict[str, Network]:
    """The networks of fewest, about average and most MACs."""
    assert space.block_macs is not None
    own = np.split(space.block_macs, space.offsets[1:-1])
    return {
        "smallest": tuple(int(macs.argmin()) for macs in own),
        "average": space.average_macs_network(),
        "largest": tuple(int(macs.argmax()) for macs in own),
    }


def images(batch: int, seed: int, shape: tuple[int, int, int]) -> Images:
    return np.random.default_rng(seed).random((batch, *shape), dtype=np.float32)


def table_of(times: PartTimes) -> mn.BlockTable:
    """Measured latencies, and made-up accuracies that grow with MACs: solving takes as long."""
    space = times.space
    assert space.block_macs is not None
    gains = 4 * np.log1p(space.block_macs / space.block_macs.mean())
    first = (0,) * space.num_nodes

    def column(name: str, values: Floats, base: float) -> BlockEffects:
        own = values - np.repeat(values[space.offsets[:-1]], space.sizes)
        contexts = np.ones(space.num_blocks)
        return BlockEffects(mn.metric_named(name), base, own, np.zeros(len(own)), contexts)

    columns = {
        "accuracy": column("accuracy", gains, 85.0),
        "latency_ms": column("latency_ms", times.blocks, times.latency(first)),
    }
    return mn.BlockTable(space, first, columns, {"method": "benchmark"})


class Times:
    """Seconds of calls: by the clock, and those that the calling thread spent on a processor, which
    what else runs on the machine hardly touches."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.busy: list[float] = []

    @contextmanager
    def call(self) -> Iterator[None]:
        busy, start = time.thread_time(), time.perf_counter()
        yield
        self.wall.append(time.perf_counter() - start)
        self.busy.append(time.thread_time() - busy)

    def row(self, name: str, unit: float) -> str:
        cells = [
            f"{np.quantile(seconds, q) * unit:10.3f}"
            for seconds in (self.wall, self.busy)
            for q in (0.5, 0.99, 1)
        ]
        return f"{name:28}{''.join(cells)}"


HEADING = (
    f"{'':28}{'by the clock':>30}{'processor time':>30}\n"
    f"{'':28}{'p50':>10}{'p99':>10}{'max':>10}{'p50':>10}{'p99':>10}{'max':>10}"
)


# ---- switching and deciding ----------------------------------------------------------------------


def switching(dynamic: DynamicNetwork, count: int, rng: np.random.Generator) -> None:
    """Times of switches of one node, and of all, to random blocks."""
    sizes = np.array(dynamic.space.sizes)
    print(f"\nswitch, {count} times each, in microseconds\n{HEADING}")
    for name in ("one node", "all nodes"):
        times = Times()
        for _ in range(count):
            network = np.array(dynamic.network)
            nodes = rng.integers(len(sizes)) if name == "one node" else slice(None)
            network[nodes] = (network + rng.integers(1, sizes))[nodes] % sizes[nodes]
            other = tuple(network.tolist())
            with times.call():
                dynamic.switch(other)
        print(times.row(name, 1e6))


def deciding(
    dynamic: DynamicNetwork, table: mn.BlockTable, times: PartTimes, count: int, seed: int
) -> None:
    """Times of an exact solve for a random deadline and the switch to its answer; and of what the
    controller does from an observation on."""
    rng = np.random.default_rng(seed)
    ends = [times.latency(network) for network in chosen(table.space).values()]
    deadlines = rng.uniform(1.05 * min(ends), 1.2 * max(ends), count).tolist()
    solves, controls = Times(), Times()
    for deadline in deadlines:
        with solves.call():
            answer = mn.search(table, maximize="accuracy", limits={"latency_ms": deadline})
            assert isinstance(answer, Answer)  # it is above the fastest network's latency
            dynamic.switch(answer.network)
    controller = Controller(table, times, Goal(deadline_ms=max(ends)))
    dynamic.switch(controller.start(time.perf_counter()).network)
    given = images(1, 0, _shape(dynamic))
    changes = 0
    for deadline in deadlines:
        observation = dynamic.run(given).observation
        controller.set_goal(Goal(deadline_ms=deadline))
        with controls.call():
            decision = controller.observe(observation)
            if decision is not None:
                changes += bool(dynamic.switch(decision.network).changed)
    print(f"\nfor a new deadline, {count} times, in milliseconds\n{HEADING}")
    print(solves.row("mathnas.search and switch", 1e3))
    print(controls.row("controller and switch", 1e3) + f"   ({changes} switches)")


# ---- what cutting costs --------------------------------------------------------------------------


def session_maker(
    supernet: GroupedSupernet, network: Network
) -> Callable[[], onnxruntime.InferenceSession]:
    """What makes the session of a whole network, for any batch."""
    graph = export_onnx(supernet.extract(network), example_inputs(supernet, 2), any_batch=True)
    return partial(
        onnxruntime.InferenceSession,
        graph.SerializeToString(),
        session_options(1),
        providers=["CPUExecutionProvider"],
    )


def cutting(
    supernet: GroupedSupernet, onnx: DynamicNetwork, eager: DynamicNetwork, rounds: int
) -> None:
    settings = TimingSettings(rounds=rounds)
    shape = input_shape(supernet)
    print(f"\none run in milliseconds; {settings}")
    print("(by the clock / processor time; ratio of onnxruntime's processor times)")
    print(f"{'':20}{'onnxruntime':>38}{'torch':>39}")
    print(f"{'':20}{''.join(f'{n:>16}' for n in ('parts', 'whole'))}{'ratio':>7}", end="")
    print(f"{''.join(f'{n:>18}' for n in ('parts', 'whole'))}   parts of onnxruntime")
    for name, network in chosen(supernet.space).items():
        session = session_maker(supernet, network)()
        static = supernet.extract(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        onnx.switch(network)
        eager.switch(network)
        for batch in BATCHES:
            given = images(batch, 0, shape)
            tensor = torch.from_numpy(given).to(memory_format=torch.channels_last)

            calls: list[Callable[[], object]] = [
                partial(onnx.run, given),
                partial(_run_session, session, given),
                partial(eager.run, given),
                partial(_run_module, static, tensor),
            ]
            parts, one, resident, module = time_in_turns(calls, settings)
            ratio = parts.cpu_ms / one.cpu_ms
            own = np.median([onnx.run(given).observation.parts_ms for _ in range(50)], axis=0)
            cells = [f"{t.value:.3f} /{t.cpu_ms:7.3f}" for t in (parts, one, resident, module)]
            print(
                f"{f'{name}, batch {batch}':20}{cells[0]:>16}{cells[1]:>16}{ratio:7.2f}"
                f"{cells[2]:>18}{cells[3]:>18}   " + " ".join(f"{ms:.3f}" for ms in own)
            )


def _run_session(session: onnxruntime.InferenceSession, given: Images) -> object:
    return session.run(["logits"], {"images": given})[0]


def _run_module(module: torch.nn.Module, images: torch.Tensor) -> object:
    with torch.inference_mode():
        return module(images)


def building(supernet: GroupedSupernet, count: int) -> None:
    """How long the other way takes: a new session for the whole network."""
    print(f"\na session for a whole network, from its graph in memory, {count} times, milliseconds")
    print(HEADING)
    for name, network in chosen(supernet.space).items():
        build, times = session_maker(supernet, network), Times()
        for _ in range(count):
            with times.call():
                build()
        print(times.row(name, 1e3))


# ---- memory --------------------------------------------------------------------------------------


def resident_bytes() -> int:
    """Of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this system does not say how much memory a process has")


def load_alone(path: str) -> None:
    """In a process of its own: what loading the parts adds to it, and what runs add to that."""
    package = Package.read(path)
    before = resident_bytes()
    dynamic = DynamicNetwork(OnnxResident.read(package), package.space.reference)
    found = [resident_bytes() - before]
    for batch in BATCHES:
        for network in package.space.sample(50):
            dynamic.switch(network)
            dynamic.run(images(batch, 0, package.input_shape))
        found.append(resident_bytes() - before)
    print(*found)


def memory(package: Package) -> None:
    largest = package.weight_bytes(chosen(package.space)["largest"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.mathnas"
        package.write(path)
        command = [sys.executable, __file__, "--load", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        size = path.stat().st_size
    loaded, one, many = map(int, done.stdout.split())
    print(f"\nmemory of {package.space.num_networks} networks: {len(package.parts)} parts, MB")
    for name, number in (
        ("weights of the largest network", largest),
        ("weights of all parts, shared ones once", package.weight_bytes()),
        ("the package's file", size),
        ("what loading all parts adds to a process", loaded),
        (f"... after 50 networks ran a batch of {BATCHES[0]}", one),
        (f"... after 50 networks ran a batch of {BATCHES[1]}", many),
    ):
        print(f"{name:44}{number / 1e6:8.2f}{number / largest:8.2f} times the largest")


# ---- requests under switches ---------------------------------------------------------------------


def requests(dynamic: DynamicNetwork, count: int, seed: int) -> None:
    """Two threads send requests, a third one switches; every answer is compared to the bit."""
    space = dynamic.space
    inputs = [images(1, place, _shape(dynamic)) for place in range(INPUTS)]
    answers: list[dict[Network, bytes]] = [{} for _ in inputs]
    for network in space.enumerate():
        dynamic.switch(network)
        for own, given in zip(answers, inputs, strict=True):
            own[network] = dynamic.run(given).outputs.tobytes()
    distinct = [len(set(own.values())) for own in answers]
    history = [dynamic.network]
    done = 0
    over = threading.Event()
    found: list[list[tuple[int, int, int, Run]]] = [[], []]

    def switch() -> None:
        nonlocal done
        rng = np.random.default_rng(seed)
        sizes = np.array(space.sizes)
        while not over.is_set():
            network = tuple(rng.integers(sizes).tolist())
            history.append(network)
            dynamic.switch(network)
            done += 1
            over.wait(float(rng.exponential(5e-4)))

    def send(own: list[tuple[int, int, int, Run]]) -> None:
        for place in range(count // 2):
            before = done
            run = dynamic.run(inputs[place % INPUTS])
            own.append((before, len(history), place % INPUTS, run))

    threads = [threading.Thread(target=send, args=(own,)) for own in found]
    switcher = threading.Thread(target=switch)
    start = time.perf_counter()
    for thread in (switcher, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    switcher.join()
    seconds = time.perf_counter() - start
    every = [item for own in found for item in own]
    wrong = sum(
        run.outputs.tobytes() != answers[place][run.observation.network]
        for _, _, place, run in every
    )
    stale = sum(
        run.observation.network not in history[before:after] for before, after, _, run in every
    )
    during = sum(after > before + 1 for before, after, _, _ in every)
    print(f"\nrequests of one image while another thread switches ({seconds:.0f} s)")
    for name, number in (
        ("sent", count // 2 * 2),
        ("answered", len(every)),
        ("switches meanwhile", done),
        ("requests in which a switch fell", during),
        ("networks that answered", len({run.observation.network for *_, run in every})),
        ("answers that are not their network's", wrong),
        ("answers of a network that did not serve", stale),
    ):
        print(f"{name:44}{number:8}")
    print(f"different answers of {space.num_networks} networks to each input: {distinct}")


def _shape(dynamic: DynamicNetwork) -> tuple[int, int, int]:
    parts = dynamic.parts
    assert isinstance(parts, OnnxResident)
    return parts.input_shape


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=Path, help="blocks and statistics of a package")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--switches", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--load", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        load_alone(options.load)
        return
    torch.set_num_threads(1)
    given = None if options.package is None else Package.read(options.package)
    supernet = opened() if given is None else viewed(given.space)
    package = deployed(supernet) if given is None else given
    start = time.perf_counter()
    resident = OnnxResident.read(package)
    seconds = time.perf_counter() - start
    average = chosen(package.space)["average"]
    dynamic = DynamicNetwork(resident, average)
    eager = DynamicNetwork(TorchParts.of(supernet, threads=1), average)
    times = dynamic.calibrate(images(1, 0, package.input_shape), seconds=2.0)
    print(header(options.seed))
    print(f"engines: {resident.engine}, {eager.parts.engine}; 1 thread, fp32, 32 px")
    print(f"loading {len(package.parts)} parts of a package: {seconds:.2f} s")
    gc.collect()
    gc.freeze()  # as `mathnas run` does: a full collection would look through all that is loaded
    switching(dynamic, options.switches, np.random.default_rng(options.seed))
    decisions = max(100, options.switches // 10)
    deciding(dynamic, table_of(times), times, decisions, options.seed)
    cutting(supernet, dynamic, eager, options.rounds)
    building(supernet, 20)
    memory(package)
    requests(dynamic, options.requests, options.seed)
    gc.unfreeze()


if __name__ == "__main__":
    main()
