"""The registry of public data: what mathnas can read, where it comes from, and whether it is here.

Nothing is bundled. A file is looked for in the folder that the environment variable
``MATHNAS_DATA`` names, then in the download cache, and is downloaded where a public original with
the same bytes is known. Size and SHA-256 are checked every time, so what a reader gets is what was
registered.

Of some files only the address is known. They are downloaded when that is asked for in so many words
(``unverified``); what came is then *pinned*: its SHA-256 is kept in the cache, and from then on any
other file is an error.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mathnas._files import file_sha256
from mathnas._records import check_header, write_text
from mathnas.errors import FileFormatError, InvalidInputError, MissingDataError

DATA_VARIABLE = "MATHNAS_DATA"
_FORMAT, _VERSION = "mathnas-data-registry", 1
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# relative, without dots at the start of a part: it can be joined to any folder
_RelativePath = Annotated[str, Field(pattern=r"^[a-z0-9_][\w.-]*(/[a-z0-9_][\w.-]*)+$")]
_Text = Annotated[str, Field(min_length=1)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Source(_Record):
    """Who published data.

    Attributes:
        repository: owner/repository of a public code host.
        commit: the version that was taken.
        licence: as the source states it.
        content: what was taken from it.
    """

    repository: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{7,40}$")]
    licence: _Text
    content: _Text

    def __str__(self) -> str:
        return f"{self.repository} @ {self.commit} ({self.content}; licence: {self.licence})"


class DataFile(_Record):
    """One file.

    Attributes:
        path: below the data folder.
        sha256: of its bytes, hexadecimal; None where only the address is known.
        bytes: its size; None where only the address is known.
        url: where the same bytes are public; None where mathnas reads another form than the
            original, or no permanent address is known.
    """

    path: _RelativePath
    sha256: _Sha256 | None
    bytes: Annotated[int, Field(gt=0)] | None
    url: Annotated[str, Field(pattern=r"^https://")] | None

    @model_validator(mode="after")
    def _is_known_somehow(self) -> DataFile:
        if (self.sha256 is None) != (self.bytes is None):
            raise ValueError("size and SHA-256 are both known or both not")
        if self.sha256 is None and self.url is None:
            raise ValueError("a file without a SHA-256 has an address")
        return self

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


class DataSet(_Record):
    """A public data set."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    description: _Text
    citation: _Text
    sources: Annotated[list[Source], Field(min_length=1)]
    files: Annotated[list[DataFile], Field(min_length=1)]

    def file(self, name: str | None = None) -> DataFile:
        """The file with this name, or the only one.

        Raises:
            InvalidInputError: there is no such file, or several and none is named.
        """
        if name is None and len(self.files) == 1:
            return self.files[0]
        for file in self.files:
            if file.name == name:
                return file
        raise InvalidInputError(
            f"the data set {self.name} has the files {', '.join(f.name for f in self.files)}, "
            f"but got {name!r}: name one of them."
        )


class _Registry(_Record):
    format: str
    version: int
    datasets: list[DataSet]


class Presence(str, Enum):
    """Where a data file is."""

    LOCAL = "local"
    CACHED = "cached"
    DOWNLOADABLE = "downloadable"
    UNVERIFIED = "unverified address"
    MISSING = "missing"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class DataStatus:
    """A data set and where each of its files is, in the order of the registry."""

    dataset: DataSet
    files: tuple[Presence, ...]

    @property
    def usable(self) -> bool:
        """Whether every file is on this machine and intact."""
        return all(state in (Presence.LOCAL, Presence.CACHED) for state in self.files)


def read_registry(text: str, where: str = "registry") -> dict[str, DataSet]:
    """The data sets of a registry file by name, validated.

    Raises:
        FileFormatError: it is not a registry, or an entry breaks a rule.
    """
    try:
        value = json.loads(text)
        check_header(value, _FORMAT, _VERSION, where)
        entries = _Registry.model_validate(value).datasets
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise FileFormatError(f"{where}: {place}: {first['msg']}.") from error
    except ValueError as error:
        raise FileFormatError(f"{where} is not JSON: {error}.") from error
    known = {entry.name: entry for entry in entries}
    if len(known) != len(entries):
        raise FileFormatError(f"{where}: the names of data sets are unique, but one stands twice.")
    return known


@lru_cache(maxsize=1)
def _registry() -> dict[str, DataSet]:
    file = resources.files("mathnas.datasets").joinpath("registry.json")
    return read_registry(file.read_text(encoding="utf-8"), "registry.json")


def dataset_named(name: str) -> DataSet:
    """The registry's entry.

    Raises:
        InvalidInputError: there is no data set of this name.
    """
    known = _registry()
    if name not in known:
        raise InvalidInputError(f"known data sets are {', '.join(known)}, but got {name!r}.")
    return known[name]


def fetch(name: str, file: str | None = None, *, unverified: bool = False) -> Path:
    """The path of a public data file on this machine, after checking its content.

    A file without a registered SHA-256 is taken from the data folder as it is, as long as none was
    pinned: who puts it there vouches for it.

    Args:
        name: of the data set; see `catalogue`.
        file: which of its files; may be left out where there is only one.
        unverified: download a file whose SHA-256 is not registered, and pin what came.

    Raises:
        InvalidInputError: no such data set or file.
        FileFormatError: the file in the data folder or in the cache is not the registered or the
            pinned one.
        MissingDataError: the file is not here and cannot be downloaded, or may not be without
            `unverified`; says where to put it.
    """
    dataset = dataset_named(name)
    entry = _with_pin(dataset.file(file))
    for place in _local_places(entry):
        if place.is_file():
            _check(place, entry)
            return place
    if entry.url is None:
        raise _missing(dataset, entry, "It has no public address with these bytes.")
    if entry.sha256 is not None:
        return _download(dataset, entry, entry.url)
    if not unverified:
        raise _missing(
            dataset,
            entry,
            f"It is public at {entry.url}, but what its bytes should be is not registered, so it "
            f"is not downloaded unasked. Either download it by hand, or call fetch({name!r}, "
            f"{entry.name!r}, unverified=True) (mathnas data {name} --fetch --unverified), which "
            "trusts the address once and pins the SHA-256 of what comes.",
        )
    path = _download(dataset, entry, entry.url)
    _pin(path, entry)
    return path


def catalogue() -> tuple[DataStatus, ...]:
    """Every data set with where its files are, for listings; downloads nothing."""
    return tuple(
        DataStatus(dataset, tuple(map(_presence, dataset.files)))
        for dataset in _registry().values()
    )


def pinned(file: DataFile) -> str | None:
    """The SHA-256 of a file that was downloaded without a registered one, or None.

    Raises:
        FileFormatError: the note of it in the cache is damaged.
    """
    return _with_pin(file).sha256 if file.sha256 is None else None


def _local_places(entry: DataFile) -> Iterator[Path]:
    folder = os.environ.get(DATA_VARIABLE)
    if folder:
        yield Path(folder).expanduser() / entry.path


def _cache() -> Path:
    import pooch

    return Path(pooch.os_cache("mathnas"))


def _pin_file(entry: DataFile) -> Path:
    return _cache() / f"{entry.path}.pin"


def _with_pin(entry: DataFile) -> DataFile:
    """The entry, with size and SHA-256 of what was pinned where none are registered."""
    path = _pin_file(entry) if entry.sha256 is None else None
    if path is None or not path.is_file():
        return entry
    try:
        found = re.fullmatch(r"([0-9a-f]{64}) ([1-9][0-9]{0,18})\n", path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise FileFormatError(f"{path} cannot be read: {error}.") from error
    if found is None:
        raise FileFormatError(
            f"{path} is damaged: it says which bytes were downloaded as {entry.path}. Remove both "
            "to download it again."
        )
    return entry.model_copy(update={"sha256": found[1], "bytes": int(found[2])})


def _pin(path: Path, entry: DataFile) -> None:
    write_text(_pin_file(entry), f"{file_sha256(path)} {path.stat().st_size}\n")


def _presence(file: DataFile) -> Presence:
    try:
        entry = _with_pin(file)
    except FileFormatError:
        return Presence.DAMAGED
    for place in _local_places(entry):
        if place.is_file():
            return Presence.LOCAL if _is_intact(place, entry) else Presence.DAMAGED
    if entry.url is None:
        return Presence.MISSING
    cached = _cache() / entry.path
    if entry.sha256 is None:
        return Presence.UNVERIFIED
    if cached.is_file() and _is_intact(cached, entry):
        return Presence.CACHED
    return Presence.DOWNLOADABLE


def _is_intact(path: Path, entry: DataFile) -> bool:
    try:
        _check(path, entry)
    except FileFormatError:
        return False
    return True


def _check(path: Path, entry: DataFile) -> None:
    """Compare with size and SHA-256, where they are known."""
    try:
        size, digest = path.stat().st_size, file_sha256(path)
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror or error}.") from error
    if entry.sha256 is not None and (size, digest) != (entry.bytes, entry.sha256):
        raise FileFormatError(
            f"{path} has {size} bytes and SHA-256 {digest}, but {entry.path} is registered with "
            f"{entry.bytes} bytes and SHA-256 {entry.sha256}{_pin_note(entry)}: put that file "
            "there, or remove this one."
        )


def _download(dataset: DataSet, entry: DataFile, url: str) -> Path:
    import pooch

    pooch.get_logger().setLevel("WARNING")
    target = _cache() / entry.path
    known = None if entry.sha256 is None else f"sha256:{entry.sha256}"
    if known is None:
        target.unlink(missing_ok=True)  # of a download that ended before it was pinned
    try:
        found = pooch.retrieve(url, known_hash=known, fname=entry.name, path=target.parent)
    except (OSError, ValueError) as error:  # no network, or other bytes than registered
        reason = f"Downloading {url} failed: {error}{_pin_note(entry)}."
        raise _missing(dataset, entry, reason) from error
    return Path(found)


def _missing(dataset: DataSet, entry: DataFile, reason: str) -> MissingDataError:
    folder = os.environ.get(DATA_VARIABLE)
    place = (
        f"put the file into {Path(folder) / entry.path}"
        if folder
        else f"set the environment variable {DATA_VARIABLE} to a folder that holds {entry.path}"
    )
    sources = "; ".join(map(str, dataset.sources))
    sums = "SHA-256 not registered" if entry.sha256 is None else f"SHA-256 {entry.sha256}"
    size = "" if entry.bytes is None else f"{entry.bytes} bytes, "
    return MissingDataError(
        f"the data set {dataset.name} lacks its file {entry.path} ({size}{sums}). {reason} To use "
        f"it, {place}. Sources: {sources}."
    )


def _pin_note(entry: DataFile) -> str:
    """Where a SHA-256 comes from that is not the registry's."""
    path = _pin_file(entry)
    # a registered file has no pin
    return f" (pinned by {path} when it was first downloaded)" if path.is_file() else ""
