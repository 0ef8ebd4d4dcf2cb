"""A small HTTP endpoint in front of a server; needs the extra ``serve``.

``POST /predict`` runs images, ``GET /status`` tells what serves, ``POST /deadline`` sets the
deadline. What a body may be is decided by its content type alone, and nothing in it is executed: a
``.npy`` file is read without pickle, after its header agreed with the body's size.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import io
import ipaddress
import json
import math
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mathnas.errors import InvalidInputError, MathNASError
from mathnas.runtime.resident import Images
from mathnas.runtime.serving import Overloaded, Server, ServingError

MAX_BYTES = 16 * 2**20
RAW, NPY, JSON = "application/octet-stream", "application/x-npy", "application/json"
_BODY_SECONDS = 10.0
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
_Handler = Callable[[Request], Awaitable[Response]]


class _Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def application(
    server: Server,
    input_shape: Sequence[int],
    *,
    token: str | None = None,
    max_bytes: int = MAX_BYTES,
    about: Mapping[str, object] | None = None,
    hosts: Sequence[str] = ("*",),
) -> Starlette:
    """The endpoint of a server that is started and stopped by whoever made it.

    Args:
        input_shape: of one image, (channels, height, width).
        token: that requests must bring as ``Authorization: Bearer TOKEN``; None: nobody is asked.
        max_bytes: of a body.
        about: JSON values that ``/status`` tells besides: how inputs are normalised.
        hosts: names by which the endpoint may be called.

    Raises:
        InvalidInputError: the token is empty, or the size allows no image.
    """
    shape = tuple(int(size) for size in input_shape)
    if token is not None:
        check_token(token)
    if max_bytes < 4 * math.prod(shape):
        raise InvalidInputError(
            f"an image of the shape {shape} has {4 * math.prod(shape)} bytes, but a body may have "
            f"{max_bytes}: allow more."
        )

    async def predict(request: Request) -> Response:
        kind = _content_type(request, (RAW, NPY, JSON))
        body = await _body(request, max_bytes)
        images = await run_in_threadpool(read_images, body, kind, shape)
        served = await server.submit(images)
        return JSONResponse(
            {
                "classes": served.outputs.argmax(axis=1).tolist(),
                "logits": _finite_rows(served.outputs),
                "network": list(served.network),
                "latency_ms": served.latency_ms,
                "waited_ms": served.waited_ms,
            }
        )

    async def status(request: Request) -> Response:
        record = {**server.status.to_dict(), "input_shape": list(shape), **(about or {})}
        return JSONResponse(record)

    async def deadline(request: Request) -> Response:
        _content_type(request, (JSON,))
        value = _json(await _body(request, max_bytes))
        wanted = value.get("deadline_ms") if isinstance(value, dict) else None
        if isinstance(wanted, bool) or not isinstance(wanted, (int, float)):
            raise _Refused(400, 'the body is {"deadline_ms": NUMBER}.')
        server.set_deadline(wanted)
        return JSONResponse({"deadline_ms": server.deadline_ms})

    def route(path: str, handler: _Handler, method: str) -> Route:
        return Route(path, _answering(handler, token), methods=[method])

    return Starlette(
        routes=[
            route("/predict", predict, "POST"),
            route("/status", status, "GET"),
            route("/deadline", deadline, "POST"),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))],
    )


def read_images(body: bytes, kind: str, shape: tuple[int, ...]) -> Images:
    """The images of a body.

    Args:
        kind: `RAW`: little-endian float32, image after image; `NPY`: an array of floating point
            numbers in numpy's format; `JSON`: nested lists. One image may come without the first
            dimension.
        shape: of one image.

    Returns:
        Finite float32, shape (images, channels, height, width).

    Raises:
        InvalidInputError: it is not that.
    """
    if kind == RAW:
        size = 4 * math.prod(shape)
        if not body or len(body) % size:
            raise InvalidInputError(
                f"images of the shape {shape} have {size} bytes each as float32, but got a body of "
                f"{len(body)}."
            )
        images = np.frombuffer(body, "<f4").reshape(-1, *shape)
    elif kind == NPY:
        images = _npy(body)
    else:
        images = _nested(_json(body))
    if images.shape == shape:
        images = images[None]
    if images.ndim != 1 + len(shape) or images.shape[1:] != shape or not len(images):
        raise InvalidInputError(
            f"images have the shape {shape}, with the number of them in front or without, but got "
            f"{images.shape}."
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        single = np.array(images, dtype=np.float32, order="C")
    if not np.isfinite(single).all():
        raise InvalidInputError("images are finite numbers, but some are NaN or infinite.")
    return single


def _npy(body: bytes) -> npt.NDArray[np.floating]:
    file = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise ValueError(f"version {version} of the format is not read")
        shape, fortran, dtype = read(file)
    except (ValueError, SyntaxError, TypeError, RecursionError) as error:
        raise InvalidInputError(f"the body is not a .npy file of numbers: {error}.") from error
    if dtype.kind != "f":
        raise InvalidInputError(f"images are floating point numbers, but got {dtype}.")
    # the header is checked before anything is made of its size
    start = file.tell()
    if any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != len(body) - start:
        raise InvalidInputError(
            f"the .npy header says {dtype} of shape {shape}, but {len(body) - start} bytes follow."
        )
    flat: npt.NDArray[np.floating] = np.frombuffer(body, dtype, offset=start)
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _nested(value: object) -> npt.NDArray[np.floating]:
    if not isinstance(value, list):
        raise InvalidInputError("images in JSON are nested lists of numbers.")
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError) as error:  # lists of different lengths
        raise InvalidInputError(f"images in JSON are nested lists of numbers: {error}.") from error
    if array.dtype.kind not in "iuf":
        raise InvalidInputError("images in JSON are nested lists of numbers of one length.")
    return array.astype(np.float64)


def _json(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"the body is not JSON: {error}.") from error


def _finite_rows(outputs: npt.NDArray[np.float32]) -> list[list[float | None]]:
    """For JSON, which knows no NaN and no infinity."""
    return [[value if math.isfinite(value) else None for value in row] for row in outputs.tolist()]


def _content_type(request: Request, known: Sequence[str]) -> str:
    """What the body is. A page in a browser can send none of these to a foreign address unasked."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in known:
        raise _Refused(415, f"the content type is {' or '.join(known)}, but got {kind!r}.")
    return kind


async def _body(request: Request, most: int) -> bytes:
    """The body, refused as soon as it is too large, or too slow."""
    too_large = _Refused(413, f"a body has at most {most} bytes: send fewer images at a time.")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise too_large

    async def read() -> bytes:
        parts = bytearray()
        async for part in request.stream():
            parts += part
            if len(parts) > most:
                raise too_large
        return bytes(parts)

    try:
        return await asyncio.wait_for(read(), _BODY_SECONDS)
    except asyncio.TimeoutError:
        raise _Refused(408, f"the body did not come within {_BODY_SECONDS:g} s.") from None


def check_token(token: str) -> None:
    """Raise `InvalidInputError` where the token is empty, so that anybody would bring it."""
    if not token:
        raise InvalidInputError("a token has at least one character, but got an empty one.")


def _answering(handler: _Handler, token: str | None) -> _Handler:
    """A handler that asks for the token, and whose errors are answers."""

    async def answer(request: Request) -> Response:
        try:
            if token is not None:
                _authorize(request, token)
            return await handler(request)
        except _Refused as refusal:
            headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else None
            return _error(refusal.status, refusal, headers)
        except InvalidInputError as error:
            return _error(400, error)
        except Overloaded as error:
            # the header takes whole seconds
            return _error(503, error, {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))})
        except ServingError as error:
            return _error(500, error)
        except ClientDisconnect:  # nobody reads what is answered
            return Response(status_code=400)

    return answer


def _authorize(request: Request, token: str) -> None:
    given = request.headers.get("authorization", "")
    # as long for a wrong token as for the right one
    if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        raise _Refused(401, "this endpoint wants its token: Authorization: Bearer TOKEN.")


def _error(status: int, error: Exception, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": str(error)}, status, headers)


# ---- listening -----------------------------------------------------------------------------------


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hosts_for(host: str) -> tuple[str, ...]:
    """By which names an endpoint may be called: on a loopback address by loopback names alone, so
    that a foreign name that leads here (DNS rebinding) is of no use."""
    return (*_LOOPBACK_NAMES, host) if is_loopback(host) else ("*",)


def check_address(host: str, port: int) -> None:
    """Take an address as a `Listener` does and leave it, to know that before long work.

    Raises:
        MathNASError: the address cannot be listened on.
    """
    _bound(host, port).close()


class Listener:
    """An application on an address; use it as an asynchronous context.

    Args:
        host, port: 0 takes a free port.

    Attributes:
        port: that it listens on.

    Raises:
        MathNASError: the address cannot be listened on.
    """

    def __init__(self, app: Starlette, host: str = "127.0.0.1", port: int = 8000) -> None:
        self._socket = _bound(host, port)
        self.host = host
        self.port = int(self._socket.getsockname()[1])
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                lifespan="off",
                limit_concurrency=256,
                timeout_graceful_shutdown=5,
                server_header=False,
            )
        )
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    async def __aenter__(self) -> Listener:
        self._task = asyncio.create_task(self._uvicorn.serve(sockets=[self._socket]))
        while not self._uvicorn.started and not self._task.done():
            await asyncio.sleep(0.01)
        if self._task.done():
            await self._task  # raises what it failed of
        return self

    async def __aexit__(self, *_: object) -> None:
        """Answers what has come, at most 5 seconds long."""
        self._uvicorn.should_exit = True
        if self._task is not None:
            await self._task
        self._socket.close()


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Whoever started the endpoint takes Ctrl-C, and stops it."""
        yield


def _bound(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        made = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise MathNASError(f"{host}:{port} is no address of this machine: {error}.") from error
    try:
        # a server that was killed a moment ago does not hold its port
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(128)  # who comes before the application does waits
    except (OSError, OverflowError) as error:
        made.close()
        raise MathNASError(
            f"cannot listen on {host}:{port}: {error}. Take another port; 0 takes a free one."
        ) from error
    return made
