"""``mathnas deploy``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip("sklearn")

import torch

from mathnas import BlockEffects, BlockTable, metric_named
from mathnas.demo.images import load_images
from mathnas.nets.digits import DigitsConfig, DigitsNet, DigitsNode
from mathnas.nets.files import save_supernet
from mathnas.nets.mbconv import MBConvChoice
from mathnas.runtime.package import Package

torch.set_num_threads(1)

Run = Callable[..., tuple[int, str, str]]
CHOICES = (MBConvChoice(3, 1), MBConvChoice(5, 1), MBConvChoice(3, 2), MBConvChoice(5, 2))
NET = DigitsNet(
    DigitsConfig(
        stem=4,
        nodes=(
            DigitsNode(4, 1, (None, *CHOICES)),
            DigitsNode(6, 2, CHOICES),
            DigitsNode(6, 1, (None, *CHOICES)),
        ),
        head=8,
    )
)
KEEP = ("--blocks", "2", "--engine", "torch", "--images", "64", "--maximize", "accuracy")


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, ...]:
    """A supernet and a table of it, where commands run; the table's numbers are made up."""
    save_supernet(tmp_path / "supernet.safetensors", NET, notes={"data": "digits"})
    rng = np.random.default_rng(0)
    columns = {}
    for name in ("accuracy", "latency_ms"):
        grown = np.concatenate([np.arange(n) for n in NET.space.sizes])
        effects = rng.random(NET.space.num_blocks) + grown
        columns[name] = BlockEffects(
            metric_named(name), 1.0, effects, np.zeros(len(effects)), np.ones(len(effects))
        )
    BlockTable(NET.space, (0,) * 3, columns).save(tmp_path / "net.table.json")
    return ("deploy", "net.table.json", "--supernet", "supernet.safetensors", "-o", "net.mathnas")


def json_of(result: tuple[int, str, str]) -> Any:
    code, out, err = result
    assert code == 0, err
    return json.loads(out)


def test_a_package_is_written_and_told_of(run: Run, files: tuple[str, ...]) -> None:
    code, out, err = run(*files, *KEEP)
    assert code == 0, err
    package = Package.read("net.mathnas")
    assert max(package.space.sizes) == 2
    assert f"{package.space.num_networks} networks can run" in out
    assert "times those of the largest network" in out
    assert "optimal: no other selection" in out
    images = sum(map(len, load_images().calibration))  # the digits have one set of them
    assert package.notes["calibration_images"] == images
    provenance = package.notes["provenance"]
    assert isinstance(provenance, dict)
    assert provenance["supernet"] == "supernet.safetensors"
    assert set(package.table.metrics) >= {"accuracy", "latency_ms", "macs"}


def test_json_has_the_facts(run: Run, files: tuple[str, ...]) -> None:
    facts = json_of(run(*files, *KEEP, "--json", "--statistics", "block"))
    package = Package.read("net.mathnas")
    assert facts["networks"] == package.space.num_networks
    assert facts["parts"] == len(package.parts)
    assert facts["weight_bytes"] == package.weight_bytes() <= facts["size"]
    assert facts["ratio"] == package.weight_bytes() / package.largest_bytes()
    assert facts["statistics"] == "block"
    assert facts["file_bytes"] == Path("net.mathnas").stat().st_size
    assert facts["predicted_loss"] == pytest.approx(facts["best"] - facts["value"])


def test_memory_is_kept_to(run: Run, files: tuple[str, ...]) -> None:
    free = json_of(run(*files, *KEEP, "--json"))
    most = free["size"] - 100
    held = json_of(run(*files, *KEEP, "--json", "--memory", f"{most / 1000}kB"))
    assert held["weight_bytes"] <= held["size"] <= most
    assert held["value"] <= free["value"]


def test_groups_become_nodes(run: Run, files: tuple[str, ...]) -> None:
    facts = json_of(run(*files, *KEEP, "--groups", "2,1", "--json"))
    assert [group["name"] for group in facts["groups"]] == ["group1", "group2"]
    assert Package.read("net.mathnas").space.num_nodes == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--memory", "much"), "--memory is a size such as 200MB"),
        (("--memory", "200"), "--memory has a unit"),
        (("--memory", "5ms"), "--memory"),
        (("--memory", "-1MB"), "--memory is positive"),
        (("--memory", "1kB"), "network of least latency_ms is always kept"),
        (("--engine", "abacus"), "an engine is one of"),
        (("--statistics", "lies"), "--statistics is one of block, pair, entry"),
        (("--images", "0"), "--images is at least 1"),
        (("--threads", "0"), "--threads is at least 1"),
        (("--limit", "energy_mj"), "has no metric 'energy_mj'"),
        (("--blocks", "0"), "at least 1 candidate"),
    ],
)
def test_what_is_wrong_is_said(
    run: Run, files: tuple[str, ...], options: tuple[str, ...], message: str
) -> None:
    code, _, err = run(*files, *KEEP, *options)
    assert code == 1
    assert message in " ".join(err.split())
    assert not Path("net.mathnas").exists()


def test_a_supernet_of_other_blocks_is_refused(run: Run, files: tuple[str, ...]) -> None:
    save_supernet("other.safetensors", DigitsNet(), notes={"data": "digits"})
    code, _, err = run(*files, *KEEP, "--supernet", "other.safetensors")
    assert code == 1
    assert "a supernet runs networks of its own blocks" in " ".join(err.split())


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_kill_leaves_the_package_that_was_there(
    run: Run, files: tuple[str, ...], tmp_path: Path
) -> None:
    """Killed while it writes: a process that was stopped between two pieces of the file."""
    code, _, err = run(*files, *KEEP)
    assert code == 0, err
    before = (tmp_path / "net.mathnas").read_bytes()
    script = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "def half(path, content):\n"
        "    with open(path, 'wb') as file:\n"
        "        file.write(content[: len(content) // 2])\n"
        "        file.flush()\n"
        "        Path('writing').touch()\n"
        "        time.sleep(600)\n"
        "Path.write_bytes = half\n"
        "from mathnas.cli.app import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, *files, *KEEP], cwd=tmp_path, stderr=subprocess.PIPE
    )
    until = time.monotonic() + 120
    while not (tmp_path / "writing").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert (tmp_path / "net.mathnas").read_bytes() == before
    assert Package.read(tmp_path / "net.mathnas").engine == "torch"
    json_of(run(*files, *KEEP, "--json"))  # and the next one is not in the way of what was left
