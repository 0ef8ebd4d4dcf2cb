"""The registry, and finding, checking and downloading its files."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path

import pooch
import pytest

from mathnas.datasets import Presence, catalogue, dataset_named, fetch, pinned, registry
from mathnas.errors import FileFormatError, InvalidInputError, MissingDataError

NAMES = (
    *(
        "nasbench201",
        "nasbench_macro",
        "ofa_mobilenetv3",
        "ofa_mobilenetv3_weights",
        "fbnet",
        "hat",
    ),
    *("cifar10", "imagenet_sample", "multi30k"),
)


def bundled() -> dict[str, object]:
    text = resources.files("mathnas.datasets").joinpath("registry.json").read_text("utf-8")
    value: dict[str, object] = json.loads(text)
    return value


def use(monkeypatch: pytest.MonkeyPatch, content: bytes | None, url: str | None) -> None:
    """Make the registry hold one data set ``toy`` with one file of this content, or of unknown."""
    toy = dataset_named("fbnet").files[0]
    file = toy.model_copy(
        update={
            "path": "toy/rows.csv",
            "bytes": None if content is None else len(content),
            "sha256": None if content is None else hashlib.sha256(content).hexdigest(),
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
    assert len(addresses) == 7
    # a branch may move: addresses hold full commits where one is known
    weights = [file.url for file in dataset_named("ofa_mobilenetv3_weights").files]
    assert all(len(a.split("/")[5]) == 40 for a in addresses if a not in weights)


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
        ({"sha256": None}, "both known or both not"),
        ({"bytes": None}, "both known or both not"),
        ({"sha256": None, "bytes": None}, "without a SHA-256 has an address"),
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
    for part in ("nasbench201/cells.csv.gz", str(entry.sha256), "MATHNAS_DATA", "HayeonLee/HELP"):
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


# ---- files whose SHA-256 nobody knows ------------------------------------------------------------


def test_an_address_without_a_checksum_is_not_followed_unasked(
    monkeypatch: pytest.MonkeyPatch, server: tuple[str, Path]
) -> None:
    address, folder = server
    (folder / "rows.csv").write_bytes(b"rows")
    use(monkeypatch, None, f"{address}/rows.csv")
    assert catalogue()[0].files == (Presence.UNVERIFIED,)
    assert not catalogue()[0].usable
    with pytest.raises(MissingDataError) as raised:
        fetch("toy")
    for part in (f"{address}/rows.csv", "by hand", "unverified=True", "--unverified", "HELP"):
        assert part in str(raised.value)


def test_what_was_trusted_once_is_pinned(
    monkeypatch: pytest.MonkeyPatch, server: tuple[str, Path], tmp_path: Path
) -> None:
    address, folder = server
    (folder / "rows.csv").write_bytes(b"rows")
    use(monkeypatch, None, f"{address}/rows.csv")
    file = dataset_named("toy").files[0]
    assert pinned(file) is None
    path = fetch("toy", unverified=True)
    assert path.read_bytes() == b"rows"
    assert pinned(file) == hashlib.sha256(b"rows").hexdigest()
    assert catalogue()[0].files == (Presence.CACHED,)
    assert fetch("toy") == path, "no need to ask again"

    # the original changes: neither a new download nor the same question brings the other bytes
    (folder / "rows.csv").write_bytes(b"other")
    path.unlink()
    assert catalogue()[0].files == (Presence.DOWNLOADABLE,)
    for asked in (False, True):
        with pytest.raises(MissingDataError, match=r"pinned by .* when it was first downloaded"):
            fetch("toy", unverified=asked)
    # a changed file in the data folder is none either
    (tmp_path / "data" / "toy").mkdir(parents=True)
    (tmp_path / "data" / "toy" / "rows.csv").write_bytes(b"mine")
    monkeypatch.setenv("MATHNAS_DATA", str(tmp_path / "data"))
    with pytest.raises(FileFormatError, match="pinned by"):
        fetch("toy")
    assert catalogue()[0].files == (Presence.DAMAGED,)
    monkeypatch.delenv("MATHNAS_DATA")
    # without the pin the address may be trusted anew
    pin = next((tmp_path / "cache").rglob("*.pin"))
    pin.unlink()
    assert fetch("toy", unverified=True).read_bytes() == b"other"


def test_a_file_brought_by_hand_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(monkeypatch, None, "https://example.invalid/rows.csv")
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "rows.csv").write_bytes(b"rows")
    monkeypatch.setenv("MATHNAS_DATA", str(tmp_path))
    assert fetch("toy") == tmp_path / "toy" / "rows.csv"
    assert catalogue()[0].files == (Presence.LOCAL,)


def test_a_download_that_was_not_pinned_is_not_used(
    monkeypatch: pytest.MonkeyPatch, server: tuple[str, Path], tmp_path: Path
) -> None:
    """As after a crash between the download and the pin."""
    address, folder = server
    (folder / "rows.csv").write_bytes(b"rows")
    use(monkeypatch, None, f"{address}/rows.csv")
    left = tmp_path / "cache" / "mathnas" / "toy" / "rows.csv"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"left over")
    assert catalogue()[0].files == (Presence.UNVERIFIED,)
    with pytest.raises(MissingDataError, match="unverified=True"):
        fetch("toy")
    assert fetch("toy", unverified=True).read_bytes() == b"rows"


def test_a_damaged_pin_is_an_error(
    monkeypatch: pytest.MonkeyPatch, server: tuple[str, Path], tmp_path: Path
) -> None:
    address, folder = server
    (folder / "rows.csv").write_bytes(b"rows")
    use(monkeypatch, None, f"{address}/rows.csv")
    fetch("toy", unverified=True)
    pin = next((tmp_path / "cache").rglob("*.pin"))
    for damage in (b"", b"abc 4\n", b"\xff"):
        pin.write_bytes(damage)
        with pytest.raises(FileFormatError, match=r"\.pin"):
            fetch("toy")
        assert catalogue()[0].files == (Presence.DAMAGED,)


def test_asking_for_what_is_verified_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, server: tuple[str, Path]
) -> None:
    address, folder = server
    (folder / "rows.csv").write_bytes(b"something else")
    use(monkeypatch, b"rows", f"{address}/rows.csv")
    with pytest.raises(MissingDataError, match=r"Downloading .* failed"):
        fetch("toy", unverified=True)


def test_the_command_line_says_what_is_not_verified(
    monkeypatch: pytest.MonkeyPatch,
    server: tuple[str, Path],
    run: Callable[..., tuple[int, str, str]],
) -> None:
    address, folder = server
    (folder / "rows.csv").write_bytes(b"rows")
    use(monkeypatch, None, f"{address}/rows.csv")
    assert "toy: unverified address, 0.0 MB and 1 of unknown size" in run("data")[1]
    code, out, _ = run("data", "toy")
    assert (code, "unknown size" in out, "sha256 not registered" in out) == (0, True, True)
    code, _, err = run("data", "toy", "--fetch")
    assert code == 1
    assert "--unverified" in err
    code, out, _ = run("data", "toy", "--fetch", "--unverified")
    assert code == 0
    assert f"sha256 {hashlib.sha256(b'rows').hexdigest()}, pinned" in out
    assert "cached" in out
    assert run("data", "--fetch", "--unverified")[0] == 1
    assert run("data", "toy", "--unverified")[0] == 1
