"""`mathnas run`: a package served from the command line, over HTTP, and until Ctrl-C."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from mathnas import Block, BlockNode, SearchSpace
from mathnas.cli._live import LiveView, blocks, drawn, sparkline
from mathnas.metrics import metric_named
from mathnas.runtime.dynamic import DynamicNetwork
from mathnas.runtime.policy import Reason
from mathnas.runtime.status import Status

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from running_cases import CLASSES, SHAPE, write_package

Run = Callable[..., tuple[int, str, str]]
QUICK = ("--calibrate", "0.1")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("package") / "net.mathnas"
    write_package(path)
    return path


# ---- in this process -----------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["controller", "smallest", "largest", "ladder", "light-heavy"])
def test_every_policy_serves(run: Run, package: Path, policy: str) -> None:
    code, out, err = run(
        *("run", str(package), "--deadline", "5ms", "--batch", "4", "--seconds", "0.3"),
        *("--policy", policy, "--json", *QUICK),
    )
    assert code == 0, err
    record = json.loads(out)
    assert record["policy"] == policy
    assert record["deadline_ms"] == 5
    assert record["runs"] > 0
    assert record["images"] == 4 * record["runs"]
    assert sum(entry["images"] for entry in record["networks"]) == record["images"]
    assert record["failures"] == record["faults"] == record["refused"] == 0
    assert record["misses"] <= record["runs"]
    expected = sum(
        entry["images"] * (70 + sum((0.0, 2.0, 3.0, 3.5)[block] for block in entry["network"]))
        for entry in record["networks"]
    )
    assert record["mean_quality"] == pytest.approx(expected / record["images"])
    networks = {tuple(entry["network"]) for entry in record["networks"]}
    if policy in ("smallest", "largest"):
        assert networks == {(0, 0, 0) if policy == "smallest" else (3, 3, 3)}
    assert "serving 64 networks" in err


def test_images_wait_where_the_queue_is_full(run: Run, package: Path) -> None:
    """Whoever else fills it does not end the serving."""
    code, out, err = run(
        *("run", str(package), "--deadline", "5ms", "--seconds", "0.5", "--queue", "1", "--json"),
        *QUICK,
    )
    assert code == 0, err
    record = json.loads(out)
    assert record["runs"] > 0
    assert record["failures"] == record["faults"] == 0


def test_the_summary_is_for_people(run: Run, package: Path) -> None:
    code, out, err = run(*("run", str(package), "--deadline", "0.001s", "--seconds", "0.3"), *QUICK)
    assert code == 0, err
    assert re.search(r"\d+ runs, \d+ images", out)
    assert "deadline 1 ms: missed" in out
    assert re.search(r"accuracy expected \d\d\.\d\d %", out)


def test_a_deadline_that_nothing_meets_is_said(run: Run, package: Path) -> None:
    code, out, _ = run(*("run", str(package), "--deadline", "0.0001ms", "--seconds", "0.3"), *QUICK)
    assert code == 0
    assert "at the end no network met the goal, and the fastest served" in out
    assert "0,0,0: 100.0 %" in out


def test_labelled_images_tell_the_accuracy(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("torch")
    write_package(tmp_path / "square.mathnas", (1, 8, 8))
    arguments = ("run", "square.mathnas", "--deadline", "5ms", "--seconds", "0.3", *QUICK)
    code, out, err = run(*arguments, "--images", "digits", "--batch", "8", "--json")
    assert code == 0, err
    assert 0 <= json.loads(out)["measured_accuracy"] <= 100
    write_package(tmp_path / "flat.mathnas")
    code, out, err = run("run", "flat.mathnas", *arguments[2:], "--images", "digits")
    assert (code, out) == (1, "")
    assert "images of the shape (1, 4, 8), but those of digits are (1, 8, 8)" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--deadline", "soon"), "--deadline is a time such as 20ms"),
        (("--deadline", "20kg"), "takes ns, us, ms, s, but got the unit 'kg'"),
        (("--deadline", "0ms"), "deadline_ms is positive"),
        (("--deadline", "1ms", "--miss-rate", "0"), "miss_rate is above 0"),
        (("--deadline", "1ms", "--seconds", "0"), "--seconds is positive"),
        (("--deadline", "1ms", "--batch", "0"), "a batch has 1 to"),
        (("--deadline", "1ms", "--queue", "0"), "queue is at least 1"),
        (("--deadline", "1ms", "--calibrate", "inf"), "a finite time of more than 0 seconds"),
        (("--deadline", "1ms", "--live", "--json"), "leave one out"),
        (("--deadline", "1ms", "--http", "nowhere"), "--http is HOST:PORT"),
        (("--deadline", "1ms", "--http", "127.0.0.1:70000"), "--http is HOST:PORT"),
        (("--deadline", "1ms", "--http", "0.0.0.0:0"), "give one with --token"),
        (("--deadline", "1ms", "--http", ":0", "--token", ""), "token has at least one character"),
        (("--deadline", "1ms", "--images", "digits", "--count", "0"), "--count is at least 1"),
    ],
)
def test_wrong_options_are_explained(
    run: Run, package: Path, options: tuple[str, ...], message: str
) -> None:
    code, out, err = run("run", str(package), *QUICK, *options)
    assert (code, out) == (1, "")
    assert message in err


def test_what_serving_needs_is_looked_at_before_calibrating(
    run: Run, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("uvicorn")

    def calibrate(*_: object, **__: object) -> None:
        pytest.fail("calibrated before the options were checked")

    monkeypatch.setattr(DynamicNetwork, "calibrate", calibrate)
    (tmp_path / "plain.jsonl").write_text("{}\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for option, value, message in (
            ("--queue", "0", "queue is at least 1"),
            ("--log", "absent/log.jsonl", "a folder that exists"),
            ("--log", "plain.jsonl", "name another place for the log"),
            ("--http", f"127.0.0.1:{taken.getsockname()[1]}", "Take another port"),
        ):
            code, out, err = run("run", str(package), "--deadline", "1ms", option, value)
            assert (code, out) == (1, "")
            assert message in err


def test_a_file_that_is_no_package(run: Run, package: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.mathnas").write_bytes(package.read_bytes()[:-100])
    for name in ("missing.mathnas", "cut.mathnas"):
        code, out, err = run("run", name, "--deadline", "1ms")
        assert (code, out) == (1, "")
        assert name in err


def test_help_has_examples(run: Run) -> None:
    code, out, _ = run("run", "--help")
    assert code == 0
    assert "mathnas run net.mathnas --deadline" in out
    for option in ("--http", "--live", "--log", "--policy", "--token", "--max-wait"):
        assert option in out


# ---- logs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["controller", "ladder", "light-heavy"])
def test_a_log_is_appended_to_and_replayed(run: Run, package: Path, policy: str) -> None:
    options = ("run", str(package), "--deadline", "0.5ms", "--policy", policy, *QUICK)
    for _ in range(2):
        assert run(*options, "--seconds", "0.3", "--log", "log.jsonl")[0] == 0
    code, out, err = run("replay", "log.jsonl", "--package", str(package))
    assert code == 0, out + err
    assert re.fullmatch(
        rf"(session [12], {policy}: \d+ runs, \d+ decisions: the same again\n){{2}}", out
    )
    code, out, err = run("replay", "log.jsonl", "--package", str(package), "--json")
    assert code == 0, err
    assert [record["differences"] for record in json.loads(out)] == [[], []]


def test_a_log_of_decisions_alone_is_small_and_says_why_it_is_not_replayed(
    run: Run, package: Path, tmp_path: Path
) -> None:
    options = ("run", str(package), "--deadline", "5ms", "--seconds", "0.3", *QUICK)
    for name, *more in (("all.jsonl",), ("few.jsonl", "--no-log-runs")):
        assert run(*options, "--policy", "smallest", "--log", name, *more)[0] == 0
    assert len((tmp_path / "few.jsonl").read_text().splitlines()) == 2  # header and start
    assert len((tmp_path / "all.jsonl").read_text().splitlines()) > 20
    code, out, err = run("replay", "few.jsonl", "--package", str(package))
    assert (code, out) == (1, "")
    assert "without --no-log-runs" in err


def test_a_log_that_was_changed_differs(run: Run, package: Path, tmp_path: Path) -> None:
    options = ("run", str(package), "--deadline", "5ms", "--seconds", "0.2", *QUICK)
    assert run(*options, "--policy", "smallest", "--log", "log.jsonl")[0] == 0
    log = tmp_path / "log.jsonl"
    header, first, *rest = log.read_text().splitlines()
    first = first.replace('"network":[0,0,0]', '"network":[1,0,0]')
    log.write_text("\n".join([header, first, *rest]) + "\n")
    code, out, _ = run("replay", "log.jsonl", "--package", str(package))
    assert code == 1
    assert "1 differ\n  line 2: recorded 1,0,0 (start)" in out


def test_a_log_of_another_package_is_refused(run: Run, package: Path, tmp_path: Path) -> None:
    options = ("run", str(package), "--deadline", "5ms", "--seconds", "0.2", *QUICK)
    assert run(*options, "--log", "log.jsonl")[0] == 0
    write_package(tmp_path / "other.mathnas", (1, 2, 4))
    code, out, err = run("replay", "log.jsonl", "--package", "other.mathnas")
    assert (code, out) == (1, "")
    assert "recorded with another package than other.mathnas" in err
    (tmp_path / "plain.jsonl").write_text("{}\n")
    assert run(*options, "--log", "plain.jsonl")[0] == 1
    assert (tmp_path / "plain.jsonl").read_text() == "{}\n"


# ---- real processes ------------------------------------------------------------------------------


class Process:
    """`mathnas run` in a process of its own, serving."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "mathnas", "run", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        self.said = ""
        for line in self.process.stderr:
            self.said += line
            if line.startswith("serving"):
                break
        assert "serving" in self.said, self.said

    @property
    def port(self) -> int:
        match = re.search(r"listening on http://127\.0\.0\.1:(\d+)", self.said)
        assert match is not None
        return int(match[1])

    def ask(
        self, method: str, path: str, body: bytes | None = None, kind: str = "", token: str = ""
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            headers = {"Content-Type": kind, "Authorization": f"Bearer {token}"}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def predict(self, images: Any, token: str = "") -> tuple[int, Any]:
        return self.ask("POST", "/predict", images.tobytes(), "application/octet-stream", token)

    def end(self, number: int) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, self.said + err


@contextmanager
def running(*arguments: object) -> Iterator[Process]:
    process = Process(*arguments)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.communicate()


def test_ctrl_c_stops_with_the_summary(package: Path) -> None:
    with running(package, "--deadline", "5ms", "--batch", "4", *QUICK) as process:
        time.sleep(0.3)
        code, out, err = process.end(signal.SIGINT)
    assert code == 130
    assert re.search(r"[1-9]\d* runs, \d+ images", out)
    assert "deadline 5 ms: missed" in out
    assert err.endswith("stopped.\n")
    assert "Traceback" not in err


def test_the_endpoint_of_a_real_process(package: Path) -> None:
    pytest.importorskip("uvicorn")
    images = np.random.default_rng(1).normal(size=(2, *SHAPE)).astype(np.float32)
    options = (package, "--deadline", "5ms", "--batch", "2", *QUICK)
    with running(*options, "--http", "127.0.0.1:0", "--token", "sesame") as process:
        assert process.predict(images)[0] == 401
        status, answer = process.predict(images, "sesame")
        assert status == 200
        assert np.shape(answer["logits"]) == (2, CLASSES)
        assert answer["classes"] == np.argmax(answer["logits"], axis=1).tolist()
        # networks of this package differ in speed only: their matrices are the identity
        again = process.predict(images[:1], "sesame")[1]
        assert np.allclose(again["logits"][0], answer["logits"][0], atol=1e-5)
        assert process.predict(np.concatenate([images] * 2), "sesame")[0] == 400
        body = b'{"deadline_ms": 7}'
        assert process.ask("POST", "/deadline", body, "application/json", "sesame")[0] == 200
        found = process.ask("GET", "/status", token="sesame")[1]
        assert (found["deadline_ms"], found["requests"], found["images"]) == (7, 2, 3)
        # systems that stop a service send this: it is an end as good as any
        code, out, err = process.end(signal.SIGTERM)
    assert code == 0, err
    assert "2 runs, 3 images" in out


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")
def test_a_killed_server_starts_again_at_the_same_port_with_the_same_log(
    package: Path, tmp_path: Path
) -> None:
    pytest.importorskip("uvicorn")
    images = np.zeros((1, *SHAPE), np.float32)
    log = tmp_path / "decisions.jsonl"
    options = (package, "--deadline", "5ms", "--log", log, *QUICK)
    with running(*options, "--http", "127.0.0.1:0") as process:
        port = process.port
        for _ in range(50):
            assert process.predict(images)[0] == 200
        os.kill(process.process.pid, signal.SIGKILL)
        process.process.wait()
    before = log.read_bytes()
    with running(*options, "--http", f"127.0.0.1:{port}") as process:
        assert process.port == port
        assert process.predict(images)[0] == 200
        assert process.ask("GET", "/status")[1]["requests"] == 1
        code, _, err = process.end(signal.SIGTERM)
    assert code == 0, err
    after = log.read_bytes()
    assert after.startswith(before)
    assert len(after) > len(before)


# ---- the live view -------------------------------------------------------------------------------


STATUS = Status(
    network=(0, 3, 1),
    deadline_ms=20.0,
    reason=Reason.ROOM,
    latency_ms=17.3,
    quality=71.25,
    mean_quality=70.5,
    queue=2,
    requests=10,
    images=40,
    runs=200,
    misses=3,
    switches=4,
    changed=9,
    refused=1,
    failures=0,
    faults=0,
    last_fault=None,
    networks={(0, 3, 1): 30, (0, 0, 0): 10},
)


def _space() -> SearchSpace:
    # of falling MACs: the bars show sizes, not indices
    choices = tuple(Block(f"b{j}", macs=1e6 * (4 - j)) for j in range(4))
    return SearchSpace([BlockNode(f"n{i}", choices) for i in range(3)])


def _text(**changes: Any) -> str:
    console = Console(width=100, file=io.StringIO(), record=True)
    status = replace(STATUS, **changes)
    console.print(drawn(status, [10.0, 20.0, 30.0], _space(), metric_named("accuracy")))
    return console.export_text()


def test_what_is_drawn() -> None:
    text = _text()
    for wanted in (
        *("20 ms", "17.3 ms ▃▆█", "█▁▆  0,3,1", "71.25 %, mean 70.50 %"),
        *("4 of 9 blocks, among 2 networks", "200, 3 late (1.50 %)", "2 wait, 1 refused"),
    ):
        assert wanted in text, text
    assert "no network meets" not in text
    assert "no network meets the goal" in _text(reason=Reason.UNREACHABLE)
    assert "2 runs failed, 1 other faults: OSError: full" in _text(
        failures=2, faults=1, last_fault="OSError: full"
    )


def test_nothing_is_drawn_of_what_is_not_known() -> None:
    text = _text(deadline_ms=None, latency_ms=None, quality=None, runs=0)
    assert "deadline" not in text
    assert "expected" not in text


def test_bars_of_latencies_and_of_networks() -> None:
    line = sparkline([0.0, 5.0, 10.0], 5.0)
    assert line.plain == "▁▅█"
    assert [span.style for span in line.spans] == ["green", "green", "red"]
    assert sparkline([], None).plain == ""
    assert sparkline([0.0], None).plain == "▁"
    one = SearchSpace([BlockNode("n", (Block("only"),)), BlockNode("m", (Block("a"), Block("b")))])
    assert blocks((0, 1), one) == "▁█"


def test_the_view_follows_the_server() -> None:
    class Told:
        status = STATUS
        latencies_ms = (17.0,)

    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100)
    told: Any = Told()
    with LiveView(told, _space(), metric_named("accuracy"), console) as view:
        view.refresh()
        told.status = replace(STATUS, switches=5)
    assert "4 of 9 blocks" in file.getvalue()
    assert "5 of 9 blocks" in file.getvalue()
