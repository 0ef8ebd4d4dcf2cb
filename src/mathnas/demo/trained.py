"""The demo's own supernet, trained on the spot. Needs the extra ``[demo]``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from mathnas._threads import torch_threads
from mathnas._version import __version__
from mathnas.demo.bench import Delivery
from mathnas.demo.images import DigitImages, distort, load_images
from mathnas.devices.common import LatencyEvaluator
from mathnas.devices.noise import NoiseRule
from mathnas.devices.onnxruntime import OnnxRuntimeEngine
from mathnas.devices.timing import TimingSettings, time_in_turns
from mathnas.evaluation import Evaluator
from mathnas.nets.batchnorm import recalibrate
from mathnas.nets.digits import DigitsConfig, DigitsNet
from mathnas.nets.evaluators import AccuracyEvaluator
from mathnas.nets.onnx_export import OnnxParts, export_onnx, run_onnx
from mathnas.space import Network, SearchSpace
from mathnas.training.batches import TensorBatches
from mathnas.training.config import TrainingConfig
from mathnas.training.data import TrainingData
from mathnas.training.processes import Processes
from mathnas.training.trainer import train

ONNX_FILE = "network.onnx"


@dataclass(frozen=True, slots=True)
class TrainedConfig:
    """How the demo trains and measures.

    Attributes:
        net: shape of the supernet.
        epochs, images: passes over the training images, and images a step.
        learning_rate: see `TrainingConfig`.
        threads: torch threads for training and accuracy. One: these networks are too small to gain
            from more, and the numbers then do not depend on the machine's cores.
        latency_batch: images in one run when latency is measured.
        latency_rounds: see `TimingSettings`.
        networks_at_once: networks that are evaluated together.
    """

    net: DigitsConfig = field(default_factory=DigitsConfig)
    epochs: int = 50
    images: int = 64
    learning_rate: float = 1e-2
    threads: int = 1
    latency_batch: int = 16
    latency_rounds: int = 30
    networks_at_once: int = 32


class TrainedBench:
    """A trained supernet with its evaluators; see `mathnas.demo.bench.Bench`.

    Args:
        supernet: trained.
        data: what it is calibrated and tested on.
        config: how it was trained.
        seed: of weights, batches and random networks.
    """

    title = "digits, trained here"

    def __init__(
        self, supernet: DigitsNet, data: DigitImages, config: TrainedConfig, seed: int
    ) -> None:
        self.supernet = supernet
        self.data = data
        self.config = config
        self.seed = seed
        self.engine = OnnxRuntimeEngine(batch=config.latency_batch)
        self.accuracy: Evaluator = AccuracyEvaluator(
            supernet,
            data.calibration,
            data.held_out,
            threads=config.threads,
            batch_size=config.networks_at_once,
        )

    @classmethod
    def train(
        cls, config: TrainedConfig | None = None, *, seed: int = 0, progress: bool | None = None
    ) -> TrainedBench:
        """Train a supernet by the sandwich rule.

        Args:
            progress: show progress; by default where standard error is a terminal.
        """
        chosen = config or TrainedConfig()
        data = load_images()
        supernet = DigitsNet(chosen.net, seed=seed)
        settings = TrainingConfig(
            epochs=chosen.epochs,
            batch_size=chosen.images,
            optimizer="adamw",
            learning_rate=chosen.learning_rate,
            weight_decay=1e-3,
            warmup_epochs=chosen.epochs / 10,
            label_smoothing=0.05,
            seed=seed,
            log_interval=1,
        )
        images, labels = data.training.images, data.training.labels
        batches = TensorBatches(images, labels, chosen.images, seed=seed, augment=distort)
        with torch_threads(chosen.threads):
            train(
                supernet,
                TrainingData("digits", batches, chosen.net.classes),
                settings,
                processes=Processes(torch.device("cpu")),
                progress=progress,
            )
        return cls(supernet, data, chosen, seed)

    @property
    def space(self) -> SearchSpace:
        return self.supernet.space

    @cached_property
    def latency(self) -> LatencyEvaluator[bytes]:
        """Built when it is first asked for: exporting the blocks takes some seconds."""
        # weights as trained, inputs as they come: times do not depend on values
        example = self.data.held_out.images[: self.config.latency_batch]
        parts = OnnxParts.export(self.supernet, example)
        return LatencyEvaluator(
            parts.assemble_bytes,
            self.engine,
            timing=TimingSettings(rounds=self.config.latency_rounds),
            batch_size=self.config.networks_at_once,
            # it shows the way on whatever machine, busy or not
            noise=NoiseRule(attempts=1),
            accept_noise=True,
        )

    @property
    def provenance(self) -> Mapping[str, object]:
        config = asdict(self.config)
        del config["net"]
        return {
            "seed": self.seed,
            "settings": config,
            "versions": {
                "mathnas": __version__,
                "torch": torch.__version__,
                "onnx": onnx.__version__,
                "onnxruntime": onnxruntime.__version__,
            },
            "device": self.latency.device.to_dict(),
        }

    def deliver(self, network: Network, folder: Path) -> Delivery:
        """Extract, recalibrate, export to ONNX, and measure the file that was written.

        Raises:
            ExportError: the file does not compute what the network computes.
        """
        extracted = self.supernet.extract(network)
        images, labels = self.data.held_out.images, self.data.held_out.labels
        with torch_threads(self.config.threads):
            recalibrate(extracted, self.data.calibration)
            graph = export_onnx(extracted, images[: self.config.latency_batch], any_batch=True)
        path = folder / ONNX_FILE
        path.write_bytes(graph.SerializeToString())
        right = run_onnx(graph, images.numpy()).argmax(1) == labels.numpy()
        (time,) = time_in_turns([self.engine.prepare(path.read_bytes())], self.latency.timing)
        return Delivery(
            "The found network was extracted, its batch norms recalibrated, and exported to ONNX",
            (ONNX_FILE,),
            {"accuracy": 100.0 * float(np.mean(right)), "latency_ms": time.value},
        )
