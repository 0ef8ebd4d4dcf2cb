"""``mathnas run``."""

from __future__ import annotations

import math
import re
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from mathnas._files import file_sha256
from mathnas.cli._extras import needing
from mathnas.cli._images import ImageChoice, read_test_images
from mathnas.cli._options import AsJson, at_least_one, print_json, progress_of
from mathnas.cli._policies import Conditions, PolicyName, expected, make_policy, quality_of
from mathnas.errors import InvalidInputError
from mathnas.metrics import convert, metric_named

if TYPE_CHECKING:
    from mathnas.cli._serving import Feed
    from mathnas.runtime.http import Listener
    from mathnas.runtime.package import Package
    from mathnas.runtime.serving import Server

_RANDOM = "random"
_RANDOM_IMAGES = 16  # or a batch: they lie in the device's memory beside the network
_LATENCY = "latency_ms"
_LOOPBACK, _LAST_PORT = "127.0.0.1", 65535
_BYTES_A_NUMBER = 32  # in JSON, with what separates numbers
_HEADER_BYTES = 4096


def register(app: typer.Typer) -> None:
    app.command(
        "run",
        help="Serve a deployment package: measure its parts on this machine, then run images or "
        "answer requests, and switch between its networks so that the deadline is kept. Ends "
        "after --seconds or with Ctrl-C, and tells what happened.",
        epilog="Examples:\n\n"
        "mathnas run net.mathnas --deadline 20ms --batch 64 --seconds 30\n\n"
        "mathnas run net.mathnas --deadline 20ms --batch 64 --images cifar10 --live\n\n"
        "mathnas run net.mathnas --deadline 2ms --http 127.0.0.1:8000 --log decisions.jsonl\n\n"
        "mathnas run net.mathnas --deadline 20ms --policy largest --seconds 10 --json",
    )(run)


def run(
    package_path: Annotated[
        Path, typer.Argument(metavar="PACKAGE", help="What `mathnas deploy` wrote.")
    ],
    deadline: Annotated[
        str, typer.Option(metavar="TIME", help="Of one run: 20ms, 0.5s; a bare number is ms.")
    ],
    miss_rate: Annotated[
        float, typer.Option(metavar="SHARE", help="Of the runs that may be late.")
    ] = 0.02,
    policy: Annotated[
        PolicyName,
        typer.Option(
            help="controller: the best network now, by an exact solve. smallest, largest: that "
            "one always. ladder: seven networks of the front. light-heavy: the paper's rule."
        ),
    ] = PolicyName.CONTROLLER,
    batch: Annotated[
        int,
        typer.Option(help="Images of a run. Requests of fewer run together, or are filled up."),
    ] = 1,
    images: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGES",
            help="What is run again and again: random, or test images of cifar10, folder:PATH, "
            "parquet:PATH or digits, whose accuracy is told. By default random, and nothing with "
            "--http.",
        ),
    ] = None,
    count: Annotated[
        int, typer.Option(metavar="N", help="Of these images, the same share of every class.")
    ] = 2000,
    seconds: Annotated[
        float | None, typer.Option(help="Stop then; by default Ctrl-C stops.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Of a run.")] = 1,
    calibrate: Annotated[
        float,
        typer.Option("--calibrate", metavar="SECONDS", help="Measuring the parts at the start."),
    ] = 2.0,
    http: Annotated[
        str | None,
        typer.Option(
            "--http",
            metavar="HOST:PORT",
            help="Answer POST /predict, GET /status and POST /deadline there; port 0 takes a free "
            "one.",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="MATHNAS_TOKEN",
            metavar="TOKEN",
            help="That requests must bring; needed where other machines reach the address.",
        ),
    ] = None,
    queue: Annotated[int, typer.Option(help="Requests that may wait.")] = 64,
    max_wait: Annotated[
        str,
        typer.Option(metavar="TIME", help="How long a request waits for others to fill a batch."),
    ] = "0ms",
    log: Annotated[
        Path | None,
        typer.Option("--log", metavar="FILE.jsonl", help="Append what was seen and decided."),
    ] = None,
    log_runs: Annotated[
        bool,
        typer.Option(
            "--log-runs/--no-log-runs",
            help="Log every run, about 140 bytes of five nodes, which mathnas replay needs; or "
            "decisions alone.",
        ),
    ] = True,
    live: Annotated[
        bool, typer.Option("--live", help="Draw what happens in the terminal.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    # what serves is imported here, since every command imports this module as it starts
    import asyncio

    from mathnas.cli._live import LiveView
    from mathnas.cli._serving import serve
    from mathnas.runtime.decisions import Recorder, check_log
    from mathnas.runtime.dynamic import DynamicNetwork
    from mathnas.runtime.goals import Goal
    from mathnas.runtime.loading import resident_parts
    from mathnas.runtime.package import Package
    from mathnas.runtime.serving import Server

    limit_ms = _milliseconds("--deadline", deadline)
    goal = Goal(deadline_ms=limit_ms, miss_rate=miss_rate)
    wait_ms = _milliseconds("--max-wait", max_wait)
    if seconds is not None and not 0 < seconds < float("inf"):
        raise InvalidInputError(f"--seconds is positive, but got {seconds}.")
    if live and as_json:
        raise InvalidInputError("--live draws for people and --json is for scripts: leave one out.")
    at_least_one("--queue", queue)
    address = None if http is None else _address(http, token)
    package = Package.read(package_path)
    served = _images(package, images or _RANDOM, count, batch)
    parts = resident_parts(package, threads=threads)
    dynamic = DynamicNetwork(parts, package.table.reference)
    if log is not None:
        check_log(log)  # now: calibrating takes its time
    first = served.images[np.arange(batch) % len(served.images)]
    times = dynamic.calibrate(first, seconds=calibrate, progress=progress_of(as_json))
    quality = quality_of(package.table)
    decides = make_policy(policy, package.table, times, goal)
    with ExitStack() as open_things:
        if log is not None:
            digest = file_sha256(package_path)
            made = Conditions(policy, limit_ms, times, digest, parts.engine, threads, batch)
            recorder = Recorder(decides, log, runs=log_runs, notes=made.to_dict())
            decides = open_things.enter_context(recorder)
        server = Server(
            dynamic,
            decides,
            deadline_ms=limit_ms,
            input_shape=package.input_shape,
            queue=queue,
            max_batch=batch,
            max_wait_ms=wait_ms,
            fixed_batch=True,
            quality=None if quality is None else expected(package.table, quality),
        )
        listener = None if address is None else _listener(server, package, address, token, batch)

        def say() -> None:
            where = "" if listener is None else f", listening on {listener.address}"
            size = f"{dynamic.memory_bytes / 1e6:.4g} MB resident"
            networks = f"serving {package.space.num_networks} networks, {size}"
            typer.echo(f"{networks}{where}; Ctrl-C stops", err=True)

        summary = asyncio.run(
            serve(
                server,
                feed=None if images is None and listener is not None else served,
                listener=listener,
                seconds=seconds,
                view=LiveView(server, package.space, quality) if live else None,
                started=say,
            )
        )
    if as_json:
        conditions = {"engine": parts.engine, "threads": threads, "batch": batch}
        print_json({"policy": policy.value, **conditions, **summary.to_dict()})
    else:
        typer.echo(f"{policy.value}, {parts.engine}, batch {batch}\n{summary.text(quality)}")
    if summary.stopped_by is signal.SIGINT:
        raise KeyboardInterrupt


# ---- what is served ------------------------------------------------------------------------------


def _images(package: Package, name: str, count: int, batch: int) -> Feed:
    """What is run again and again.

    Raises:
        InvalidInputError: they are not such images as the package takes.
    """
    from mathnas.cli._serving import Feed

    shape = package.input_shape
    if name == _RANDOM:
        size = (max(batch, _RANDOM_IMAGES), *shape)
        made = np.random.default_rng(0).standard_normal(size, dtype=np.float32)
        return Feed(made, None, batch)
    at_least_one("--count", count)
    found = read_test_images(ImageChoice(name, count=count), package.notes)
    images = np.ascontiguousarray(found.images.numpy(), np.float32)
    if images.shape[1:] != shape:
        raise InvalidInputError(
            f"the package takes images of the shape {shape}, but those of {name} are "
            f"{images.shape[1:]}: take images of the kind that it was deployed for."
        )
    return Feed(images, found.labels.numpy(), batch)


# ---- the endpoint --------------------------------------------------------------------------------


def _listener(
    server: Server, package: Package, address: tuple[str, int], token: str | None, batch: int
) -> Listener:
    from mathnas.runtime.http import Listener, application, hosts_for

    host, port = address
    app = application(
        server,
        package.input_shape,
        token=token,
        max_bytes=_HEADER_BYTES + _BYTES_A_NUMBER * batch * math.prod(package.input_shape),
        about={"preprocessing": package.notes.get("preprocessing")},
        hosts=hosts_for(host),
    )
    return Listener(app, host, port)


def _address(text: str, token: str | None) -> tuple[str, int]:
    """``127.0.0.1:8000``, ``[::1]:8000``, ``:8000`` or ``8000``.

    Raises:
        InvalidInputError: it is none of these, or other machines reach it and there is no token.
        MathNASError: it cannot be listened on.
        MissingExtraError: what listens is not installed.
    """
    with needing("--http", "serve"):
        from mathnas.runtime.http import check_address, check_token, is_loopback
    match = re.fullmatch(r"(?:(?P<host>\[[0-9a-fA-F:.]+\]|[^:\[\]\s]*):)?(?P<port>\d{1,5})", text)
    if match is None or int(match["port"]) > _LAST_PORT:
        raise InvalidInputError(
            f"--http is HOST:PORT, for example 127.0.0.1:8000 or [::1]:8000, but got {text!r}."
        )
    host = (match["host"] or _LOOPBACK).strip("[]")
    if token is not None:
        check_token(token)
    elif not is_loopback(host):
        raise InvalidInputError(
            f"other machines may reach {host}, so requests there bring a token: give one with "
            "--token or in MATHNAS_TOKEN, or listen on 127.0.0.1."
        )
    check_address(host, int(match["port"]))  # now: the package is read and calibrated first
    return host, int(match["port"])


def _milliseconds(option: str, text: str) -> float:
    """``20ms``, ``0.5s`` or ``20`` in milliseconds.

    Raises:
        InvalidInputError: it is no time.
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([a-z]*)\s*", text)
    if match is None:
        raise InvalidInputError(f"{option} is a time such as 20ms or 0.5s, but got {text!r}.")
    return convert(float(match[1]), match[2], metric_named(_LATENCY))
