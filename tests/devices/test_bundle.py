"""Bundles: written here, run with numpy and onnxruntime alone, killed, resumed, imported."""

from __future__ import annotations

import io
import json
import random
import shutil
import signal
import subprocess
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import numpy as np
import onnx
import onnxruntime
from bundle_cases import (
    NETWORKS,
    ONCE,
    SIDE,
    SPACE,
    _written,
    a_bundle,
    bundle,
    lines_of,
    measured,
    measured_bundle,
    model,
    own_lock,
    python,
    ran,
)

from mathnas import (
    FileFormatError,
    InvalidInputError,
    MathNASError,
    SearchSpace,
    Study,
    single_sampling,
)
from mathnas.devices.bundle import share_weights, write_bundle, zip_bundle
from mathnas.devices.bundle_import import BundleImport
from mathnas.devices.bundle_plan import BundlePlan, Manifest, read_bundle
from mathnas.devices.bundle_results import Measured, ResultsFile, _digest, read_results
from mathnas.devices.bundle_runner import main, run_bundle
from mathnas.devices.timing import TimingSettings
from mathnas.evaluation import Measurement
from mathnas.space import network_text

Run = Callable[..., tuple[int, str, str]]
ALL = sorted(map(network_text, NETWORKS))
# about a fiftieth of a second a network
SLOW = TimingSettings(rounds=4, slice_ms=4.0, warmup_ms=4.0)

__all__ = ["_written", "bundle", "measured_bundle", "own_lock", "python"]


# ---- what is written ----------------------------------------------------------------------------


def test_graphs_share_their_weights_and_compute_the_same(bundle: Path) -> None:
    """Nine layers' matrices are three contents; graphs are small, and nothing else changes."""
    matrix = SIDE * SIDE * 4
    weights = (bundle / "graphs" / "weights.bin").stat().st_size
    assert 3 * matrix <= weights <= 3 * matrix + 3 * 64
    x = np.random.default_rng(0).random((1, SIDE)).astype(np.float32)
    for network, path in read_bundle(bundle)[0].graphs.items():
        whole = onnxruntime.InferenceSession(model(network))
        small = onnxruntime.InferenceSession(str(bundle / path))
        assert (bundle / path).stat().st_size < 2000
        expected, found = whole.run(None, {"x": x})[0], small.run(None, {"x": x})[0]
        assert found.shape == expected.shape == (2, SIDE // 2)
        np.testing.assert_array_equal(found, expected)


def test_values_that_no_engine_keeps_as_bytes_are_shared_too() -> None:
    """A graph may hold its numbers as lists instead."""
    graph = onnx.load_from_string(model((1, 0, 0)))
    (weight,) = (t for t in graph.graph.initializer if t.name.startswith("w"))
    values = onnx.numpy_helper.to_array(weight)
    weight.ClearField("raw_data")
    weight.float_data.extend(values.ravel())
    file = io.BytesIO()
    (shared,) = share_weights([graph.SerializeToString()], file, "weights.bin")
    assert file.getvalue() == values.tobytes()
    assert len(shared) < 1000


def test_the_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    sample = single_sampling(SPACE, (0, 1, 2), repeat_reference=True)
    plan = write_bundle(
        tmp_path / "b",
        SPACE,
        sample,
        model,
        timing=TimingSettings(rounds=7, slice_ms=1.5),
        repeats=2,
        seed=5,
        conditions={"resolution": "48"},
        also=[(2, 2, 2)],
    )
    assert BundlePlan.load(tmp_path / "b" / "plan.json") == plan
    assert plan.sample == sample
    assert plan.networks == (*sample.networks, (2, 2, 2))
    assert plan.timing.rounds == 7


@pytest.mark.parametrize(
    ("networks", "metrics", "message"),
    [
        ([(0, 0, 3)], ["latency_ms"], "blocks 0 to 2, but got 3"),
        ([(0, 0, 0)], ["accuracy"], "a bundle measures latency_ms"),
        ([], ["latency_ms"], "measures something of some network"),
    ],
)
def test_what_cannot_be_measured_is_not_planned(
    tmp_path: Path, networks: list[tuple[int, ...]], metrics: list[str], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        write_bundle(tmp_path / "b", SPACE, networks, model, metrics=metrics)
    assert not list(tmp_path.iterdir())


def test_a_bundle_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    def fails(network: tuple[int, ...]) -> bytes:
        if network == (0, 0, 2):
            raise RuntimeError("the exporter broke")
        return model(network)

    with pytest.raises(RuntimeError, match="the exporter broke"):
        write_bundle(tmp_path / "b", SPACE, NETWORKS, fails)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(InvalidInputError, match="there already"):
        a_bundle(tmp_path / "b")
    assert not list((tmp_path / "b").iterdir())


def test_a_zip_holds_the_bundle(bundle: Path, tmp_path: Path, python: str) -> None:
    (bundle / "results.jsonl").write_text("of another machine", encoding="utf-8")
    with zipfile.ZipFile(zip_bundle(bundle)) as file:
        file.extractall(tmp_path / "there")
    done = ran([python, str(tmp_path / "there" / "made" / "run.py"), "--check"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("the bundle is whole, and runs on ")


# ---- killed, resumed, imported ------------------------------------------------------------------


def test_a_bundle_is_killed_twice_finishes_and_is_imported(
    tmp_path: Path, python: str, run: Run
) -> None:
    """With numpy and onnxruntime alone; nothing is lost, nothing is measured twice."""
    folder = tmp_path / "slow"
    a_bundle(folder, timing=SLOW)
    results = folder / "results.jsonl"
    chance = random.Random(time.time_ns())
    kept: list[str] = []
    for _ in range(2):
        there = results.read_bytes().count(b"\n") if kept else 0
        wanted = there + chance.randint(2, 8)
        process = subprocess.Popen(
            [python, str(folder / "run.py")], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        while not results.exists() or results.read_bytes().count(b"\n") < wanted:
            assert process.poll() is None, "it ended by itself"
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        whole = results.read_bytes().rpartition(b"\n")[0]
        before, kept = kept, [network_text(n) for n in _networks(whole)]
        assert kept[: len(before)] == before
        assert len(kept) < len(NETWORKS), "it was killed too late"

    done = ran([python, str(folder / "run.py")])
    assert (done.returncode, done.stdout) == (0, f"27 measurements are in {results}.\n")
    assert sorted(measured(results)) == ALL
    assert [line["kind"] for line in lines_of(results)].count("run") == 3

    code, out, _ = run("import", "my.study", str(folder))
    assert code == 0
    assert out.startswith("27 measurements added, 0 already there, of 27 that were planned;")
    assert run("import", "my.study", str(folder))[1].startswith("0 measurements added, 27 already")
    with Study("my.study", SPACE) as study:
        found = study.measurements("latency_ms", {"engine": "onnxruntime", "resolution": "48"})
        # every layer takes its time
        least, most = (found.values[found.lookup(n)] for n in ((0, 0, 0), (2, 2, 2)))
        assert least < most
        assert found.conditions["threads"] == "1"
        assert len(found) == 27


def _networks(lines: bytes) -> list[list[object]]:
    return [r["network"] for r in map(json.loads, lines.splitlines()) if r["kind"] == "measured"]


@pytest.mark.parametrize("left", [0, 1, 60, 199])
def test_a_line_that_was_torn_is_measured_again(bundle: Path, left: int) -> None:
    results = bundle / "results.jsonl"
    assert main(bundle, []) == 0
    lines = results.read_bytes().splitlines(keepends=True)
    results.write_bytes(b"".join(lines[:9]) + lines[9][:left])
    digest = Manifest.load(bundle).digest
    assert read_results(results, digest).torn == left
    assert len(read_results(results, digest).measured) == 8
    assert run_bundle(bundle) == (27, 0)
    assert read_results(results, digest).torn == 0
    assert sorted(measured(results)) == ALL


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path, python: str) -> None:
    folder = tmp_path / "slow"
    a_bundle(folder, timing=SLOW)
    results = tmp_path / "elsewhere" / "mine.jsonl"
    command = [python, str(folder / "run.py"), "--results", str(results)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not results.exists() or results.read_bytes().count(b"\n") < 4:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert f"What was measured is in {results}; the same command goes on" in said
    assert "Traceback" not in said
    assert 3 <= len(measured(results)) < 27
    assert ran(command).returncode == 0
    assert sorted(measured(results)) == ALL


def test_networks_are_measured_as_often_as_planned(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    a_bundle(folder, [(0, 0, 1), (1, 0, 0), (0, 0, 1)], repeats=2)
    assert run_bundle(folder) == (6, 0)
    assert Counter(measured(folder / "results.jsonl")) == {"0,0,1": 4, "1,0,0": 2}
    assert run_bundle(folder) == (6, 0)
    assert len(measured(folder / "results.jsonl")) == 6


def test_other_threads_are_other_measurements(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    a_bundle(folder, [(0, 0, 1), (1, 0, 0)])
    run_bundle(folder, name="the box")
    run_bundle(folder, threads=2, name="the box")
    with Study(tmp_path / "my.study", SPACE) as study:
        report = BundleImport.read(folder).add_to(study)
        assert (report.added, report.planned) == (4, 2)
        assert [c["threads"] for c in study.conditions("latency_ms")] == ["1", "2"]
        assert {c["device"] for c in study.conditions("latency_ms")} == {"the box"}


def test_a_network_that_cannot_be_run_is_a_failure_and_is_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def models(network: tuple[int, ...]) -> bytes:
        graph = onnx.load_from_string(model(network))
        if network == (1, 0, 0):
            graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
        return bytes(graph.SerializeToString())

    folder = tmp_path / "b"
    write_bundle(
        folder,
        SPACE,
        [(0, 0, 1), (1, 0, 0), (0, 1, 1)],
        models,
        timing=SLOW,
        noise=ONCE,
        accept_noise=True,
    )
    for _ in range(2):
        assert main(folder, []) == 1
        captured = capsys.readouterr()
        assert "failed: 1,0,0: " in captured.err
        assert captured.out.startswith("2 measurements are in ")
        assert captured.out.endswith(", 1 failed.\n")
    assert len(measured(folder / "results.jsonl")) == 2
    with Study(tmp_path / "my.study", SPACE) as study:
        for _ in range(2):
            report = BundleImport.read(folder).add_to(study)
            assert report.failed == 1
            assert len(study.failures()) == 2
            assert len(study) == 2
        assert "1 failed" in str(report)


def test_the_sample_is_noted_in_the_study(tmp_path: Path) -> None:
    sample = single_sampling(SPACE, (1, 2, 1))
    write_bundle(tmp_path / "b", SPACE, sample, model, timing=SLOW, noise=ONCE, accept_noise=True)
    run_bundle(tmp_path / "b")
    with Study(tmp_path / "my.study", SPACE) as study:
        assert study.reference != (1, 2, 1)
        assert BundleImport.read(tmp_path / "b").add_to(study).added == 7
        assert study.reference == (1, 2, 1)
        assert [device.cores for device in study.devices.values()]


def test_nothing_but_numpy_and_onnxruntime_is_there(python: str) -> None:
    for name in ("mathnas", "torch", "onnx", "rich", "typer", "pydantic", "pip"):
        assert "No module named" in ran([python, "-c", f"import {name}"]).stderr


def test_without_onnxruntime_it_says_what_to_install(bundle: Path, python: str) -> None:
    done = ran([python, "-S", str(bundle / "run.py")])
    assert done.returncode == 1
    assert "needs numpy and onnxruntime" in done.stderr
    assert "-m pip install numpy onnxruntime" in done.stderr
    assert "Traceback" not in done.stderr


# ---- refused ------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    """Change one byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name",
    [
        *("plan.json", "run.py", "graphs/00003.onnx", "graphs/weights.bin"),
        *("lib/mathnas/devices/timing.py", "lib/mathnas/metrics.py"),
    ],
)
@pytest.mark.parametrize("how", ["changed", "longer", "gone"])
def test_a_bundle_that_was_tampered_with_is_refused(
    measured_bundle: Path, run: Run, name: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if how == "changed":
        flip(measured_bundle / name)
    elif how == "longer":
        with (measured_bundle / name).open("ab") as file:
            file.write(b"\n")
    else:
        (measured_bundle / name).unlink()
    for arguments in ([], ["--check"]):
        assert main(measured_bundle, arguments) == 3
        said = capsys.readouterr().err
        assert said.startswith(f"error: {measured_bundle / name} ")
        assert "Copy the bundle again." in said
    code, _, said = run("import", "my.study", str(measured_bundle))
    assert code == 1
    assert f"error: {measured_bundle / name} " in said
    assert not Path("my.study").exists()


def test_a_damaged_library_is_told_from_a_fault(bundle: Path, python: str) -> None:
    (bundle / "lib" / "mathnas" / "devices" / "bundle_plan.py").write_text("(", encoding="utf-8")
    done = ran([python, str(bundle / "run.py")])
    assert done.returncode == 3
    assert "the folder lib is not as it was written" in done.stderr
    assert "Traceback" not in done.stderr


def test_code_that_does_not_belong_to_a_bundle_is_refused(bundle: Path) -> None:
    (bundle / "lib" / "numpy.py").write_text("print('hello')\n", encoding="utf-8")
    with pytest.raises(FileFormatError, match=r"lib/numpy.py is code that the manifest does not"):
        run_bundle(bundle)


def edited(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    change(record)
    path.write_text(json.dumps(record), encoding="utf-8")


def test_a_manifest_that_was_changed_to_fit_is_refused(bundle: Path) -> None:
    flip(bundle / "graphs" / "weights.bin")
    honest = Manifest.load(bundle)
    other = Manifest.of(bundle, honest.files)

    def fit(record: dict[str, object]) -> None:
        files = sorted(other.files.items())
        record["files"] = [{"path": p, "bytes": n, "sha256": s} for p, (n, s) in files]

    edited(bundle / "manifest.json", fit)
    with pytest.raises(FileFormatError, match=r"manifest.json was changed since the bundle was"):
        run_bundle(bundle)


def test_results_of_a_bundle_that_was_made_anew_are_refused(
    bundle: Path, tmp_path: Path, run: Run
) -> None:
    """Whoever computes all digests again has another bundle, and that is not the one here."""
    there = tmp_path / "there"
    shutil.copytree(bundle, there)
    flip(there / "graphs" / "weights.bin")
    Manifest.of(there, Manifest.load(there).files).save(there)
    run_bundle(there)
    code, _, said = run("import", "my.study", str(there / "results.jsonl"), "--bundle", str(bundle))
    assert code == 1
    assert "results.jsonl, line 1: these are results of another bundle" in said


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", "a\\b", "C:x", ""])
def test_a_manifest_names_files_inside_only(bundle: Path, path: str) -> None:
    def outside(record: dict[str, object]) -> None:
        files = record["files"]
        assert isinstance(files, list)
        files[0]["path"] = path

    edited(bundle / "manifest.json", outside)
    with pytest.raises(FileFormatError, match="names files inside its folder, each once"):
        read_bundle(bundle)


def test_a_link_is_no_file_of_a_bundle(bundle: Path, tmp_path: Path) -> None:
    weights = bundle / "graphs" / "weights.bin"
    weights.rename(tmp_path / "weights.bin")
    weights.symlink_to(tmp_path / "weights.bin")
    with pytest.raises(FileFormatError, match=r"weights.bin is listed in the manifest, but not"):
        read_bundle(bundle)


@pytest.mark.parametrize("change", ["value", "removed", "first", "swapped", "garbage", "foreign"])
def test_results_that_were_changed_are_refused(
    measured_bundle: Path, run: Run, change: str
) -> None:
    """By the import and by the runner, which name the line; nothing is added to either."""
    results = measured_bundle / "results.jsonl"
    lines = results.read_text(encoding="utf-8").splitlines(keepends=True)
    where = 6
    if change == "value":
        record = json.loads(lines[5])
        lines[5] = json.dumps({**record, "value": record["value"] * 0.9}) + "\n"
    elif change == "removed":
        del lines[5]
    elif change == "first":
        del lines[0]
        where = 1
    elif change == "swapped":
        lines[5], lines[6] = lines[6], lines[5]
    elif change == "garbage":
        lines[5] = "\0\0\0\n"
    else:
        lines = ['{"format": "mathnas-table", "version": 1}\n', *lines]
        where = 1
    results.write_text("".join(lines), encoding="utf-8")
    code, _, said = run("import", "my.study", str(measured_bundle))
    assert code == 1
    assert f"error: {results}, line {where}: " in said
    assert not Path("my.study").exists()
    with pytest.raises(FileFormatError, match=f"results.jsonl, line {where}: "):
        run_bundle(measured_bundle)
    assert results.read_text(encoding="utf-8") == "".join(lines)


@pytest.mark.parametrize(
    ("line", "key", "value", "message"),
    [
        (1, "value", float("nan"), "latency_ms = nan"),
        (1, "value", "fast", "expected float, but got 'fast'"),
        (1, "network", [0, 0, 5], "results are of planned networks, but 0,0,5 is none"),
        (1, "network", [0, "x"], "expected whole numbers"),
        (1, "repeats", 0, "at least 1 repeat"),
        (1, "spread", -1.0, "a spread is a standard deviation"),
        (1, "run", 3, "there is no run 3 before it"),
        (1, "notes", {"load": 3}, "expected a list of texts"),
        (1, "kind", "guessed", "a line is a run, measured or failed"),
        (0, "metric", "energy_mj", "results are of the planned metrics latency_ms, but run 0"),
        (0, "metric", "speed", "a metric's name starts with"),
        (0, "version", 2, "version 2 is not one this mathnas reads"),
    ],
)
def test_results_that_no_runner_writes_are_refused_even_with_right_digests(
    measured_bundle: Path, tmp_path: Path, line: int, key: str, value: object, message: str
) -> None:
    last, text = Manifest.load(measured_bundle).digest, ""
    for number, record in enumerate(lines_of(measured_bundle / "results.jsonl")):
        del record["digest"]
        if number == line:
            record[key] = value
        last = _digest(last, record)
        text += json.dumps({**record, "digest": last}) + "\n"
    (measured_bundle / "results.jsonl").write_text(text, encoding="utf-8")
    with Study(tmp_path / "my.study", SPACE) as study:
        with pytest.raises(MathNASError, match=message):
            BundleImport.read(measured_bundle).add_to(study)
        assert len(study) == 0


def test_results_made_otherwise_than_planned_are_refused(measured_bundle: Path) -> None:
    results = measured_bundle / "results.jsonl"
    run = read_results(results, Manifest.load(measured_bundle).digest).runs[0]
    with ResultsFile(results, Manifest.load(measured_bundle).digest) as file:
        conditions = {**run.conditions, "resolution": "96"}
        number = file.begin(type(run)(run.metric, conditions, run.device, run.software, run.time))
        file.add(Measured(number, (0, 0, 0), Measurement(1.0), 0, 1.0))
    with pytest.raises(InvalidInputError, match="resolution = 48, but run 1 has '96'"):
        BundleImport.read(measured_bundle)


def test_a_study_of_another_space_takes_nothing(measured_bundle: Path, tmp_path: Path) -> None:
    other = SearchSpace(SPACE.nodes, name="other")
    with Study(tmp_path / "my.study", other) as study:
        with pytest.raises(InvalidInputError, match=r"is of 'other' and the bundle of 'layers'"):
            BundleImport.read(measured_bundle).add_to(study)
        assert len(study) == 0


def test_results_alone_need_their_bundle(bundle: Path, tmp_path: Path, run: Run) -> None:
    run_bundle(bundle, tmp_path / "fetched.jsonl")
    code, _, said = run("import", "my.study", "fetched.jsonl")
    assert code == 1
    assert "add --bundle FOLDER" in said
    code, out, _ = run("import", "my.study", "fetched.jsonl", "--bundle", "made", "--json")
    assert code == 0
    assert json.loads(out)["added"] == 27
    assert json.loads(out)["runs"][0]["device"]["system"]


def test_a_folder_without_results_says_so(bundle: Path, run: Run) -> None:
    code, _, said = run("import", "my.study", str(bundle))
    assert code == 1
    assert "results.jsonl cannot be read: No such file" in said
