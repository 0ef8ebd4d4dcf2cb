"""The HTTP endpoint: bodies that are read, bodies that are not, errors as answers, real sockets."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from serving_cases import SHAPE, Scripted, Sleeper, answers, images_of

from mathnas.errors import InvalidInputError, MathNASError

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from mathnas.runtime.http import (
    JSON,
    NPY,
    RAW,
    Listener,
    application,
    hosts_for,
    is_loopback,
    read_images,
)
from mathnas.runtime.serving import Server

NETWORK = (1, 2, 3)


def npy(array: np.ndarray[Any, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


# ---- bodies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RAW, NPY, JSON])
def test_images_are_read_from_every_kind_of_body(kind: str) -> None:
    images = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    write: Mapping[str, Callable[[Any], bytes]] = {
        RAW: lambda array: array.tobytes(),
        NPY: npy,
        JSON: lambda array: json.dumps(array.tolist()).encode(),
    }
    for given in (images, images[0]):
        read = read_images(write[kind](given), kind, SHAPE)
        assert read.dtype == np.float32
        assert np.array_equal(read, given.reshape(-1, *SHAPE))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(8.0).reshape(2, *SHAPE),
        np.asfortranarray(np.arange(8, dtype=np.float16).reshape(2, *SHAPE)),
        np.arange(8, dtype=">f4").reshape(2, *SHAPE),
    ],
    ids=["double", "fortran-half", "big-endian"],
)
def test_npy_of_other_floats_and_orders(array: np.ndarray[Any, Any]) -> None:
    assert np.array_equal(read_images(npy(array), NPY, SHAPE), array)


def _header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b"", RAW, "body of 0"),
        (b"123", RAW, "16 bytes each as float32"),
        (np.full(4, np.nan, np.float32).tobytes(), RAW, "finite"),
        (b"", NPY, "not a .npy file"),
        (b"\x93NUMPY\x09\x00", NPY, "not a .npy file"),
        (npy(np.array([[1, 2], [3, 4]])), NPY, "floating point numbers, but got int64"),
        (npy(np.array([None]), allow_pickle=True), NPY, "floating point numbers, but got object"),
        (npy(np.zeros(SHAPE))[:-1], NPY, "31 bytes follow"),
        (npy(np.zeros(SHAPE)) + b"x", NPY, "33 bytes follow"),
        (npy(np.zeros((2, 2, 1))), NPY, r"but got \(2, 2, 1\)"),
        (npy(np.zeros((0, *SHAPE))), NPY, r"but got \(0, 1, 2, 2\)"),
        (npy(np.full(SHAPE, 1e300)), NPY, "finite"),
        (
            _header(
                "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 1, 2, 2)}\n"
            ),
            NPY,
            "0 bytes follow",
        ),
        (_header("{'descr': '<f8', 'shape': __import__('os')}\n"), NPY, "not a .npy file"),
        (b"{", JSON, "not JSON"),
        (b"[" * 100_000, JSON, "not JSON"),
        (b'{"images": 1}', JSON, "nested lists"),
        (b"[[[1, 2], [3]]]", JSON, "nested lists"),
        (b'[[[1, 2], [3, "4"]]]', JSON, "nested lists"),
        (b"[[[1, 2], [3, true]], [[1, 2], [3, null]]]", JSON, "nested lists"),
        (b"[[[1, 2], [3, NaN]]]", JSON, "finite"),
        (b"[[[1, 2], [3, 1e400]]]", JSON, "finite"),
        (b"[[[1, 2], [3, 1" + b"0" * 400 + b"]]]", JSON, "nested lists"),
        (b"[]", JSON, r"but got \(0,\)"),
    ],
)
def test_other_bodies_are_refused(body: bytes, kind: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read_images(body, kind, SHAPE)


# ---- over real sockets ---------------------------------------------------------------------------


@dataclass
class Endpoint:
    port: int
    server: Server
    sleeper: Sleeper

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        **headers: str,
    ) -> tuple[int, Any, Mapping[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            text = answer.read()
            kind = answer.getheader("content-type", "")
            content = json.loads(text) if kind.startswith(JSON) else text.decode()
            return answer.status, content, dict(answer.headers)
        finally:
            connection.close()

    def predict(self, images: Any, **headers: str) -> tuple[int, Any, Mapping[str, str]]:
        return self.ask("POST", "/predict", images.tobytes(), content_type=RAW, **headers)


@contextmanager
def endpoint(
    *, token: str | None = None, max_bytes: int = 1000, hosts: Any = ("*",), **options: Any
) -> Iterator[Endpoint]:
    """A server and its endpoint in an event loop of another thread."""
    sleeper = Sleeper()
    started: list[Endpoint] = []
    ready, loops = threading.Event(), []

    async def main() -> None:
        end = asyncio.Event()
        loops.append((asyncio.get_running_loop(), end))
        policy = Scripted([NETWORK])
        async with Server(sleeper, policy, input_shape=SHAPE, **options) as server:
            app = application(
                server, SHAPE, token=token, max_bytes=max_bytes, about={"kind": "toy"}, hosts=hosts
            )
            async with Listener(app, port=0) as listener:
                started.append(Endpoint(listener.port, server, sleeper))
                ready.set()
                await end.wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        assert ready.wait(30)
        yield started[0]
    finally:
        sleeper.open.set()
        loop, end = loops[0]
        loop.call_soon_threadsafe(end.set)
        thread.join(30)
    assert not thread.is_alive()


def test_predictions_the_status_and_a_new_deadline() -> None:
    with endpoint() as here:
        status, answer, _ = here.predict(images_of(5, 7))
        assert status == 200
        assert answer["logits"] == answers(images_of(5, 7), NETWORK).tolist()
        assert answer["classes"] == [0, 0]  # the image's value is the largest of (value, 1, 2, 3)
        assert answer["network"] == list(NETWORK)
        assert answer["latency_ms"] >= 0
        assert answer["waited_ms"] >= 0
        status, found, _ = here.ask("GET", "/status")
        assert status == 200
        assert (found["requests"], found["images"], found["deadline_ms"]) == (1, 2, 50.0)
        assert found["input_shape"] == list(SHAPE)
        assert found["kind"] == "toy"
        body = b'{"deadline_ms": 12.5}'
        assert here.ask("POST", "/deadline", body, content_type=JSON)[:2] == (
            200,
            {"deadline_ms": 12.5},
        )
        assert here.server.deadline_ms == 12.5


def test_answers_that_json_does_not_know_are_null() -> None:
    with endpoint() as here:
        here.sleeper.run, plain = lambda images: _spoilt(plain(images)), here.sleeper.run  # type: ignore[method-assign]
        status, answer, _ = here.predict(images_of(5))
        assert status == 200
        assert answer["logits"] == [[None, 1.0, 2.0, 3.0]]


def _spoilt(result: Any) -> Any:
    result.outputs[0, 0] = np.inf
    return result


@pytest.mark.parametrize(
    ("path", "kind", "body", "status", "message"),
    [
        ("/predict", RAW, b"123", 400, "16 bytes each"),
        ("/predict", "text/plain", b"123", 415, "the content type is application/octet-stream"),
        ("/predict", RAW, b"1" * 1001, 413, "at most 1000 bytes"),
        ("/predict", JSON, b"[" * 900, 400, "nested lists|not JSON"),
        ("/deadline", JSON, b"[]", 400, "deadline_ms"),
        ("/deadline", JSON, b'{"deadline_ms": true}', 400, "deadline_ms"),
        ("/deadline", JSON, b'{"deadline_ms": -1}', 400, "positive milliseconds"),
        ("/deadline", JSON, b'{"deadline_ms": NaN}', 400, "positive milliseconds"),
        ("/deadline", JSON, b'{"deadline_ms": 1' + b"0" * 400 + b"}", 400, "positive milliseconds"),
        ("/deadline", "text/plain", b'{"deadline_ms": 1}', 415, "the content type"),
    ],
)
def test_what_is_wrong_is_said(
    path: str, kind: str, body: bytes, status: int, message: str
) -> None:
    with endpoint() as here:
        found, answer, _ = here.ask("POST", path, body, content_type=kind)
        assert found == status, answer
        assert re.search(message, answer["error"])
        assert here.predict(images_of(1))[0] == 200, "it serves on"


def test_other_paths_and_methods_are_not_there() -> None:
    with endpoint() as here:
        assert here.ask("GET", "/")[0] == 404
        assert here.ask("GET", "/predict")[0] == 405


def test_a_body_without_a_length_is_bounded_too() -> None:
    with endpoint() as here:

        def pieces() -> Iterator[bytes]:
            for _ in range(50):
                yield b"1" * 100

        try:
            found = here.ask("POST", "/predict", pieces(), content_type=RAW)[0]
        except (BrokenPipeError, ConnectionResetError):  # it hung up before all was sent
            found = 413
        assert found == 413
        assert here.predict(images_of(1))[0] == 200


def test_a_full_queue_answers_503_and_when_to_try_again() -> None:
    with endpoint(queue=1) as here:
        here.sleeper.open.clear()
        first = threading.Thread(target=lambda: here.predict(images_of(1)))
        first.start()
        assert here.sleeper.running.wait(30)
        here.server.request(images_of(2))  # waits
        status, answer, headers = here.predict(images_of(3))
        assert status == 503
        assert int(headers["retry-after"]) >= 1
        assert "1 requests wait" in answer["error"]
        here.sleeper.open.set()
        first.join(30)
        assert here.predict(images_of(3))[0] == 200


def test_a_run_that_fails_answers_500() -> None:
    with endpoint() as here:
        here.sleeper.fails = lambda images: bool((images == 13).any())
        status, answer, _ = here.predict(images_of(13))
        assert status == 500
        assert "on fire" in answer["error"]
        assert here.predict(images_of(1))[0] == 200


def test_a_token_is_asked_for() -> None:
    with endpoint(token="sesame") as here:
        for given in ("", "Bearer other", "sesame"):
            status, answer, found = here.predict(images_of(1), authorization=given)
            assert status == 401
            assert found["www-authenticate"] == "Bearer"
            assert "sesame" not in answer["error"]
        assert here.ask("GET", "/status")[0] == 401
        assert here.predict(images_of(1), authorization="Bearer sesame")[0] == 200
        assert here.server.status.requests == 1


def test_a_loopback_endpoint_is_called_by_loopback_names_alone() -> None:
    with endpoint(hosts=hosts_for("127.0.0.1")) as here:
        assert here.ask("GET", "/status")[0] == 200
        assert here.ask("GET", "/status", host="localhost:1")[0] == 200
        assert here.ask("GET", "/status", host="rebound.example")[0] == 400


def test_a_client_that_goes_away_disturbs_nobody() -> None:
    with endpoint() as here:
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", here.port)) as client:
                client.sendall(
                    b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                    b"application/octet-stream\r\nContent-Length: 16\r\n\r\n1234"
                )
        with socket.create_connection(("127.0.0.1", here.port)) as client:
            client.sendall(b"\x00\xff rubbish \r\n\r\n")
        assert here.predict(images_of(1))[0] == 200


def test_a_port_in_use_is_an_error_with_a_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        app = application(Server(Sleeper(), Scripted([NETWORK])), SHAPE)
        with pytest.raises(MathNASError, match="Take another port"):
            Listener(app, port=taken.getsockname()[1])
        with pytest.raises(MathNASError, match="no address of this machine"):
            Listener(app, "no such host.invalid")


def test_wrong_settings_are_refused() -> None:
    server = Server(Sleeper(), Scripted([NETWORK]))
    with pytest.raises(InvalidInputError, match="a token has"):
        application(server, SHAPE, token="")
    with pytest.raises(InvalidInputError, match="16 bytes, but a body may have 15"):
        application(server, SHAPE, max_bytes=15)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *(("127.0.0.1", True), ("127.3.2.1", True), ("::1", True), ("localhost", True)),
        *(("0.0.0.0", False), ("::", False), ("192.168.0.7", False), ("localhost.example", False)),
    ],
)
def test_which_addresses_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
