"""``mathnas extract``, and ``mathnas evaluate`` on a trained supernet."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip("accelerate")
pytest.importorskip("PIL")
pytest.importorskip("pyarrow")

import numpy as np
import torch
from PIL import Image

import mathnas as mn
from mathnas._files import file_sha256
from mathnas.cli._supernets import identity
from mathnas.images.preprocessing import Preprocessing
from mathnas.nets.batchnorm import recalibrate
from mathnas.nets.digits import DigitsConfig, DigitsNet, DigitsNode
from mathnas.nets.extracted import read_extracted
from mathnas.nets.files import load_supernet, save_supernet
from mathnas.nets.mbconv import MBConvChoice
from mathnas.nets.mobilenetv3 import MobileNetV3Net
from mathnas.spaces import MobileNetV3

torch.set_num_threads(1)

Run = Callable[..., tuple[int, str, str]]
SPACE = MobileNetV3(width=0.1, resolution=32, classes=2, stem_stride=1)
SMALL = ",".join(map(str, SPACE.from_config([3] * 20, [3] * 20, [2] * 5)))
LARGE = ",".join(map(str, SPACE.from_config([7] * 20, [6] * 20, [3] * 5)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with supernet.safetensors (random weights) and images in photos/."""
    folder = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 5)):
        for number, name in enumerate(("dark", "light")):
            home = folder / "photos" / split / name
            home.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(100 * number, 100 * number + 128, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(home / f"{i}.png")
    preprocessing = Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 32, padding=2)
    notes = {"data": f"folder:{folder / 'photos'}", "preprocessing": preprocessing.to_dict()}
    save_supernet(folder / "supernet.safetensors", MobileNetV3Net(SPACE, seed=1), notes=notes)
    return folder


@pytest.fixture
def supernet(place: Path, tmp_path: Path) -> str:
    """The file in the folder where commands run."""
    shutil.copy(place / "supernet.safetensors", tmp_path)
    return "supernet.safetensors"


def json_of(result: tuple[int, str, str]) -> Any:
    code, out, err = result
    assert code == 0, err
    return json.loads(out)


def measured_study(path: Path, supernet: Path) -> None:
    """A study that says which supernet it was measured with; its accuracies are made up."""
    fake = mn.FunctionEvaluator(
        lambda network: 50.0 + sum(network) / 20,
        ["accuracy"],
        conditions={"supernet": identity(supernet, file_sha256(supernet))},
    )
    with mn.Study(path, SPACE) as study:
        mn.evaluate(study, mn.single_sampling(SPACE), fake)


def test_a_network_becomes_a_file_with_a_card(run: Run, supernet: str) -> None:
    card = json_of(
        run(
            *("extract", "--supernet", supernet, "--network", SMALL, "-o", "small.safetensors"),
            *("--calibration", "20", "--measure", "accuracy,loss", "--json"),
        )
    )
    assert card["network"] == list(SPACE.parse(SMALL))
    assert card["blocks"]["stage1.layer1"] == "k3_e3"
    assert card["macs"] == SPACE.macs([SPACE.parse(SMALL)])[0]
    assert card["file"]["sha256"] == file_sha256(Path("small.safetensors"))
    assert card["file"]["bytes"] == Path("small.safetensors").stat().st_size
    assert card["supernet_difference"] <= card["file"]["tolerance"]
    assert card["provenance"]["supernet_sha256"] == file_sha256(Path(supernet))
    assert 0 <= card["measurements"]["accuracy"]["value"] <= 100
    assert card["measurements"]["accuracy"]["conditions"]["images"] == "10, test"
    assert json.loads(Path(card["record"]).read_text())["file"] == card["file"]

    # what was written is the recalibrated network, and the measured accuracy is its own
    extracted = read_extracted("small.safetensors")
    assert card["params"] == sum(p.numel() for p in extracted.module.parameters())
    assert extracted.notes["calibration_images"] == 20
    norms = [m for m in extracted.module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    untouched = load_supernet(supernet).extract(SPACE.parse(SMALL))
    old = [m for m in untouched.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert not torch.equal(norms[0].running_mean, old[0].running_mean)  # type: ignore[arg-type]


def test_the_card_is_for_people_too_and_its_code_runs(run: Run, supernet: str) -> None:
    code, out, err = run(
        *("extract", "--supernet", supernet, "--network", SMALL, "--output", "small.safetensors"),
        *("--calibration", "8", "--measure", "none"),
    )
    assert code == 0, err
    assert "written: small.safetensors, small.safetensors.md" in out
    text = Path("small.safetensors.md").read_text(encoding="utf-8")
    assert "| stage5.layer4 | absent |" in text
    assert f"`{file_sha256(Path('small.safetensors'))}`" in text
    assert "minus [0.5, 0.5, 0.5], divided by [0.25, 0.25, 0.25]" in text
    names: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    assert names["logits"].shape == (1, 2)


def test_a_study_gives_predictions_and_names_its_supernet(
    run: Run, supernet: str, tmp_path: Path
) -> None:
    measured_study(tmp_path / "my.study", tmp_path / supernet)
    answer = json_of(run("search", "my.study", "--limit", "macs=-10%", "--json"))
    Path("answer.json").write_text(json.dumps(answer))
    card = json_of(
        run(
            *("extract", "my.study", "--answer", "answer.json", "-o", "best.safetensors"),
            *("--calibration", "8", "--measure", "accuracy", "--json"),
        )
    )
    assert card["network"] == answer["network"]
    predicted = answer["predictions"]["accuracy"]["value"]
    assert card["predictions"]["accuracy"]["value"] == pytest.approx(predicted)
    assert card["limits"] == answer["limits"]
    assert card["provenance"]["no_predictions"] is None
    text = Path("best.safetensors.md").read_text(encoding="utf-8")
    assert "## Search" in text
    assert answer["guarantee"] in text

    # a table fitted by regression gives intervals
    assert run("fit", "my.study", "--method", "regression", "-o", "table.json")[0] == 0
    card = json_of(
        run(
            *("extract", "my.study", "--table", "table.json", "--network", LARGE),
            *("-o", "large.safetensors", "--measure", "none", "--calibration", "8", "--json"),
        )
    )
    prediction = card["predictions"]["accuracy"]
    assert prediction["low"] < prediction["value"] < prediction["high"]

    # another supernet under the same name is noticed
    save_supernet(supernet, MobileNetV3Net(SPACE, seed=2))
    code, _, err = run("extract", "my.study", "--network", SMALL, "-o", "x.safetensors")
    assert code == 1
    assert "the study was measured with supernet.safetensors" in err
    Path(supernet).unlink()
    code, _, err = run("extract", "my.study", "--network", SMALL, "-o", "x.safetensors")
    assert code == 1
    assert "neither beside it nor here: add --supernet" in err


def test_finetuning_is_repeatable_and_changes_weights(run: Run, supernet: str) -> None:
    def tuned(name: str, *more: str) -> torch.Tensor:
        card = json_of(
            run(
                *("extract", "--supernet", supernet, "--network", SMALL, "-o", name, "--json"),
                *("--calibration", "8", "--measure", "none", "--batch-size", "8", *more),
            )
        )
        assert card["file"]["difference"] <= card["file"]["tolerance"]
        extracted = read_extracted(name)
        return torch.cat([p.detach().flatten() for p in extracted.module.parameters()])

    plain = tuned("plain.safetensors")
    options = ("--finetune-epochs", "1", "--distill", "1", "--seed", "3")
    first, again = tuned("a.safetensors", *options), tuned("b.safetensors", *options)
    assert torch.equal(first, again)
    assert not torch.equal(first, plain)
    assert not torch.equal(first, tuned("c.safetensors", *options[:2]))  # no guide, another seed


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_other_formats_run_without_mathnas(run: Run, supernet: str, suffix: str) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    measure = "latency_ms" if suffix == ".onnx" else "none"
    name = f"small{suffix}"
    card = json_of(
        run(
            *("extract", "--supernet", supernet, "--network", SMALL, "-o", name, "--any-batch"),
            *("--calibration", "8", "--measure", measure, "--json"),
        )
    )
    assert card["file"]["batch"] is None
    if suffix == ".onnx":
        latency = card["measurements"]["latency_ms"]
        assert latency["value"] > 0
        assert latency["conditions"]["engine"] == "onnxruntime"
        assert latency["conditions"]["measured"] == "the file"
    names: dict[str, Any] = {}
    exec(Path(f"{name}.md").read_text().split("```python\n")[1].split("```")[0], names)
    assert names["logits"].shape == (1, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-o", "x.pth"), ".onnx, .pt2, .safetensors, but got 'x.pth'"),
        (("-o", "x.onnx", "--measure", "speed"), "accuracy, loss, latency_ms, or none"),
        (("-o", "x.onnx", "--data", "folder:nowhere"), "nowhere"),
        (("-o", "x.onnx", "--answer", "none.json"), "none.json cannot be read"),
        (("-o", "x.onnx", "--space", "fbnet"), "a supernet runs networks of its own blocks"),
        (("-o", "x.onnx", "--calibration", "0"), "--calibration is at least 1"),
        ((), "--output FILE"),
    ],
)
def test_wrong_use(run: Run, supernet: str, options: tuple[str, ...], message: str) -> None:
    given = ("--supernet", supernet, "--network", SMALL)
    code, _, err = run("extract", *given, *options)
    assert code == 1
    assert err.startswith("error: ")
    assert message in err
    assert not list(Path().glob("x*"))


def test_without_images_statistics_are_kept_only_on_request(run: Run, tmp_path: Path) -> None:
    net = MobileNetV3Net(SPACE, seed=1)
    save_supernet("bare.safetensors", net)
    given = ("extract", "--supernet", "bare.safetensors", "--network", SMALL, "-o", "x.safetensors")
    code, _, err = run(*given, "--measure", "none")
    assert code == 1
    assert "add --data NAME, or --keep-statistics" in err
    assert json_of(run(*given, "--measure", "none", "--keep-statistics", "--json"))
    found = read_extracted("x.safetensors").module.state_dict()
    for name, tensor in net.eval().extract(SPACE.parse(SMALL)).state_dict().items():
        assert torch.equal(found[name], tensor)


# ---- evaluate ------------------------------------------------------------------------------------


def test_evaluate_measures_accuracy_of_extracted_networks(
    run: Run, place: Path, supernet: str
) -> None:
    command = (
        *("evaluate", "my.study", "--network", SMALL, "--network", LARGE, "--json"),
        *("--evaluator", f"supernet:{supernet},calibration=20,loss=true"),
    )
    assert json_of(run(*command))["done"] == 2
    assert json_of(run(*command))["already"] == 2
    with mn.Study("my.study", read_only=True) as study:
        data = study.measurements("accuracy")
        assert data.conditions["supernet"] == identity(Path(supernet), file_sha256(Path(supernet)))
        row = data.lookup(SPACE.parse(SMALL))
        assert row is not None
        assert set(study.metrics) == {"accuracy", "loss"}
    # the file that is extracted has the accuracy that the study knows
    card = json_of(
        run(
            *("extract", "my.study", "--network", SMALL, "-o", "x.safetensors", "--json"),
            *("--calibration", "20", "--measure", "accuracy"),
        )
    )
    assert card["measurements"]["accuracy"]["value"] == pytest.approx(data.values[row])
    assert "was not measured" in card["provenance"]["no_predictions"]


def test_evaluate_on_workers_gives_the_same(run: Run, supernet: str) -> None:
    values = []
    for workers in ("1", "2"):
        command = (
            *("evaluate", f"{workers}.study", "--network", SMALL, "--network", LARGE, "--json"),
            *("--evaluator", f"supernet:{supernet},calibration=20,count=6,together=1"),
            *("--workers", workers),
        )
        assert json_of(run(*command))["failures"] == []
        with mn.Study(f"{workers}.study", read_only=True) as study:
            values.append(study.measurements("accuracy").values.tolist())
    assert values[0] == values[1]


def test_latency_in_a_study_of_its_own_or_beside_accuracy(run: Run) -> None:
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    nodes = (DigitsNode(4, 1, (None, MBConvChoice(3, 1))), DigitsNode(6, 2, (MBConvChoice(3, 1),)))
    save_supernet("tiny.safetensors", DigitsNet(DigitsConfig(stem=4, nodes=nodes, head=8)))
    command = ("evaluate", "tiny.study", "--sampling", "full", "--json")
    options = "batch=2,rounds=2,attempts=1,accept_noise=true"  # the machine may be busy
    report = json_of(run(*command, "--evaluator", f"latency:tiny.safetensors,{options}"))
    assert report["done"] == 2
    # the same blocks need no weights, and are already there
    again = json_of(run(*command, "--evaluator", f"latency,{options}"))
    assert (again["done"], again["already"]) == (0, 2)
    with mn.Study("tiny.study", read_only=True) as study:
        conditions = study.measurements("latency_ms").conditions
        assert (conditions["engine"], conditions["batch"]) == ("onnxruntime", "2")
        assert conditions["resolution"] == "8"
        assert conditions["noise"] == "accepted"


def test_latency_on_another_engine_with_further_statistics(run: Run, supernet: str) -> None:
    spec = f"latency:{supernet},engine=torch,precision=bf16,rounds=2,statistics=median+cpu"
    command = ("evaluate", "torch.study", "--network", SMALL, "--json", "--evaluator")
    report = json_of(run(*command, f"{spec},reference=true,attempts=1,accept_noise=true"))
    assert report["done"] == 1
    with mn.Study("torch.study", read_only=True) as study:
        conditions = study.measurements("latency_ms").conditions
        assert (conditions["engine"], conditions["precision"]) == ("torch", "bf16")
        assert conditions["memory_format"] == "channels_last"
        for metric in ("latency_ms", "latency_ms_median", "latency_ms_cpu"):
            assert study.measurements(metric).values[0] > 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("supernet:", "write supernet:FILE.safetensors"),
        ("supernet:none.safetensors", "none.safetensors cannot be read"),
        ("supernet:supernet.safetensors,counts=3", "takes calibration=, count="),
        ("supernet:supernet.safetensors,count=many", "count is a whole number, but got 'many'"),
        ("supernet:supernet.safetensors,count=0", "count is at least 1"),
        ("supernet:supernet.safetensors,loss=yes", "loss is true or false"),
        ("latency", "add --space, or write latency:FILE"),
        ("latency,batch=0", "batch is at least 1"),
        ("latency,engine=tflite", "engines are onnxruntime, torch, "),
        ("latency,engine=executorch,precision=int8", "executorch computes in fp32 here"),
        ("latency,accept_noise=maybe", "accept_noise is true or false, but got 'maybe'"),
        (
            "latency:supernet.safetensors,engine=torch,statistics=mean",
            "median, min, trimmed, cpu, each",
        ),
    ],
)
def test_evaluators_that_are_none(run: Run, supernet: str, spec: str, message: str) -> None:
    code, _, err = run("evaluate", "my.study", "--evaluator", spec)
    assert code == 1
    assert message in err


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "executorch"])
def test_missing_packages_are_named_with_their_extra(
    run: Run, supernet: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, engine, None)
    code, _, err = run("evaluate", "my.study", "--evaluator", f"latency:{supernet},engine={engine}")
    assert code == 1
    extra = "onnx" if engine == "onnxruntime" else engine
    assert f"the engine {engine} needs {engine}: pip install 'mathnas[{extra}]'" in err


def test_recalibration_is_that_of_the_training_images(run: Run, place: Path) -> None:
    """`recalibrate` on the extracted module gives the file's statistics."""
    from mathnas.images.known import open_images
    from mathnas.images.loader import calibration_batches

    path = place / "supernet.safetensors"
    assert (
        run(
            *("extract", "--supernet", str(path), "--network", LARGE, "-o", "x.safetensors"),
            *("--calibration", "16", "--measure", "none"),
        )[0]
        == 0
    )
    net = load_supernet(path)
    preprocessing = Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 32, padding=2)
    images = open_images(f"folder:{place / 'photos'}", "train")
    module = net.extract(SPACE.parse(LARGE))
    recalibrate(module, calibration_batches(images, preprocessing, 16))
    found = read_extracted("x.safetensors").module.state_dict()
    for name, tensor in module.state_dict().items():
        assert torch.equal(found[name], tensor), name
