"""Latency on a machine that ssh reaches, as an evaluator: a bundle for each batch of networks."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from mathnas.device import Device
from mathnas.devices.bundle import write_bundle
from mathnas.devices.bundle_import import BundleImport
from mathnas.devices.bundle_results import Run
from mathnas.devices.noise import NoiseRule
from mathnas.devices.onnxruntime import OnnxRuntimeEngine
from mathnas.devices.ssh import SshTarget, run_over_ssh
from mathnas.devices.timing import TimingSettings
from mathnas.errors import EvaluationError
from mathnas.evaluation import BatchError, Measurement, StreamingEvaluator
from mathnas.metrics import metric_named
from mathnas.space import Network, SearchSpace, network_text


class RemoteLatencyEvaluator(StreamingEvaluator):
    """Milliseconds that one batch takes on ONNX Runtime on another machine (``latency_ms``).

    Bundles and their results stay in a folder here, so that what was measured there is fetched
    whatever happens, and a call that is made again goes on. The first time that the conditions are
    asked for, the reference is measured there: the other machine says what it is.

    Args:
        models: a network to its graph, an ONNX file's content.
        space: the networks.
        target: the machine, ``ssh://[user@]host[:port][/path]``.
        folder: for bundles and results.
        engine: threads, batch and precision there.
        timing, noise, accept_noise: as of `mathnas.devices.common.LatencyEvaluator`.
        together: networks that are timed in turns.
        batch_size: networks in one bundle.
        conditions: what else the values depend on, for example the resolution.
        python, options: of `mathnas.devices.ssh.run_over_ssh`.
        say: is given what the runner and ssh print; by default standard error.
    """

    exclusive = True

    def __init__(
        self,
        models: Callable[[Network], bytes],
        space: SearchSpace,
        target: SshTarget | str,
        folder: str | Path,
        engine: OnnxRuntimeEngine | None = None,
        *,
        timing: TimingSettings | None = None,
        noise: NoiseRule | None = None,
        accept_noise: bool = False,
        together: int = 8,
        batch_size: int = 64,
        conditions: Mapping[str, str] | None = None,
        python: str = "python3",
        options: Sequence[str] = (),
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.models = models
        self.space = space
        self.target = SshTarget.parse(target) if isinstance(target, str) else target
        self.folder = Path(folder)
        self.engine = engine or OnnxRuntimeEngine()
        self.timing, self.noise, self.accept_noise = timing, noise, accept_noise
        self.together = together
        self.batch_size = batch_size
        self.also = dict(conditions or {})
        self.python, self.options, self.say = python, options, say
        self.metrics = (metric_named("latency_ms"),)

    @property
    def conditions(self) -> Mapping[str, str]:  # type: ignore[override]
        return self._first.conditions

    @property
    def device(self) -> Device:  # type: ignore[override]
        return self._first.device

    @cached_property
    def _first(self) -> Run:
        """What the other machine says of itself with the reference's latency."""
        found = self._measured([self.space.reference], "reference")
        if not found.found.runs:
            raise EvaluationError(
                f"{self.target} measured nothing: see what it said, and try again."
            )
        return found.found.runs[-1]

    def evaluate_each(
        self, networks: Sequence[Network], seeds: Sequence[int] = ()
    ) -> Iterator[tuple[int, Mapping[str, Measurement | float]]]:
        """Each network's place and latency, when the bundle is measured.

        Raises:
            BatchError: some could not be measured there, after all others have come.
            EvaluationError, MissingExtraError: as `run_over_ssh`, where nothing came.
        """
        # repeats of a network are measured anew: their seeds tell bundles apart
        text = ";".join(map(network_text, networks)) + repr(tuple(seeds))
        name = f"batch-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        found = self._measured(networks, name).found
        values: defaultdict[Network, list[Measurement]] = defaultdict(list)
        for item in found.measured:
            if found.runs[item.run].conditions == self.conditions:
                values[item.network].append(item.measurement)
        missing = []
        for place, network in enumerate(networks):
            if values[network]:
                yield place, {"latency_ms": values[network].pop(0)}
            else:
                missing.append(network)
        if missing:
            why = next((item.error for item in found.failed), "its conditions have changed")
            raise BatchError(
                f"{len(missing)} of {len(networks)} networks were not measured on {self.target}, "
                f"the first {network_text(missing[0])}: {why}"
            )

    def _measured(self, networks: Sequence[Network], name: str) -> BundleImport:
        """Measure these networks there; what was measured before is there already."""
        # another engine or other rules are other bundles
        settings = repr(
            (self.engine, self.timing, self.noise, self.accept_noise, self.together, self.also)
        )
        digest = hashlib.sha256(f"{self.space.fingerprint}{settings}".encode()).hexdigest()
        bundle = self.folder / f"{name}-{digest[:12]}"
        results = bundle.with_suffix(".jsonl")
        if not bundle.exists():
            write_bundle(
                bundle,
                self.space,
                networks,
                self.models,
                engine=self.engine,
                timing=self.timing,
                together=self.together,
                conditions=self.also,
                noise=self.noise,
                accept_noise=self.accept_noise,
                progress=False,
            )
        try:
            run_over_ssh(
                bundle,
                self.target,
                results,
                python=self.python,
                options=self.options,
                say=self.say,
            )
        except EvaluationError:
            # what came is kept; what did not is told by the caller
            if not results.exists():
                raise
        return BundleImport.read(bundle, results)
