"""Options that several commands share, and how results are printed."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from mathnas import spaces
from mathnas._records import read_json
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.fitting import fit
from mathnas.runner import EvaluationReport
from mathnas.search import Rule, at_most_changes, exclude, fix, forbid, require
from mathnas.space import SearchSpace
from mathnas.study import Study
from mathnas.table import TABLE_FORMAT, TABLE_VERSION, BlockTable


def _positive(seconds: float | None) -> float | None:
    if seconds is not None and not 0 < seconds < math.inf:
        raise InvalidInputError(f"--time-limit is positive seconds, but got {seconds}.")
    return seconds


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
StudyPath = Annotated[Path, typer.Argument(metavar="STUDY", help="The study file.")]
TablePath = Annotated[
    Path, typer.Argument(metavar="TABLE", help="A table file, or a study (fitted on the spot).")
]
EvaluatorSpec = Annotated[
    str,
    typer.Option(
        "--evaluator",
        metavar="SPEC",
        help="data:NAME[:ARGUMENT] (see `mathnas data`), table:FILE.csv, "
        "supernet:FILE.safetensors[,data=NAME,count=N,test=true,calibration=N,resolution=R,"
        "loss=true,threads=N,together=N,memory=BYTES; for translators bleu=true,beam=N,"
        "vocabulary=FILE], "
        "latency[:FILE.safetensors][,engine=onnxruntime|torch|torch-compile|torch-cuda|openvino|"
        "executorch,precision=fp32|bf16|fp16,batch=N,resolution=R,threads=N,rounds=N,together=N,"
        "statistics=median+min+cpu,reference=true,attempts=N,accept_noise=true; for translators "
        "beam=N], "
        "energy[:FILE.safetensors][,meter=NAME,window=SECONDS,rounds=N, and as latency], "
        "or MODULE:OBJECT.",
    ),
]
SpaceSpec = Annotated[
    str | None,
    typer.Option(
        "--space",
        help="A space (see `mathnas spaces`) or its JSON file; by default the study's, or the "
        "evaluator's.",
    ),
]
SupernetPath = Annotated[
    Path | None,
    typer.Option(
        "--supernet",
        metavar="FILE",
        help="The trained supernet; by default the one that the study was measured with, beside "
        "the study or here.",
    ),
]
DataName = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="NAME",
        help="Images: cifar10, folder:PATH, parquet:PATH or digits; by default what the supernet "
        "was trained on.",
    ),
]
Resolution = Annotated[
    int | None, typer.Option("--resolution", metavar="R", help="Side of the inputs, pixels.")
]
Workers = Annotated[int, typer.Option("--workers", help="Worker processes.")]
Repeats = Annotated[int, typer.Option("--repeats", help="Measurements of each network.")]
LimitTexts = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="LIMIT",
        help="latency_ms=20, 'latency_ms<=20ms', 'accuracy>=75', macs=300M, or a change from the "
        "reference network: latency_ms=-30%. May be repeated.",
    ),
]
Forms = Annotated[
    list[str] | None,
    typer.Option(
        "--form",
        metavar="METRIC=FORM",
        help="How block effects add up: linear (default), inverse-macs-block-mean, "
        "inverse-macs-space-mean, inverse-macs-corrected.",
    ),
]
ObjectiveName = Annotated[str | None, typer.Option(metavar="METRIC")]
Budgets = Annotated[
    str,
    typer.Option(
        "--budgets",
        metavar="BUDGETS",
        help="How many, spread evenly, or their values: 200M,300M,400M; one alone as '<=200M'.",
    ),
]
Effort = Annotated[
    float,
    typer.Option("--effort", help="How long to search and to prove; 1 is some seconds."),
]
TimeLimit = Annotated[
    float | None,
    typer.Option(
        "--time-limit",
        metavar="SECONDS",
        callback=_positive,
        help="Stop then, with what is found and proven so far.",
    ),
]
DeviceName = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME",
        help="Of a study with measurements of several devices: which one, by its name or a part "
        "that no other has (see `mathnas devices`).",
    ),
]
GridIntensity = Annotated[
    float | None,
    typer.Option(
        "--grid-intensity",
        metavar="G",
        envvar="MATHNAS_GRID_INTENSITY",
        help="Grams of CO2 for a kWh where this machine is, for an estimate beside its energy.",
    ),
]
MeterName = Annotated[
    str | None,
    typer.Option(
        "--meter",
        metavar="METER",
        envvar="MATHNAS_METER",
        help="Measure the energy that the run takes: a meter of this machine (see `mathnas "
        "show-env`), or MODULE:OBJECT, with start(), joules(), stop() and name.",
    ),
]
SolverName = Annotated[
    str,
    typer.Option(
        "--solver", metavar="NAME", help="auto, kernel, numpy, enumeration, chain or highs."
    ),
]


def _rule_option(name: str, metavar: str, help_text: str) -> Any:
    """An option of the panel of rules."""
    return typer.Option(
        name,
        metavar=metavar,
        rich_help_panel="Rules (nodes and blocks by name or number)",
        help=help_text,
    )


FixTexts = Annotated[
    list[str] | None,
    _rule_option("--fix", "NODE=BLOCK", "The node takes this block. May be repeated."),
]
ExcludeTexts = Annotated[
    list[str] | None,
    _rule_option("--exclude", "NODE=BLOCK", "The node does not take this block. May be repeated."),
]
ForbidTexts = Annotated[
    list[str] | None,
    _rule_option("--forbid", "A=X,B=Y", "These are not all together. May be repeated."),
]
RequireTexts = Annotated[
    list[str] | None,
    _rule_option(
        "--require",
        "A=X:B=Y",
        "Where A takes X, B takes Y; commas join several. May be repeated.",
    ),
]
MaxChanges = Annotated[
    int | None,
    _rule_option("--max-changes", "N", "At most N nodes differ from the network --from."),
]
FromNetwork = Annotated[
    str | None,
    _rule_option("--from", "NETWORK", "What --max-changes counts from, as 3,0,2 or block names."),
]


def print_json(value: object) -> None:
    """Print JSON that every parser reads: numbers that are not finite become null."""
    print(json.dumps(_finite(value), indent=2, allow_nan=False, ensure_ascii=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def progress_of(as_json: bool) -> bool | None:
    """Progress where standard error is a terminal, and in logs of people, not of scripts."""
    return None if as_json or sys.stderr.isatty() else True


@contextlib.contextmanager
def kept_when_stopped(study: Study, path: Path) -> Iterator[None]:
    """After Ctrl-C, says that what was measured is kept, and goes on stopping."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(
            f"{len(study)} measurements are in {path}. The same command goes on from here.",
            err=True,
        )
        raise


def report_dict(report: EvaluationReport) -> dict[str, object]:
    """What an evaluation did, for JSON."""
    return {
        "done": report.done,
        "already": report.already,
        "failures": [
            {"network": list(failure.network), "error": failure.error}
            for failure in report.failures
        ],
    }


def restored_space(path: Path) -> SearchSpace:
    """The space of a study, with what its family adds to the declaration: canonical form, forms,
    features.

    Raises:
        FileFormatError: there is no such study, or it cannot be read.
    """
    with Study(path, read_only=True) as study:
        return spaces.restore(study.space.to_dict())


def read_study(path: Path) -> Study:
    """A study to read, with its `restored_space`.

    Raises:
        FileFormatError: there is no such study, or it cannot be read.
    """
    return Study(path, restored_space(path), read_only=True)


def load_table(path: Path) -> BlockTable:
    """A saved table, with the forms and features of its space's family.

    Raises:
        FileFormatError, InvalidInputError: as `BlockTable.load`.
    """
    record = read_json(path, TABLE_FORMAT, TABLE_VERSION)
    space = spaces.restore(record.get("space", dict), f"{path}.space")
    return BlockTable.from_dict(record.value, str(path), space=space)


def read_table(path: Path, forms: list[str] | None = None, device: str | None = None) -> BlockTable:
    """The table of a file: a saved table, or a study that is fitted now.

    Raises:
        FileFormatError: there is no such file, or it is neither.
        InvalidInputError: forms or a device are given for a table that is fitted already.
    """
    if is_study(path):
        with read_study(path) as study:
            return fit(study, form=read_forms(forms), device=device)
    for option, given in (("--form", forms), ("--device", device)):
        if given:
            raise InvalidInputError(
                f"{option} is for fitting, but {path} is a table that is fitted already: give the "
                "study."
            )
    return load_table(path)


def is_study(path: Path) -> bool:
    """Whether a file looks like a study.

    Raises:
        FileFormatError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(15) == b"SQLite format 3"
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror or error}.") from error


def read_forms(forms: list[str] | None) -> dict[str, str]:
    """``["accuracy=linear"]`` as a mapping.

    Raises:
        InvalidInputError: an entry is not METRIC=FORM.
    """
    return read_pairs("--form", "METRIC=FORM", forms)


def read_pairs(option: str, written: str, entries: list[str] | None) -> dict[str, str]:
    """``["a=b"]`` as a mapping, for an option whose help says `written`.

    Raises:
        InvalidInputError: an entry is not such a pair.
    """
    pairs = [entry.partition("=") for entry in entries or []]
    for (name, _, value), entry in zip(pairs, entries or [], strict=True):
        if not name or not value:
            raise InvalidInputError(f"{option} is written {written}, but got {entry!r}.")
    return {name: value for name, _, value in pairs}


def at_least_one(option: str, count: int) -> None:
    """Raise `InvalidInputError` where the count of an option is below 1."""
    if count < 1:
        raise InvalidInputError(f"{option} is at least 1, but got {count}.")


def read_budgets(text: str) -> int | list[str]:
    """``32`` as how many, ``200M,300M`` as their values."""
    return int(text) if text.isdecimal() else text.split(",")


def read_rules(
    space: SearchSpace,
    *,
    fixed: list[str] | None = None,
    excluded: list[str] | None = None,
    forbidden: list[str] | None = None,
    required: list[str] | None = None,
    max_changes: int | None = None,
    start: str | None = None,
) -> list[Rule]:
    """The rules of a command line.

    Raises:
        InvalidInputError: a rule cannot be read or does not fit the space; the message names it.
    """
    if (max_changes is None) != (start is None):
        raise InvalidInputError("--max-changes N and --from NETWORK are given together.")
    rules = [_rule("--fix", text, lambda t: fix(space, _blocks(t))) for text in fixed or []]
    for text in excluded or []:
        # one rule each, so that several blocks of one node can be listed
        for part in text.split(","):
            rules.append(_rule("--exclude", part, lambda t: exclude(space, _blocks(t))))
    for text in forbidden or []:
        rules.append(_rule("--forbid", text, lambda t: forbid(space, _blocks(t))))
    rules += [_rule("--require", text, lambda t: _required(space, t)) for text in required or []]
    if max_changes is not None and start is not None:
        network = start
        rules.append(
            _rule(
                "--max-changes",
                f"{max_changes} --from {network}",
                lambda _: at_most_changes(space, space.parse(network), max_changes),
            )
        )
    return rules


def _rule(option: str, text: str, make: Callable[[str], Rule]) -> Rule:
    try:
        return make(text)
    except InvalidInputError as error:
        raise InvalidInputError(f"{option} {text}: {error}") from error


def _required(space: SearchSpace, text: str) -> Rule:
    when, _, then = text.partition(":")
    if not then:
        raise InvalidInputError("it is written NODE=BLOCK:NODE=BLOCK, condition first.")
    return require(space, _blocks(when), _blocks(then))


def _blocks(text: str) -> dict[str | int, str | int]:
    """``"a=x,b=2"`` as a mapping; as in networks, a number is an index."""
    found: dict[str | int, str | int] = {}
    for node, block in _pairs(text):
        if node in found:
            raise InvalidInputError(f"the node {node!r} stands twice.")
        found[node] = block
    return found


def _pairs(text: str) -> Iterator[tuple[str | int, str | int]]:
    for part in text.split(","):
        node, _, block = (word.strip() for word in part.partition("="))
        if not node or not block:
            raise InvalidInputError(f"blocks are written NODE=BLOCK, but got {part.strip()!r}.")
        yield _name(node), _name(block)


def _name(text: str) -> str | int:
    return int(text) if text.isdecimal() else text
