"""A package in the memory of its engine; the other engine's is in the tests of `mathnas run`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from supernet_cases import grouped_supernet, made_up_table, some_images, static

from mathnas.nets.agreement import TOLERANCE
from mathnas.runtime.deploying import deploy
from mathnas.runtime.dynamic import DynamicNetwork
from mathnas.runtime.loading import load_parts
from mathnas.runtime.package import Package


def test_a_package_is_loaded_for_its_engine(tmp_path: Path) -> None:
    supernet = grouped_supernet()
    batches = [torch.from_numpy(some_images(32, seed)) for seed in range(2)]
    package = deploy(supernet, made_up_table(supernet.space), batches, engine="torch")
    package.write(tmp_path / "net.mathnas")
    parts = load_parts(Package.read(tmp_path / "net.mathnas"), threads=1)
    assert parts.engine.startswith("torch")
    assert parts.bytes > 0
    dynamic = DynamicNetwork(parts, supernet.space.reference)
    images = some_images()
    answers = {}
    for network in [(0, 0), (2, 1), (1, 2)]:
        dynamic.switch(network)
        answers[network] = dynamic.run(images).outputs
        # statistics are those that the package was calibrated with, so only the kind is the same
        assert answers[network].shape == static(supernet, network, images).shape
        assert np.isfinite(answers[network]).all()
    dynamic.switch((0, 0))
    again = dynamic.run(images).outputs
    assert np.abs(again - answers[0, 0]).max() <= TOLERANCE
    assert not np.allclose(again, answers[2, 1])
