"""The contracts that the pages inherit pass when pytest collects them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGES = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("page", "names", "least"),
    [
        (
            "extending.md",
            ("TestSmallResNet", "TestPretendTraining", "TestPretendLatency", "TestDepthFirst"),
            60,
        ),
        ("baselines.md", ("TestRandomWalk",), 11),
    ],
)
def test_the_contracts_of_the_page_pass(
    page: str, names: tuple[str, ...], least: int, tmp_path: Path
) -> None:
    text = (PAGES / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    (tmp_path / "test_page.py").write_text("\n\n".join(blocks), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_page.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    for name in names:
        assert name in "".join(blocks)
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > least
