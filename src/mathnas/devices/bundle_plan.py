"""What a bundle holds: its plan, and the manifest that tells whether it is whole.

A bundle is a folder that another machine measures with (see `mathnas.devices.bundle`)::

    run.py          starts the runner
    lib/mathnas/    the modules of mathnas that it needs
    plan.json       what is to be measured, and how
    graphs/         one small ONNX file a network, and the weights that they share
    manifest.json   size and SHA-256 of each of these
    results.jsonl   what was measured so far (see `mathnas.devices.bundle_results`)

Digests tell damage, edits and foreign files. They hold no secret: who wants to forge a bundle or
its results, and computes all digests again, can.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from mathnas._files import file_sha256
from mathnas._records import Record, read_json, shown, write_json
from mathnas.devices.noise import NoiseRule
from mathnas.devices.timing import TimingSettings
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.metrics import metric_named
from mathnas.sampling import Sample
from mathnas.space import Network, SearchSpace

PLAN = "plan.json"
MANIFEST = "manifest.json"
RESULTS = "results.jsonl"
RUNNER = "run.py"
LIBRARY = "lib"
GRAPHS = "graphs"
NOT_WHOLE = 3
"""Exit code of the runner where the bundle is not as it was written; ``run.py`` has it too."""

_PLAN_FORMAT = "mathnas-bundle-plan"
_MANIFEST_FORMAT = "mathnas-bundle"
_VERSION = 1

_SettingsT = TypeVar("_SettingsT", TimingSettings, NoiseRule)


class NotWholeError(FileFormatError):
    """A bundle is not as it was written; copying it again helps."""


@dataclass(frozen=True)
class BundlePlan:
    """What a bundle measures, and how.

    Attributes:
        space: of the networks.
        networks: in the order that they were given; one that stands twice is measured twice.
        metrics: names.
        engine: by name.
        threads, batch, precision: of the engine.
        timing: how latency is timed.
        together: networks that are measured in turns.
        repeats: measurements of each network.
        seed: of the order of measurement; evaluators are given it with the repeat added.
        conditions: what else values depend on; they join those that the evaluators state.
        noise: what is too noisy for a table.
        accept_noise: keep times that stay disturbed, with notes of what was seen.
        sample: the design that the networks, or some of them, come from.
    """

    space: SearchSpace
    networks: tuple[Network, ...]
    metrics: tuple[str, ...] = ("latency_ms",)
    engine: str = "onnxruntime"
    threads: int = 1
    batch: int = 1
    precision: str = "fp32"
    timing: TimingSettings = dataclasses.field(default_factory=TimingSettings)
    together: int = 8
    repeats: int = 1
    seed: int = 0
    conditions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    noise: NoiseRule = dataclasses.field(default_factory=NoiseRule)
    accept_noise: bool = False
    sample: Sample | None = None

    def __post_init__(self) -> None:
        networks = tuple(self.space.check(network) for network in self.networks)
        object.__setattr__(self, "networks", networks)
        if not networks or not self.metrics:
            raise InvalidInputError("a bundle measures something of some network, but got none.")
        for name in self.metrics:
            metric_named(name)
        for name in ("threads", "batch", "together", "repeats"):
            if getattr(self, name) < 1:
                raise InvalidInputError(f"{name} is at least 1, but got {getattr(self, name)}.")
        if self.seed < 0:
            raise InvalidInputError(f"a seed is a whole number from 0, but got {self.seed}.")

    @property
    def distinct(self) -> tuple[Network, ...]:
        """The networks, each once."""
        return tuple(dict.fromkeys(self.networks))

    @property
    def graphs(self) -> dict[Network, str]:
        """The path of each network's graph inside the bundle."""
        return {network: f"{GRAPHS}/{i:05}.onnx" for i, network in enumerate(self.distinct)}

    def to_dict(self) -> dict[str, object]:
        sample = None
        if self.sample is not None:
            sample = {
                "kind": self.sample.kind,
                "networks": [list(network) for network in self.sample.networks],
                "reference": list(self.sample.reference),
                "share": self.sample.share,
                "seed": self.sample.seed,
            }
        return {
            "format": _PLAN_FORMAT,
            "version": _VERSION,
            "space": self.space.to_dict(),
            "networks": [list(network) for network in self.networks],
            "metrics": list(self.metrics),
            "engine": {
                "name": self.engine,
                "threads": self.threads,
                "batch": self.batch,
                "precision": self.precision,
            },
            "timing": dataclasses.asdict(self.timing),
            "together": self.together,
            "repeats": self.repeats,
            "seed": self.seed,
            "conditions": dict(self.conditions),
            "noise": dataclasses.asdict(self.noise),
            "accept_noise": self.accept_noise,
            "sample": sample,
        }

    @classmethod
    def load(cls, path: Path) -> BundlePlan:
        """Read a plan.

        Raises:
            FileFormatError: the file is missing, damaged, foreign or newer.
            InvalidInputError: what it plans cannot be done.
        """
        record = read_json(path, _PLAN_FORMAT, _VERSION)
        record.only(
            *("format", "version", "space", "networks", "metrics", "engine", "timing", "together"),
            *("repeats", "seed", "conditions", "noise", "accept_noise", "sample"),
        )
        space = SearchSpace.from_dict(record.get("space", dict), f"{path}.space")
        engine = record.record("engine")
        sample = None
        if "sample" in record:
            drawn = record.record("sample")
            sample = Sample(
                drawn.get("kind", str),
                _networks(space, drawn),
                space.check(drawn.get("reference", list)),
                drawn.number("share"),
                drawn.get("seed", int) if "seed" in drawn else None,
            )
        return cls(
            space,
            _networks(space, record),
            tuple(texts(record.get("metrics", list), f"{path}.metrics")),
            engine.get("name", str),
            engine.get("threads", int),
            engine.get("batch", int),
            engine.get("precision", str),
            _settings(TimingSettings, record.record("timing")),
            record.get("together", int),
            record.get("repeats", int),
            record.get("seed", int),
            text_mapping(record, "conditions"),
            _settings(NoiseRule, record.record("noise")),
            record.get("accept_noise", bool),
            sample,
        )


@dataclass(frozen=True)
class Manifest:
    """What belongs to a bundle.

    Attributes:
        files: size in bytes and SHA-256 by path; paths are relative, with forward slashes.
    """

    files: Mapping[str, tuple[int, str]]

    @property
    def digest(self) -> str:
        """A SHA-256 that stands for the bundle: it changes with any of its files."""
        text = json.dumps(sorted([path, *told] for path, told in self.files.items()))
        return hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def of(cls, folder: Path, paths: Iterable[str]) -> Manifest:
        """The manifest of files that are in `folder` now."""
        return cls({p: ((folder / p).stat().st_size, file_sha256(folder / p)) for p in paths})

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read a bundle's manifest.

        Raises:
            NotWholeError: it is missing, damaged, foreign, newer, was edited, or names a path
                outside of the bundle.
        """
        path = folder / MANIFEST
        try:
            record = read_json(path, _MANIFEST_FORMAT, _VERSION)
        except FileFormatError as error:
            raise NotWholeError(str(error)) from error
        record.only("format", "version", "digest", "files")
        files = {}
        for where, entry in record.items("files"):
            item = Record(entry, where)
            item.only("path", "bytes", "sha256")
            name = item.get("path", str)
            parts = PurePosixPath(name).parts
            inside = parts and ".." not in parts and not name.startswith("/")
            if not inside or "\\" in name or ":" in name or name in files:
                raise NotWholeError(
                    f"{where}: a manifest names files inside its folder, each once, but got "
                    f"{shown(name)}."
                )
            files[name] = (item.get("bytes", int), item.get("sha256", str))
        manifest = cls(files)
        if manifest.digest != record.get("digest", str):
            raise NotWholeError(
                f"{path} was changed since the bundle was made: what it lists does not have the "
                "digest that it states. Copy the bundle again."
            )
        return manifest

    def save(self, folder: Path) -> None:
        """Write ``manifest.json``."""
        files = [
            {"path": path, "bytes": size, "sha256": sha256}
            for path, (size, sha256) in sorted(self.files.items())
        ]
        write_json(
            folder / MANIFEST,
            {
                "format": _MANIFEST_FORMAT,
                "version": _VERSION,
                "digest": self.digest,
                "files": files,
            },
        )

    def check(self, folder: Path) -> None:
        """Compare the files of a folder with the manifest.

        Raises:
            NotWholeError: one is missing, was changed, is a link, or code is there that the
                manifest does not list; the message names it.
        """
        for name, (size, sha256) in self.files.items():
            path = folder / name
            again = "Copy the bundle again."
            if path.is_symlink() or not path.is_file():
                raise NotWholeError(f"{path} is listed in the manifest, but not there. {again}")
            found = path.stat().st_size
            if found != size:
                raise NotWholeError(
                    f"{path} was changed since the bundle was made: it has {found} bytes instead "
                    f"of {size}. {again}"
                )
            if file_sha256(path) != sha256:
                raise NotWholeError(
                    f"{path} was changed since the bundle was made: its SHA-256 is not the one in "
                    f"the manifest. {again}"
                )
        for path in sorted((folder / LIBRARY).rglob("*.py")):
            if path.relative_to(folder).as_posix() not in self.files:
                raise NotWholeError(
                    f"{path} is code that the manifest does not list, so nothing is run: remove "
                    "it, or copy the bundle again."
                )


def read_bundle(folder: Path, *, threads: int | None = None) -> tuple[BundlePlan, str]:
    """The plan of a bundle that is whole, and its digest.

    Args:
        threads: instead of the plan's.

    Raises:
        FileFormatError: there is no bundle, or it is not what was written; the message names the
            file.
    """
    manifest = Manifest.load(folder)
    manifest.check(folder)
    if PLAN not in manifest.files:
        raise FileFormatError(f"{folder / MANIFEST} lists no {PLAN}, so it is not of a bundle.")
    plan = BundlePlan.load(folder / PLAN)
    if threads is not None:
        plan = dataclasses.replace(plan, threads=threads)
    return plan, manifest.digest


def texts(values: object, where: str) -> list[str]:
    """A list of texts from JSON."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise FileFormatError(f"{where}: expected a list of texts, but got {shown(values)}.")
    return values


def text_mapping(record: Record, key: str) -> dict[str, str]:
    """The texts by text that a field holds."""
    found = record.get(key, dict)
    texts([*found, *found.values()], f"{record.where}.{key}")
    return found


def _networks(space: SearchSpace, record: Record) -> tuple[Network, ...]:
    networks = record.get("networks", list)
    try:
        return tuple(space.check(network) for network in networks)
    except InvalidInputError as error:
        raise FileFormatError(f"{record.where}.networks: {error}") from error


def _settings(kind: type[_SettingsT], record: Record) -> _SettingsT:
    """Settings whose fields all have defaults; those that a plan lacks are as by default."""
    defaults = dataclasses.asdict(kind())
    record.only(*defaults)
    return kind(**{name: record.get(name, type(value), value) for name, value in defaults.items()})
