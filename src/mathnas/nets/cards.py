"""The model card of an exported network: what it is, what was predicted, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mathnas._records import write_json, write_text
from mathnas.errors import InvalidInputError
from mathnas.evaluation import Measurement
from mathnas.metrics import Metric, metric_named
from mathnas.nets.export import ExportedFile
from mathnas.nets.extracted import ExtractedNetwork
from mathnas.nets.supertransformer import SubTransformer
from mathnas.space import network_text
from mathnas.table import BlockTable

CARD_FORMAT = "mathnas-model-card"
CARD_VERSION = 1
_CONFIDENCE = 0.9
_VOCABULARY = "vocabulary.model"  # where the notes name none: as a training names it


@dataclass(frozen=True, slots=True)
class CardPrediction:
    """What a table predicts of the network.

    Attributes:
        metric: of what.
        value: in the metric's unit.
        low, high: between which one measurement lies with 90 %; None where the table does not say.
        conditions: of the measurements that the table was fitted to.
    """

    metric: Metric
    value: float
    low: float | None
    high: float | None
    conditions: Mapping[str, str]

    def to_dict(self) -> dict[str, object]:
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "confidence": None if self.low is None else _CONFIDENCE,
            "unit": self.metric.unit,
            "conditions": dict(self.conditions),
        }


@dataclass(frozen=True, slots=True)
class CardMeasurement:
    """What was measured of the network as it was written.

    Attributes:
        metric: of what.
        measurement: value, spread and repeats.
        conditions: under which.
    """

    metric: Metric
    measurement: Measurement
    conditions: Mapping[str, str]

    def to_dict(self) -> dict[str, object]:
        return {
            "value": self.measurement.value,
            "spread": self.measurement.spread,
            "repeats": self.measurement.repeats,
            "unit": self.metric.unit,
            "conditions": dict(self.conditions),
        }


@dataclass(frozen=True)
class ModelCard:
    """Everything that is known of an exported network; see `save`.

    Attributes:
        extracted: the network.
        file: that it was written to.
        predictions: of a table.
        measurements: of the network in the file.
        limits: that it was searched under, as `mathnas search --json` gives them.
        guarantee: what the search proved, in words.
        provenance: where weights and numbers come from; JSON values.
    """

    extracted: ExtractedNetwork
    file: ExportedFile
    predictions: Sequence[CardPrediction] = ()
    measurements: Sequence[CardMeasurement] = ()
    limits: Sequence[Mapping[str, object]] = ()
    guarantee: str = ""
    provenance: Mapping[str, object] = field(default_factory=dict)

    def save(self) -> tuple[Path, Path]:
        """Write the card beside the file: its name and ``.md``, and for programs ``.json``.

        Raises:
            FileFormatError: one cannot be written.
        """
        path = self.file.path
        text, record = (path.with_name(path.name + suffix) for suffix in (".md", ".json"))
        write_json(record, self.to_dict())
        write_text(text, self.to_markdown())
        return text, record

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        space, network = self.extracted.space, self.extracted.network
        return {
            "format": CARD_FORMAT,
            "version": CARD_VERSION,
            "file": self.file.to_dict(),
            "space": space.name,
            "space_fingerprint": space.fingerprint,
            "network": list(network),
            "blocks": space.blocks_by_node(network),
            **_costs(self.extracted),
            "predictions": {p.metric.name: p.to_dict() for p in self.predictions},
            "measurements": {m.metric.name: m.to_dict() for m in self.measurements},
            "limits": [dict(limit) for limit in self.limits],
            "guarantee": self.guarantee,
            "supernet_difference": self.extracted.difference,
            "notes": dict(self.extracted.notes),
            "provenance": dict(self.provenance),
        }

    def to_markdown(self) -> str:
        """For people."""
        parts = [
            f"# {self.file.path.name}",
            f"One network of {self.extracted.space.name}: "
            f"`{network_text(self.extracted.network)}`.",
            *self._numbers(),
            *self._limits(),
            *self._conditions(),
            "## Blocks",
            _table(
                ("node", "block"),
                list(self.extracted.space.blocks_by_node(self.extracted.network).items()),
            ),
            "## File",
            self._file(),
            "## How to load it",
            f"```python\n{self._code()}```",
            self._input_text(),
            *self._provenance(),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _numbers(self) -> list[str]:
        """Predicted and measured values side by side."""
        predicted = {p.metric.name: p for p in self.predictions}
        measured = {m.metric.name: m for m in (*self._counts(), *self.measurements)}
        metrics = {
            **{name: p.metric for name, p in predicted.items()},
            **{name: m.metric for name, m in measured.items()},
        }
        rows = []
        for name, metric in metrics.items():
            low_high, spread, first, second = "", "", "", ""
            if name in predicted:
                guess = predicted[name]
                first = metric.format(guess.value)
                if guess.low is not None and guess.high is not None:
                    low_high = f"{metric.format(guess.low)} to {metric.format(guess.high)}"
            if name in measured:
                found = measured[name].measurement
                second = metric.format(found.value)
                spread = "" if found.spread is None else f"{found.spread:.2g}"
            rows.append((name, first, low_high, second, spread))
        interval = f"{100 * _CONFIDENCE:g} % interval"
        return [
            "## Numbers",
            _table(("metric", "predicted", interval, "measured or counted", "spread"), rows),
        ]

    def _counts(self) -> list[CardMeasurement]:
        return [
            CardMeasurement(metric_named(name), Measurement(value), {})
            for name, value in _costs(self.extracted).items()
            if value is not None
        ]

    def _limits(self) -> list[str]:
        if not self.limits and not self.guarantee:
            return []
        lines = [
            f"- {limit.get('metric')} {limit.get('sense')} {limit.get('value')}, uses "
            f"{limit.get('used')}"
            for limit in self.limits
        ]
        return ["## Search", "\n".join(lines), self.guarantee]

    def _conditions(self) -> list[str]:
        rows = [
            (what, metric.name, "; ".join(f"{key}: {value}" for key, value in conditions.items()))
            for what, metric, conditions in (
                *(("predicted", p.metric, p.conditions) for p in self.predictions),
                *(("measured", m.metric, m.conditions) for m in self.measurements),
            )
            if conditions
        ]
        if not rows:
            return []
        return ["## Conditions", _table(("value", "metric", "conditions"), rows)]

    def _file(self) -> str:
        file, difference = self.file, self.extracted.difference
        extraction = (
            ""
            if difference is None
            else f"Extracted, it differed from the supernet, with the same statistics, by "
            f"{difference:.2g} of the largest output. "
        )
        return (
            _table(
                ("", ""),
                [
                    ("bytes", f"{file.bytes:,}"),
                    ("SHA-256", f"`{file.sha256}`"),
                    ("input", self._input()),
                ],
            )
            + f"\n\n{extraction}The file was read again and run: its outputs differ from those of "
            f"the module, with the module's own statistics, by {file.difference:.2g} of the "
            f"largest output; {file.tolerance:g} was allowed."
        )

    @property
    def _translates(self) -> bool:
        return isinstance(self.extracted.module, SubTransformer)

    def _input(self) -> str:
        if self._translates:
            return "sentences, as ids of the vocabulary"
        return f"{self.file.batch or 'any number'} x {_shape(self.file.input_shape)}"

    def _code(self) -> str:
        if not self._translates:
            return loading_code(self.file)
        noted = self.extracted.notes.get("vocabulary")
        name = noted.get("file") if isinstance(noted, Mapping) else None
        return translating_code(self.file, str(name or _VOCABULARY))

    def _input_text(self) -> str:
        record = self.extracted.notes.get("preprocessing")
        if not isinstance(record, Mapping):
            return ""
        return (
            f"Inputs are RGB images with values from 0 to 1, normalised by channel: minus "
            f"{record.get('mean')}, divided by {record.get('std')}. For testing, the middle of an "
            f"image is cut to {record.get('resolution')} pixels, of {record.get('test_share')} of "
            "its shorter side."
        )

    def _provenance(self) -> list[str]:
        notes = {k: v for k, v in self.extracted.notes.items() if k != "preprocessing"}
        rows = [
            (key, _shown(value))
            for key, value in {**notes, **self.provenance}.items()
            if value is not None
        ]
        return ["## Provenance", _table(("", ""), rows)] if rows else []


def predictions_of(table: BlockTable, network: Sequence[int]) -> list[CardPrediction]:
    """What a table predicts of a network, with intervals where the fit gives uncertainty."""
    found = []
    for name, column in table.columns.items():
        value = table.exact(table.space.check(network), name)
        low = high = None
        if column.uncertainty is not None:
            ends = table.interval(np.array([network]), name, _CONFIDENCE)
            low, high = (float(end[0]) for end in ends)
        found.append(CardPrediction(column.metric, value, low, high, column.conditions))
    return found


def loading_code(file: ExportedFile) -> str:
    """Python that loads the file from the working folder and runs it."""
    name, shape = file.path.name, (file.batch or 1, *file.input_shape)
    if file.format == ".onnx":
        return (
            "import numpy as np\n"
            "import onnxruntime\n\n"
            f"session = onnxruntime.InferenceSession({name!r})\n"
            f"images = np.zeros({shape}, np.float32)\n"
            '(logits,) = session.run(["logits"], {"images": images})\n'
        )
    if file.format == ".pt2":
        return (
            "import torch\n\n"
            f"network = torch.export.load({name!r}).module()\n"
            f"logits = network(torch.zeros{shape})\n"
        )
    if file.format == ".safetensors":
        return (
            "import torch\n\n"
            "from mathnas.nets.extracted import load_extracted\n\n"
            f"network = load_extracted({name!r})\n"
            f"logits = network(torch.zeros{shape})\n"
        )
    raise InvalidInputError(f"nobody knows how to load a {file.format!r} file.")


def translating_code(file: ExportedFile, vocabulary: str) -> str:
    """Python that loads a translator and its vocabulary from the working folder, and translates."""
    return (
        "from mathnas.nets.beam_search import translations\n"
        "from mathnas.nets.extracted import load_extracted\n"
        "from mathnas.text.vocabulary import Vocabulary\n\n"
        f"network = load_extracted({file.path.name!r})\n"
        f"vocabulary = Vocabulary.load({vocabulary!r})\n"
        "(found,) = translations(network, vocabulary.encode(['A sentence.']))\n"
        "print(vocabulary.decode(found.tokens))\n"
    )


def _costs(extracted: ExtractedNetwork) -> dict[str, float | None]:
    """MACs where the space knows them, and the module's parameters."""
    space = extracted.space
    macs = None if space.block_macs is None else float(space.macs([extracted.network])[0])
    return {"macs": macs, "params": float(sum(p.numel() for p in extracted.module.parameters()))}


def _shape(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {item}" for key, item in value.items())
    return str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)])
