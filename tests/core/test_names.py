"""No module of the core knows a data set: what is particular to one lives in a few rooms.

`spaces` and `datasets` are about public benchmarks, `nets` holds the networks of some, `demo` and
`testing` use examples, and `baselines` names methods after their papers. Everywhere else a data
set's name would be a special case. The command line may name them in help texts and examples, and
where it offers them.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import mathnas

ROOT = Path(mathnas.__file__).parent
ROOMS = ("spaces", "datasets", "demo", "testing", "baselines", "nets")
NAMES = re.compile(
    r"nas-?_?bench|nats-?_?bench|natsbench|cifar|imagenet|fbnet|mobilenet_?v3|\bofa(?![a-z])|"
    r"hw[-_]nas|(?-i:\bHAT\b)|\bwmt|\biwslt",
    re.IGNORECASE,
)
# where public measurements or images are offered by name
OFFERS = {"cli/_evaluators.py", "images/known.py"}
# words of a help text: `help=`, `epilog=` and the texts they are put together of
HELP = ("help", "epilog", "help_text")

MODULES = sorted(
    path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] not in ROOMS
)


def named_in(text: str) -> list[str]:
    """Names of data sets in a module: in its code, its texts and its comments."""
    tree = ast.parse(text)
    lines = text.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in HELP:
            for line in range(node.value.lineno, (node.value.end_lineno or 0) + 1):
                lines[line - 1] = ""
    found = ((number, NAMES.search(line)) for number, line in enumerate(lines, start=1))
    return [f"{number}: {match[0]}" for number, match in found if match]


def test_there_are_modules_to_look_at() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in MODULES}
    assert names > {"regression.py", "space.py", "search/program.py", "cli/fit.py"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_of_the_core_names_a_data_set(path: Path) -> None:
    found = named_in(path.read_text(encoding="utf-8"))
    if path.relative_to(ROOT).as_posix() in OFFERS:
        assert found, "this module offers none any more: take it from the list"
    else:
        assert not found, f"{path.name} names {found}: see the docstring of this test"


@pytest.mark.parametrize(
    "text",
    [
        'if space.name.startswith("nasbench201"):\n    pass\n',
        "from mathnas.spaces import NASBench201\n",
        "# as in CIFAR-100\n",
        'x = "accuracy_imagenet16_120"\n',
        "y = fbnet()\n",
        'z = "ofa_mobilenetv3"\n',
        '"""What HAT measured."""\n',
    ],
)
def test_the_names_are_found(text: str) -> None:
    assert named_in(text)


@pytest.mark.parametrize(
    "text",
    [
        'run(help="as in nasbench201", epilog="Example: data:fbnet " "cifar")\n',
        "that = chat_of(what)\n",
    ],
)
def test_help_texts_and_common_words_are_not(text: str) -> None:
    assert not named_in(text)
