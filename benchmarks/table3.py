"""Table 3 and Figure 6 of the paper for our implementations of the policies, on this machine.

    MATHNAS_DATA=... python benchmarks/table3.py --package net.mathnas [--batch 32] [--rounds 60]
        [--switches 20000] [--loads 100] [--seconds 120]
        [--figure benchmarks/results/figure6.png]

The package and the accuracies are those that `dynamic_table.py` wrote: five candidates in each of
five stages on CIFAR-10; onnxruntime, one thread. Every policy chooses among these blocks.

- *Accuracy*: on the test images of `dynamic_table.py`, twice. As deployed, with statistics that
  networks share: all networks were measured so, none is predicted. And with statistics of its own
  for each network, as policies that keep few networks may have; measured here, of networks that are
  the predicted best within some latency. Predictions have seen no test image.
- *Latency*: of a batch; measured for a policy's fastest and its best network, as whole sessions for
  Dynamic-OFA, else as resident parts. Budgets and figure: the sum of parts in their places, for all
  policies alike.
- *Search*: to find the networks to keep, in the table that all policies start from; median. On the
  device: the decisions that solved exactly.
- *Deciding*: of all decisions while the load of the simulator goes up and down.
- *Switching*: to the networks of these decisions, one after another, on the loaded parts. Whole
  networks are switched in two ways: all sessions are resident, and another one is pointed to; or
  one is resident, and the next is made from its ONNX file, which the system has in memory; as
  exported, or as onnxruntime has optimised it for this processor.
- *Weights*: what is resident. "Parts": parts of the policy's networks in the package, what they
  share once; "whole": every network by itself.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

import mathnas as mn
from _columns import lines
from _dynamic import BATCH, OURS, Known, finders, kept_networks, policies
from _figures import grid, save
from _machine import header
from _supernets import Floats, Trained
from dynamic_simulated import HEAVIEST, QUIET
from dynamic_table import CALIBRATING, SEED, SUPERNET, part_times, scores_of
from mathnas.devices.onnxruntime import session_options
from mathnas.devices.timing import Timing, TimingSettings, time_in_turns
from mathnas.nets.batchnorm import recalibrate
from mathnas.nets.evaluators import AccuracyEvaluator
from mathnas.nets.grouped import GroupedSupernet
from mathnas.nets.mobilenetv3 import MobileNetV3Net
from mathnas.nets.onnx_export import export_onnx
from mathnas.nets.scores import LabelledImages
from mathnas.runtime.dynamic import DynamicNetwork
from mathnas.runtime.loading import resident_parts
from mathnas.runtime.package import Package
from mathnas.runtime.policies import Offline, front_networks, largest_network, smallest_network
from mathnas.runtime.policy import changed_nodes
from mathnas.runtime.resident import Images
from mathnas.runtime.served import Served
from mathnas.runtime.simulation import World, simulate
from mathnas.runtime.traces import diurnal_trace
from switching import Times

ROUNDING = 0.2  # points that engines may differ by
PERIOD = 2.0  # seconds of a rise and fall of the load
SEARCHES = 20
BUDGETS = 64
MOST_WEIGHTS = 2.5  # times the largest network's
PAPERS_FEWEST = 4  # networks that the paper's scale-up is relative to
WHOLE, LIGHT_HEAVY = "Dynamic-OFA, 7", "light/heavy"
METHODS = {  # search method
    "slimmable, 4": "rank by MACs",
    "slimmable, 27": "rank by MACs",
    "AutoSlim, 4": "greedy slimming",
    WHOLE: "exact front",
    LIGHT_HEAVY: "on device",
    OURS: "on device",
}
PUBLISHED_HEAD = (
    "model|top-1 %|MACs (M)|Raspberry Pi / TX2 CPU / TX2 GPU (ms)|search method|search|unit|switch|"
    "networks|scale-up"
)
PUBLISHED = (
    "S-MbNet-v2|70.5|301|1346 / 958 / 118|manual|-|channel|15 ms|4|1.0x",
    "US-MbNet-v2|71.5|300|1358 / 959 / 158|manual|-|channel|18 ms|27|6.7x",
    "AS-MNASNet|75.4|532|2097 / 1457 / 2097|greedy slimming|4000 h|channel|37 ms|4|1.0x",
    "Dynamic-OFA|78.1|732|2404 / 1485 / 80|random + evolution|35 h|network|244 ms|7|1.7x",
    "MathNAS, smallest|75.9|257|832 / 525 / 76|on device|0.4-12 s|block|61 ms|3125|781x",
    "MathNAS, largest|79.2|669|2253 / 1398 / 81|on device|0.4-12 s|block|61 ms|3125|781x",
)


@dataclass(frozen=True)
class Rival:
    """A policy, and what it may run.

    Attributes:
        networks: every executable one.
        steps: latencies, ascending, in ms a batch as the sum of parts, with the network that is
            predicted best within each: from the fastest of all to the best of all.
    """

    name: str
    networks: list[mn.Network]
    steps: list[tuple[float, mn.Network]]

    @classmethod
    def of(cls, name: str, networks: Sequence[mn.Network], offline: Offline) -> Rival:
        order = sorted((offline.latency(network), network) for network in networks)
        steps, best = [], -np.inf
        for latency, network in order:
            if offline.quality(network) > best:
                best = offline.quality(network)
                steps.append((latency, network))
        return cls(name, list(networks), steps)

    @property
    def ends(self) -> tuple[mn.Network, mn.Network]:
        """The fastest network, and the one that is predicted best."""
        return self.steps[0][1], self.steps[-1][1]

    def within(self, latency: float) -> mn.Network:
        """The network that is predicted best; the fastest where none is within the latency."""
        place = bisect_right([own for own, _ in self.steps], latency)
        return self.steps[max(0, place - 1)][1]


# ---- whole networks ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wholes:
    """Networks by themselves, with statistics of their own, in files.

    Attributes:
        files: ONNX graphs.
        optimised: what onnxruntime makes of them for this processor.
    """

    files: dict[mn.Network, Path]
    optimised: dict[mn.Network, Path]

    @classmethod
    def made(
        cls,
        supernet: GroupedSupernet,
        networks: Sequence[mn.Network],
        calibration: Sequence[torch.Tensor],
        folder: Path,
    ) -> Wholes:
        wholes = cls({}, {})
        for place, network in enumerate(networks):
            module = supernet.extract(network)
            recalibrate(module, calibration)
            graph, optimised = folder / f"{place}.onnx", folder / f"{place}.optimised.onnx"
            exported = export_onnx(module, calibration[0][:2], any_batch=True)
            graph.write_bytes(exported.SerializeToString())
            options = session_options(1)
            options.optimized_model_filepath = str(optimised)
            options.log_severity_level = 3  # it warns that the file is for this processor
            _session(graph, options)
            wholes.files[network], wholes.optimised[network] = graph, optimised
        return wholes

    def session(self, network: mn.Network) -> onnxruntime.InferenceSession:
        return _session(self.files[network], session_options(1))

    def optimised_session(self, network: mn.Network) -> onnxruntime.InferenceSession:
        options = session_options(1)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return _session(self.optimised[network], options)


def _session(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Serving:
    """A session that serves, and another one in its place."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session

    def point_to(
        self, sessions: dict[mn.Network, onnxruntime.InferenceSession], network: mn.Network
    ) -> None:
        self.session = sessions[network]

    def load(
        self, made: Callable[[mn.Network], onnxruntime.InferenceSession], network: mn.Network
    ) -> None:
        """What served until then is freed."""
        self.session = made(network)

    def run(self, images: Images) -> object:
        return self.session.run(["logits"], {"images": images})[0]


# ---- measuring -----------------------------------------------------------------------------------


def known_of(
    package: Package, images: Images, labels: npt.NDArray[np.int64], batch: int
) -> tuple[Known, DynamicNetwork]:
    """What `dynamic_table.py` found, with the times of this machine, and the loaded network.

    The accuracies have to be those of the package: the fastest and the largest network show it.
    """
    known = Known.load()
    if package.table.to_dict() != known.table.to_dict():
        raise SystemExit("the package is not the one whose accuracies are stored: dynamic_table.py")
    dynamic = DynamicNetwork(resident_parts(package), package.space.reference)
    times = part_times(dynamic, np.ascontiguousarray(images[:batch]))
    known = replace(known, times=times)
    for network in (smallest_network(known.offline), largest_network(known.offline)):
        right = scores_of(dynamic, network, images, labels)["accuracy"]
        stored = known.measured[network]
        # another processor may round otherwise
        if abs(right - stored) > ROUNDING:
            raise SystemExit(
                f"{network} gets {right:.2f} % of the test images right, but {stored:.2f} % are "
                "stored: run dynamic_table.py"
            )
    return known, dynamic


def own_accuracies(
    supernet: GroupedSupernet,
    networks: Sequence[mn.Network],
    calibration: Sequence[torch.Tensor],
    test: LabelledImages,
) -> dict[mn.Network, float]:
    """With statistics of its own for each network, on test images, in percent."""
    evaluator = AccuracyEvaluator(supernet, calibration, test)
    networks = list(dict.fromkeys(networks))
    found = evaluator.evaluate_batch(networks)
    return {n: _value(values["accuracy"]) for n, values in zip(networks, found, strict=True)}


def _value(measured: mn.Measurement | float) -> float:
    return measured.value if isinstance(measured, mn.Measurement) else measured


def search_times(offline: Offline) -> dict[str, Times]:
    """Of the search for the networks that a policy keeps."""
    found = {}
    for name, find in finders(offline).items():
        if name in METHODS:
            found[name] = Times()
            for _ in range(SEARCHES):
                with found[name].call():
                    find()
    return found


def decided(known: Known, seconds: float) -> dict[str, Served]:
    """Every policy while the load goes up and down, between what the best network and what only
    the smallest one can bear."""
    offline = known.offline
    best = front_networks(offline, 2)[-1]
    deadline = QUIET * offline.latency(best)
    heaviest = HEAVIEST * deadline / offline.latency(smallest_network(offline))
    load = diurnal_trace(
        known.table.space.num_nodes, seconds, period=PERIOD, factor=heaviest, seed=SEED
    )
    world = World(known.times, load, seconds, deadline, seed=SEED)
    made = policies(offline)
    return {name: simulate(made[name](deadline), world) for name in METHODS}


def switch_times(
    served: Served, switch: Callable[[mn.Network], object], count: int
) -> tuple[Times, float]:
    """Of switches to the networks that were decided on, one after another; and how many blocks
    each changes, on average."""
    order = [network for network, _ in itertools.groupby(d.network for d in served.decisions)]
    if len(order) > 1 and order[0] == order[-1]:
        order.pop()
    if len(order) < 2:
        raise SystemExit(f"{served.policy} never switched: give it more --seconds")
    times, changed, last = Times(), 0, order[-1]
    switch(last)
    for network in itertools.islice(itertools.cycle(order), count):
        with times.call():
            switch(network)
        changed += changed_nodes(last, network)
        last = network
    return times, changed / count


def timed(
    rivals: Sequence[Rival],
    dynamic: DynamicNetwork,
    wholes: Wholes,
    images: Images,
    rounds: int,
) -> dict[tuple[str, mn.Network], Timing]:
    """A batch of each policy's fastest and best network, all in turns."""
    calls: dict[tuple[bool, mn.Network], Callable[[], object]] = {}
    places = [(rival.name, network) for rival in rivals for network in rival.ends]
    for name, network in places:
        if name == WHOLE:
            run: Callable[[Images], object] = Serving(wholes.session(network)).run
        else:
            run = DynamicNetwork(dynamic.parts, network).run
        calls[name == WHOLE, network] = partial(run, images)
    timings = time_in_turns(list(calls.values()), TimingSettings(rounds=rounds))
    found = dict(zip(calls, timings, strict=True))
    return {(name, network): found[name == WHOLE, network] for name, network in places}


# ---- what is told --------------------------------------------------------------------------------


def short(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def pair(times: Floats | Sequence[float], unit: float = 1e3) -> str:
    """Median and 99 % quantile; by default of seconds, in milliseconds."""
    return " / ".join(short(float(q) * unit) for q in np.quantile(times, [0.5, 0.99]))


def networks_table(
    rivals: Sequence[Rival],
    space: mn.SearchSpace,
    deployed: Mapping[mn.Network, float],
    own: Mapping[mn.Network, float],
    timings: Mapping[tuple[str, mn.Network], Timing],
) -> str:
    """Accuracy, MACs and latency of each policy's ends; and what it gives over budgets."""
    low = max(rival.steps[0][0] for rival in rivals)
    high = max(rival.steps[-1][0] for rival in rivals)
    budgets = np.linspace(low, high, BUDGETS).tolist()
    heading = ("top-1 %", "own stat. %", "MACs (M)", "latency (ms)", "processor (ms)")
    rows = [("policy", *heading, "budgets %", "own stat. %", "networks", "scale-up")]
    for rival in rivals:
        served = [rival.within(budget) for budget in budgets]
        macs = space.macs(list(rival.ends)) / 1e6
        own_timings = [timings[rival.name, network] for network in rival.ends]
        rows.append(
            (
                rival.name,
                " / ".join(f"{deployed[network]:.2f}" for network in rival.ends),
                " / ".join(f"{own[network]:.2f}" for network in rival.ends),
                " / ".join(f"{value:.2f}" for value in macs.tolist()),
                " / ".join(f"{timing.value:.2f}" for timing in own_timings),
                " / ".join(f"{timing.cpu_ms:.2f}" for timing in own_timings),
                f"{np.mean([deployed[network] for network in served]):.2f}",
                f"{np.mean([own[network] for network in served]):.2f}",
                f"{len(rival.networks):,}",
                f"{len(rival.networks) / PAPERS_FEWEST:,.1f}x",
            )
        )
    return (
        f"{lines(rows)}\nfastest / best network, as deployed and with statistics of its own; "
        f"budgets: mean top-1 of what is predicted best within each of {BUDGETS} latencies from "
        f"{low:.2f} to {high:.2f} ms"
    )


def switching_table(
    known: Known,
    dynamic: DynamicNetwork,
    wholes: Wholes,
    networks: Sequence[mn.Network],
    options: argparse.Namespace,
) -> str:
    """Search, decision and switch of every policy."""
    searches, served = search_times(known.offline), decided(known, options.seconds)
    sessions = {network: wholes.session(network) for network in networks}
    serving = Serving(sessions[networks[0]])
    ways: list[tuple[str, str, str, Callable[[mn.Network], object], int]] = []
    for name in METHODS:
        if name == WHOLE:
            point = partial(serving.point_to, sessions)
            ways.append((name, f"{name}, all resident", "network", point, options.switches))
            for kind, made in (("", wholes.session), ("optimised ", wholes.optimised_session)):
                label, load = f"{name}, from {kind}files", partial(serving.load, made)
                ways.append((name, label, "network", load, options.loads))
        else:
            ways.append((name, name, "block", dynamic.switch, options.switches))
    columns = ("search method", "search (ms)", "unit", "blocks", "decide (ms)", "switch (ms)")
    rows = [("policy", *columns, "processor time", "decisions")]
    for name, label, unit, switch, count in ways:
        times, blocks = switch_times(served[name], switch, count)
        decisions = served[name].decisions[1:]
        deciding = [decision.seconds for decision in decisions]
        searched = [decision.seconds for decision in decisions if decision.proven]
        if name in searches:
            searched = searches[name].wall
        rows.append(
            (
                label,
                METHODS[name],
                short(1e3 * float(np.median(searched))) if searched else "-",
                unit,
                f"{blocks:.2f}",
                pair(deciding),
                pair(times.wall),
                pair(times.busy),
                f"{len(deciding):,}",
            )
        )
    return (
        f"{lines(rows)}\nprocessor time: of switches, in ms, with about a microsecond of reading "
        f"clocks; {options.switches:,} switches each, from files {options.loads:,}"
    )


def weights_table(rivals: Sequence[Rival], package: Package) -> str:
    """Bytes that are resident beside the largest network's."""
    largest = package.largest_bytes()

    def cells(size: int) -> tuple[str, str]:
        return f"{size / 1e6:,.2f}", f"{size / largest:,.2f}"

    rows = [("policy", "networks", "parts, MB", "of largest", "whole, MB", "of largest")]
    for rival in rivals:
        every = [package.parts_of(network) for network in rival.networks]
        kept = {name for parts in every for part in parts for name in part.tensors.values()}
        shared = sum(package.tensors[tensor].nbytes for tensor in kept)
        whole = sum(package.weight_bytes(network) for network in rival.networks)
        rows.append((rival.name, f"{len(every):,}", *cells(shared), *cells(whole)))
    return lines(rows)


def saved(package: Package) -> str:
    """What sharing saves in the package."""
    own = [
        sum(package.tensors[n].nbytes for n in set(p.tensors.values()))
        for p in package.parts.values()
    ]
    size, largest = package.weight_bytes(), package.largest_bytes()
    return (
        f"{package.space.num_networks:,} networks of {len(own)} parts in {size:,} bytes, "
        f"{size / largest:.2f} times (wanted: at most {MOST_WEIGHTS}) the largest network's "
        f"{largest:,}; with weights of its own for every part {sum(own):,} "
        f"({sum(own) / largest:.2f} times): sharing saves {100 * (1 - size / sum(own)):.1f} %"
    )


# ---- figure --------------------------------------------------------------------------------------


def draw(
    path: Path,
    rivals: Sequence[Rival],
    known: Known,
    own: Mapping[mn.Network, float],
    batch: int,
) -> None:
    """Accuracy against latency of every network, and of what would serve within each latency."""
    figure, axes = grid(1, 3, 5.0, sharex=True, sharey=True)
    last = max(known.offline.latency(network) for network in known.measured)
    for place, rival in enumerate(rival for rival in rivals if rival.name != LIGHT_HEAVY):
        ours = rival.name == OURS
        name = f"{LIGHT_HEAVY} and ours" if ours else rival.name.split(",")[0]
        colour = "black" if ours else f"C{place}"
        axes[0].plot(
            [known.offline.latency(network) for network in rival.networks],
            [known.measured[network] for network in rival.networks],
            "." if ours else "o",
            ms=2 if ours else 6,
            color="silver" if ours else colour,
            zorder=1 if ours else 2,
            clip_on=False,
        )
        for axis, accuracy in zip(axes[1:], (known.measured, own), strict=True):
            latencies, served = zip(*rival.steps, strict=True)
            axis.step(
                [*latencies, last],
                [accuracy[network] for network in (*served, served[-1])],
                where="post",
                color=colour,
                lw=2.5 if ours else 1.5,
                zorder=1 if ours else 2,
                label=f"{name}: {len(rival.networks):,}",
            )
    axes[0].set(
        title="executable networks, as deployed", ylabel=f"top-1 on {known.images:,} test images, %"
    )
    axes[1].set(title="best predicted within a latency, as deployed")
    axes[2].set(title="... with statistics of its own")
    for axis in axes:
        axis.set_xlabel(f"ms a batch of {batch}, sum of parts")
    save(figure, axes[1], path)
    print(f"drawn: {path.name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--supernet", type=Path, default=SUPERNET)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--switches", type=int, default=20_000)
    parser.add_argument("--loads", type=int, default=100, help="switches that load a file")
    parser.add_argument("--seconds", type=float, default=120.0, help="simulated")
    parser.add_argument("--figure", type=Path, default=None)
    options = parser.parse_args()
    begun = time.perf_counter()
    torch.set_num_threads(1)
    print(header(SEED))
    package = Package.read(options.package)
    trained = Trained.open(options.supernet)
    assert isinstance(trained.supernet, MobileNetV3Net)
    assert isinstance(package.space, mn.GroupedSpace)
    supernet = GroupedSupernet(trained.supernet.eval(), package.space)
    test = trained.images(trained.test, Known.load().images)
    images = test.images.numpy()
    known, dynamic = known_of(package, images, test.labels.numpy(), options.batch)
    offline = known.offline
    print(
        f"{dynamic.parts.engine}, 1 thread, batches of {options.batch}; accuracies on "
        f"{len(test):,} test images: all {len(known.measured):,} networks measured as deployed"
    )
    kept = {name: own for name, own in kept_networks(offline).items() if name in METHODS}
    rivals = [Rival.of(name, kept.get(name, list(known.measured)), offline) for name in METHODS]
    chosen = [network for rival in rivals for _, network in rival.steps]
    calibration = trained.calibration(CALIBRATING, SEED)
    own = own_accuracies(supernet, chosen, calibration, test)
    gain = [value - known.measured[network] for network, value in own.items()]
    print(
        f"statistics of its own give each of {len(gain)} networks {np.mean(gain):+.2f} points on "
        f"average, {min(gain):+.2f} to {max(gain):+.2f}"
    )
    with tempfile.TemporaryDirectory() as folder:
        wholes = Wholes.made(supernet, kept[WHOLE], calibration, Path(folder))
        given = np.ascontiguousarray(images[: options.batch])
        timings = timed(rivals, dynamic, wholes, given, options.rounds)
        print("\n## Networks")
        print(networks_table(rivals, package.space, known.measured, own, timings))
        parts = [
            timing.cpu_ms / offline.latency(network)
            for (name, network), timing in timings.items()
            if name != WHOLE
        ]
        print(
            f"processor time of networks of parts: {min(parts):.3f} to {max(parts):.3f} times the "
            "sum of parts"
        )
        print("\n## Searching and switching; p50 / p99")
        print(switching_table(known, dynamic, wholes, kept[WHOLE], options))
    print(f"\n## Weights\n{weights_table(rivals, package)}\n{saved(package)}")
    elastic = sum(tensor.nbytes for tensor in trained.supernet.state_dict().values())
    print(
        f"the elastic supernet, whose slices are networks: {elastic:,} bytes, "
        f"{elastic / package.largest_bytes():.2f} times the largest network of the package"
    )
    print("\n## As published, on ImageNet and other machines: nothing of it was measured here")
    print(lines([PUBLISHED_HEAD.split("|"), *(row.split("|") for row in PUBLISHED)]))
    if options.figure is not None:
        draw(options.figure, rivals, known, own, options.batch)
    print(f"\nthe whole took {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
