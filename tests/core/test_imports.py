"""What `import mathnas` loads, and which way data flows between its modules."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mathnas

ROOT = Path(mathnas.__file__).parent
OPTIONAL = (
    *("torch", "pydantic", "typer", "rich", "pooch", "scipy", "sklearn", "onnx", "pytest"),
    *("sentencepiece", "sacrebleu"),
)

# Each room with the rooms that it may use: what it needs, or what those need in turn.
FLOW: dict[str, tuple[str, ...]] = {
    "errors": (),
    "_version": (),
    "_files": ("errors",),
    "_records": ("errors", "_files"),
    "_tensor_files": ("errors", "_files", "_records"),
    "_progress": (),
    "scales": ("errors",),
    "metrics": ("errors", "scales"),
    "space": ("errors", "_records"),
    "sampling": ("errors", "space"),
    "designs": ("errors", "sampling", "space"),
    "responses": ("metrics", "scales"),
    "gaussian_process": ("errors", "_records", "metrics", "responses", "scales"),
    "device": ("errors", "_records"),
    "costs": ("errors", "_records"),
    "evaluation": ("errors", "device", "metrics", "scales", "space"),
    "posterior": ("errors", "_records", "scales", "space"),
    "table": (
        *("errors", "_records", "_version", "gaussian_process", "metrics", "posterior"),
        *("responses", "scales", "space"),
    ),
    "grouped": ("errors", "_records", "posterior", "space", "table"),
    "stacking": ("metrics", "posterior", "table"),
    "search": (
        *("errors", "_progress", "grouped", "metrics", "posterior", "scales", "space", "table"),
    ),
    "validation": (
        *("errors", "evaluation", "fitting", "metrics", "sampling", "scales", "space", "study"),
        "table",
    ),
    "variance": ("errors", "metrics", "posterior", "scales", "space", "table"),
}
DOWNSTREAM = {
    *("spaces", "datasets", "nets", "images", "training", "baselines", "devices", "demo", "cli"),
    *("runtime", "report", "text", "compression"),
}
# What every module of the runtime may use outside it, and what the few use besides that load parts
# into an engine, or make a package for one.
RUNTIME = {
    *("errors", "_filelock", "_progress", "_records", "_tensor_files", "_version", "metrics"),
    *("search", "space", "spaces", "table"),
}
RUNTIME_ENGINES = {
    "deploying": {
        *("grouped", "nets.calibrated", "nets.folding", "nets.inputs", "nets.supernet"),
    },
    "onnx_packaging": {
        *("devices.onnxruntime", "nets.agreement", "nets.calibrated", "nets.folding"),
        "nets.onnx_export",
    },
    "onnx_parts": {"devices.onnxruntime"},
    "torch_parts": {
        *("_threads", "grouped", "nets.families", "nets.files", "nets.grouped", "nets.inputs"),
        "nets.supernet",
    },
}
TEXT = {
    *("errors", "_files", "_records", "_threads", "datasets", "evaluation", "metrics", "nets"),
    *("space", "tokens"),
}
COMPRESSION = {
    *("errors", "_files", "_progress", "_threads", "evaluation", "metrics", "nets", "space"),
}
CORE = {
    *FLOW,
    *("fitting", "refinement", "regression", "study", "runner", "transfer", "trials"),
    "acquisition",
}


# ---- in a new process ----------------------------------------------------------------------------


def run(code: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def loaded_by(statement: str) -> set[str]:
    """Top-level modules from outside the standard library that a statement loads."""
    code = (
        "import sys; before = set(sys.modules)\n"
        f"{statement}\n"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(names - set(sys.stdlib_module_names)))"
    )
    return set(run(code).split())


def test_importing_mathnas_loads_numpy_and_nothing_else_from_outside() -> None:
    outside = {name for name in loaded_by("import mathnas") if not name.startswith("_")}
    assert outside == {"mathnas", "numpy"}


@pytest.mark.parametrize(
    "module",
    [
        *("table", "search", "spaces", "fitting", "runner", "study", "space", "baselines"),
        *("runtime.serving", "runtime.controller", "runtime.decisions", "runtime.simulation"),
        *("text.vocabulary", "text.corpus", "text.bleu"),
        *("runtime.dynamic", "runtime.loading"),  # on the device, before its engine is known
    ],
)
def test_no_room_of_the_core_loads_an_optional_dependency(module: str) -> None:
    assert loaded_by(f"import mathnas.{module}").isdisjoint(OPTIONAL)


def test_the_command_line_starts_without_any_extra() -> None:
    """What runs networks (torch, onnxruntime and the like) is loaded by the command that needs it;
    typer, rich, pydantic and pooch come with every installation."""
    extras = {"torch", "onnx", "onnxruntime", "onnxscript", "openvino", "pyarrow", "safetensors"}
    others = {"scipy", "sklearn", "pytest", "sentencepiece", "sacrebleu"}
    assert loaded_by("import mathnas.cli").isdisjoint({*extras, *others})


def test_the_command_line_starts_without_what_serves() -> None:
    """It is a tenth of a start, of which `mathnas run` and `replay` alone need it."""
    code = "import sys, mathnas.cli; print(*sys.modules)"
    assert not {"asyncio", "mathnas.runtime"} & set(run(code).split())


def test_importing_mathnas_takes_a_blink() -> None:
    """Processor time, numpy included, beside numpy's own on the same machine at the same time."""
    code = "import time; start = time.process_time()\nimport {}\nprint(time.process_time() - start)"
    numpy, whole = (
        min(float(run(code.format(name))) for _ in range(5)) for name in ("numpy", "mathnas")
    )
    assert whole < 0.1 + 3 * numpy


def test_everything_that_is_promised_is_there() -> None:
    for name in mathnas.__all__:
        assert hasattr(mathnas, name), name
    assert sorted(mathnas.__all__) == list(mathnas.__all__)


def test_the_testing_contracts_alone_need_pytest() -> None:
    assert "pytest" in loaded_by("import mathnas.testing")


# ---- from the sources ----------------------------------------------------------------------------


def modules() -> dict[str, Path]:
    """Every module of mathnas by its dotted name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports_of(name: str, *, at_start: bool) -> set[str]:
    """The modules of mathnas that a module imports: when it is loaded, or ever."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in statements(tree, at_start=at_start):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            base = node.module or ""
            found |= {
                f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base
                for alias in node.names
            }
    return {module for module in found if module in MODULES} - {name}


def statements(tree: ast.AST, *, at_start: bool) -> Iterator[ast.AST]:
    """All nodes; `at_start` leaves out function bodies and what is only for type checkers."""
    for node in ast.iter_child_nodes(tree):
        later = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if at_start and (later or typing):
            continue
        yield node
        yield from statements(node, at_start=at_start)


def room(module: str) -> str:
    """The first part below mathnas: the folder or file that a module is in."""
    return module.split(".")[1] if "." in module else ""


def test_there_are_no_import_cycles() -> None:
    graph = {name: imports_of(name, at_start=True) for name in MODULES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        for other in sorted(graph[name]):
            visit(other, (*path, name))
        done.add(name)

    for name in graph:
        visit(name, ())
    assert done == set(MODULES)


@pytest.mark.parametrize("upstream", FLOW)
def test_data_flows_one_way(upstream: str) -> None:
    allowed = {upstream, *FLOW[upstream]}
    for name in MODULES:
        if room(name) == upstream:
            used = {room(other) for other in imports_of(name, at_start=False)}
            assert used <= allowed, f"{name} imports {sorted(used - allowed)}"


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) in CORE])
def test_the_core_knows_nothing_downstream(name: str) -> None:
    used = {room(other) for other in imports_of(name, at_start=False)}
    assert used.isdisjoint(DOWNSTREAM), f"{name} imports {sorted(used & DOWNSTREAM)}"


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) == "runtime"])
def test_only_the_engines_of_the_runtime_know_networks_and_devices(name: str) -> None:
    own = name.removeprefix("mathnas.runtime.")
    used = imports_of(name, at_start=False)
    beyond = {other for other in used if room(other) not in {"runtime", *RUNTIME}}
    allowed = RUNTIME_ENGINES.get(own, set())
    if own == "calibration":
        allowed = {"devices.timing"}  # how it times, for which numpy is enough
    assert beyond <= {f"mathnas.{other}" for other in allowed}, f"{name} imports {sorted(beyond)}"
    if own not in RUNTIME_ENGINES:
        loaded = imports_of(name, at_start=True)
        assert loaded.isdisjoint({f"mathnas.runtime.{engine}" for engine in RUNTIME_ENGINES})


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) == "text"])
def test_text_knows_networks_and_public_data_alone(name: str) -> None:
    used = {room(other) for other in imports_of(name, at_start=False)}
    assert used - {""} <= {"text", *TEXT}, f"{name} imports {sorted(used)}"


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) == "compression"])
def test_compression_knows_networks_alone(name: str) -> None:
    used = {room(other) for other in imports_of(name, at_start=False)}
    assert used - {""} <= {"compression", *COMPRESSION}, f"{name} imports {sorted(used)}"


def users_of(upstream: str) -> set[str]:
    """The modules outside a room that import it, now or later."""
    return {
        name
        for name in MODULES
        if room(name) != upstream
        and any(room(other) == upstream for other in imports_of(name, at_start=False))
    }


def test_only_the_entry_point_imports_the_command_line() -> None:
    assert users_of("cli") <= {"mathnas.__main__"}


def test_nothing_but_tests_uses_the_testing_contracts() -> None:
    assert users_of("testing") == set()


def test_only_the_command_line_and_contracts_use_the_runtime() -> None:
    assert {room(name) for name in users_of("runtime")} <= {"cli", "testing"}


def test_the_flow_names_rooms_that_exist() -> None:
    rooms = {room(name) for name in MODULES}
    assert set(FLOW) <= rooms
    assert rooms >= {"fitting", "study", "runner", "spaces", "testing"}
