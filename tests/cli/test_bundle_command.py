"""``mathnas bundle`` of a small supernet, run and imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("safetensors")

import numpy as np
import onnxruntime

from mathnas import Study
from mathnas.devices.bundle_plan import read_bundle
from mathnas.nets.digits import DigitsConfig, DigitsNet, DigitsNode
from mathnas.nets.files import save_supernet
from mathnas.nets.inputs import example_inputs
from mathnas.nets.mbconv import MBConvChoice

Run = Callable[..., tuple[int, str, str]]

TINY = DigitsConfig(
    stem=4, nodes=(DigitsNode(6, 2, (MBConvChoice(3, 1), MBConvChoice(7, 2))),) * 2, head=8
)


def test_a_supernet_is_bundled_run_and_imported(run: Run) -> None:
    supernet = DigitsNet(TINY).eval()
    save_supernet(Path("tiny.safetensors"), supernet)
    code, out, said = run(
        *("bundle", "tiny.safetensors", "-o", "box", "--sampling", "full", "--rounds", "2"),
        *("--zip", "--accept-noise", "--threads", "1", "--together", "4"),
    )
    assert code == 0, said
    assert out.startswith("4 networks of ")
    assert "written: box, box.zip" in out
    assert "mathnas import STUDY box" in out

    # the graphs compute what the supernet does
    plan, _ = read_bundle(Path("box"))
    x = example_inputs(supernet, 1)
    for network, path in plan.graphs.items():
        session = onnxruntime.InferenceSession(f"box/{path}")
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        expected = supernet.extract(network)(x).detach().numpy()
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    # a place for its lock: it need not wait for other measurements on the machine
    own = {**os.environ, "TMPDIR": os.getcwd()}
    command = [sys.executable, "box/run.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=own)
    assert done.returncode == 0, done.stderr
    code, out, _ = run("import", "my.study", "box", "--json")
    assert json.loads(out)["added"] == 4
    with Study("my.study") as study:
        assert study.space == supernet.space
        (conditions,) = study.conditions("latency_ms")
        assert conditions["resolution"] == "8"
        assert {"device", "engine_version", "torch", "statistic"} <= conditions.keys()

    # a study names the space as well; what is there is not overwritten
    code, _, said = run("bundle", "my.study", "-o", "box")
    assert code == 1
    assert "box is there already" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "-o FOLDER says where the bundle goes"),
        (["-o", "b"], "add --space, or write latency:FILE"),
        (["nothing.safetensors", "-o", "b"], "nothing.safetensors cannot be read"),
        (["-o", "b", "--ssh-option", "x=y"], "--ssh-option are for --run"),
        (["-o", "b", "--space", "mobilenetv3", "--batch", "0"], "batch is at least 1"),
    ],
)
def test_wrong_use_is_told(run: Run, arguments: list[str], message: str) -> None:
    code, _, said = run("bundle", *arguments)
    assert code == 1
    assert message in said
    assert not Path("b").exists()
