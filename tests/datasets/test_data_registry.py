"""The registry, and finding, checking and downloading its files."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path

import pooch
import pytest

from mathnas.datasets import Presence, catalogue, dataset_named, fetch, registry
from mathnas.errors import FileFormatError, InvalidInputError, MissingDataError

NAMES = (
    *("nasbench201", "nasbench_macro", "ofa_mobilenetv3", "fbnet", "hat"),
    *("cifar10", "imagenet_sample", "multi30k"),
)


def bundled() -> dict[str, object]:
    text = resources.files("mathnas.datasets").joinpath("registry.json").read_text("utf-8")
    value: dict[str, object] = json.loads(text)
    return value


def use(monkeypatch: pytest.MonkeyPatch, content: bytes, url: str | None) -> None:
    """Make the registry hold one data set ``toy`` with one file of this content."""
    toy = dataset_named("fbnet").files[0]
    file = toy.model_copy(
        update={
            "path": "toy/rows.csv",
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "url": url,
        }
    )
    dataset = dataset_named("fbnet").model_copy(update={"name": "toy", "files": [file]})
    monkeypatch.setattr(registry, "_registry", lambda: {"toy": dataset})


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data folder, and an empty cache."""
    monkeypatch.delenv("MATHNAS_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An address and the folder that it serves."""
    folder = tmp_path / "public"
    folder.mkdir()
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", folder
        http.shutdown()
        thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_every_entry_is_complete() -> None:
    listed = catalogue()
    assert tuple(status.dataset.name for status in listed) == NAMES
    for status in listed:
        for file in status.dataset.files:
            assert file.path == f"{status.dataset.name}/{file.name}"
        for source in status.dataset.sources:
            assert source.licence in str(source)
    addresses = [file.url for status in listed for file in status.dataset.files if file.url]
    assert len(addresses) == 4
    # a branch may move: addresses hold full commits
    assert all(len(address.split("/")[5]) == 40 for address in addresses)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "abc"}, "sha256"),
        ({"bytes": -1}, "bytes"),
        ({"bytes": "12"}, "bytes"),
        ({"path": "../outside.csv"}, "path"),
        ({"path": "/etc/passwd"}, "path"),
        ({"path": "toy/../../outside"}, "path"),
        ({"url": "ftp://example.org/x"}, "url"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_registry_with_a_wrong_entry_is_refused(change: dict[str, object], message: str) -> None:
    value = json.loads(json.dumps(bundled()))
    value["datasets"][0]["files"][0].update(change)
    with pytest.raises(FileFormatError, match=message):
        registry.read_registry(json.dumps(value))


def test_a_registry_of_another_kind_is_refused() -> None:
    with pytest.raises(FileFormatError, match="not JSON"):
        registry.read_registry("{")
    with pytest.raises(FileFormatError, match="expected an object"):
        registry.read_registry("[]")
    with pytest.raises(FileFormatError, match="version 99"):
        registry.read_registry(json.dumps({**bundled(), "version": 99}))
    twice = bundled()
    assert isinstance(twice["datasets"], list)
    twice["datasets"].append(twice["datasets"][0])
    with pytest.raises(FileFormatError, match="twice"):
        registry.read_registry(json.dumps(twice))


def test_names_are_checked() -> None:
    with pytest.raises(InvalidInputError, match="known data sets are nasbench201"):
        fetch("mnist")
    with pytest.raises(InvalidInputError, match=r"has the files iwslt14deen.*got None"):
        fetch("hat")
    with pytest.raises(InvalidInputError, match=r"cells\.csv\.gz"):
        fetch("nasbench201", "other.csv")


def test_a_missing_file_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = dataset_named("nasbench201").files[0]
    with pytest.raises(MissingDataError) as raised:
        fetch("nasbench201")
    message = str(raised.value)
    for part in ("nasbench201/cells.csv.gz", entry.sha256, "MATHNAS_DATA", "HayeonLee/HELP"):
        assert part in message
    monkeypatch.setenv("MATHNAS_DATA", str(tmp_path))
    with pytest.raises(MissingDataError, match="put the file into") as raised:
        fetch("nasbench201")
    assert str(tmp_path / "nasbench201" / "cells.csv.gz") in str(raised.value)


def test_the_data_folder_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(monkeypatch, b"rows", "https://example.invalid/rows.csv")
    path = tmp_path / "data" / "toy" / "rows.csv"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"rows")
    monkeypatch.setenv("MATHNAS_DATA", str(tmp_path / "data"))
    assert fetch("toy") == path
    assert fetch("toy", "rows.csv") == path
    assert catalogue()[0].files == (Presence.LOCAL,)
    assert catalogue()[0].usable


@pytest.mark.parametrize("content", [b"ROWS", b"more rows", b""])
def test_other_bytes_in_the_data_folder_are_an_error(
    content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(monkeypatch, b"rows", None)
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "rows.csv").write_bytes(content)
    monkeypatch.setenv("MATHNAS_DATA", str(tmp_path))
    with pytest.raises(FileFormatError) as raised:
        fetch("toy")
    assert hashlib.sha256(content).hexdigest() in str(raised.value)
    assert hashlib.sha256(b"rows").hexdigest() in str(raised.value)
    assert catalogue()[0].files == (Presence.DAMAGED,)
    assert not catalogue()[0].usable


def test_public_files_are_downloaded_once(
    monkeypatch: pytest.MonkeyPatch, server: tuple[str, Path]
) -> None:
    address, folder = server
    (folder / "rows.csv").write_bytes(b"rows")
    use(monkeypatch, b"rows", f"{address}/rows.csv")
    assert catalogue()[0].files == (Presence.DOWNLOADABLE,)
    path = fetch("toy")
    assert path.read_bytes() == b"rows"
    assert catalogue()[0].files == (Presence.CACHED,)
    (folder / "rows.csv").unlink()
    assert fetch("toy") == path


def test_a_changed_original_is_not_accepted(
    monkeypatch: pytest.MonkeyPatch, server: tuple[str, Path]
) -> None:
    address, folder = server
    (folder / "rows.csv").write_bytes(b"something else")
    use(monkeypatch, b"rows", f"{address}/rows.csv")
    with pytest.raises(MissingDataError, match=r"Downloading .* failed"):
        fetch("toy")
    assert catalogue()[0].files == (Presence.DOWNLOADABLE,)


def test_no_network_is_a_missing_file(
    monkeypatch: pytest.MonkeyPatch, server: tuple[str, Path]
) -> None:
    address, _ = server
    use(monkeypatch, b"rows", f"{address}/absent.csv")
    with pytest.raises(MissingDataError, match=r"404.*MATHNAS_DATA"):
        fetch("toy")
