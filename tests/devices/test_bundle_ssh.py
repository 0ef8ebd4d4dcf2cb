"""Bundles over real ssh, to a server that the tests start on a loopback port."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx
from bundle_cases import (
    NETWORKS,
    ONCE,
    QUICK,
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
)

from mathnas import (
    EvaluationError,
    FileFormatError,
    InvalidInputError,
    MissingExtraError,
    Study,
    evaluate,
)
from mathnas.devices.building import measure
from mathnas.devices.bundle_import import BundleImport
from mathnas.devices.remote import RemoteLatencyEvaluator
from mathnas.devices.ssh import SshTarget, run_over_ssh
from mathnas.devices.timing import TimingSettings
from mathnas.space import Network, network_text

__all__ = ["_written", "bundle", "measured_bundle", "own_lock", "python"]

Run = Callable[..., tuple[int, str, str]]
ALL = sorted(map(network_text, NETWORKS))
SLOW = TimingSettings(rounds=8, slice_ms=4.0, warmup_ms=4.0)
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True)
class Server:
    """An ssh server of our own."""

    port: int
    key: Path
    known_hosts: Path
    process: subprocess.Popen[bytes]

    @property
    def options(self) -> list[str]:
        # nothing of whoever runs the tests: neither configuration nor agent
        return [
            f"IdentityFile={self.key}",
            *("IdentitiesOnly=yes", "IdentityAgent=none", "StrictHostKeyChecking=yes"),
            f"UserKnownHostsFile={self.known_hosts}",
        ]

    def target(self, folder: Path) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{folder}"

    def descendants(self) -> list[int]:
        """What runs in its connections."""
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                text = stat.read_text(encoding="utf-8")
            except OSError:  # it ended
                continue
            parents[int(stat.parent.name)] = int(text.rpartition(")")[2].split()[1])
        found = [self.process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found[1:]

    def drop(self, *, runner: bool) -> None:
        """Break all connections; `runner`: what runs in them dies too, else it is left alone."""
        for pid in self.descendants():
            name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8")
            if runner or name.startswith("sshd"):
                os.kill(pid, signal.SIGKILL)


def _keygen(path: Path) -> str:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True)
    return path.with_suffix(".pub").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if SSHD is None or shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("needs OpenSSH's sshd, ssh and ssh-keygen (openssh-server, openssh-client)")
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs /proc, to end connections of its own server only")
    if os.getuid() == 0:  # where sshd puts itself before anybody is let in
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    folder = tmp_path_factory.mktemp("sshd")
    host_key = _keygen(folder / "host")
    (folder / "authorized").write_text(_keygen(folder / "user"), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}", encoding="utf-8")
    (folder / "config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder / 'host'}\nPidFile none\n"
        f"AuthorizedKeysFile {folder / 'authorized'}\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"PermitRootLogin prohibit-password\nSetEnv TMPDIR={folder} HOME={folder}\n",
        encoding="utf-8",
    )
    # the environment: measuring waits for nobody, and no shell reads what its user set up
    log = (folder / "log").open("wb")
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "config")], stderr=log)
    made = Server(port, folder / "user", folder / "known_hosts", process)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None:
                said = (folder / "log").read_text(encoding="utf-8")
                pytest.skip(f"sshd does not start here: {said.strip()}")
            time.sleep(0.05)
        yield made
    finally:
        process.terminate()
        process.wait(10)
        log.close()


class Said(list[str]):
    """What is shown meanwhile."""

    def __call__(self, line: str) -> None:
        self.append(line)

    def __contains__(self, text: object) -> bool:
        return any(str(text) in line for line in self)


def test_it_copies_runs_and_fetches(
    bundle: Path, tmp_path: Path, server: Server, python: str
) -> None:
    said = Said()
    there = tmp_path / "a folder's place"
    target = server.target(there)
    results = run_over_ssh(
        bundle,
        target,
        python=python,
        options=server.options,
        arguments=["--name", "a box"],
        say=said,
    )
    assert results == bundle / f"results-127.0.0.1-{server.port}.jsonl"
    assert sorted(measured(results)) == ALL
    assert "copying" in said
    assert "measuring latency_ms: 27/27" in said
    (copied,) = there.iterdir()
    assert copied.name.startswith("mathnas-bundle-")
    with Study(tmp_path / "my.study", SPACE) as study:
        assert BundleImport.read(bundle, results).add_to(study).added == 27
        assert study.conditions("latency_ms")[0]["device"] == "a box"

    # again: nothing is copied, nothing is measured
    said.clear()
    before = results.read_bytes()
    run_over_ssh(
        bundle,
        target,
        python=python,
        options=server.options,
        arguments=["--name", "a box"],
        say=said,
    )
    assert results.read_bytes() == before
    assert "copying" not in said


@pytest.mark.parametrize("runner", [True, False], ids=["all-dies", "runner-goes-on"])
def test_a_connection_that_breaks_is_made_again(
    tmp_path: Path, server: Server, python: str, runner: bool
) -> None:
    folder, there = tmp_path / "made", tmp_path / "there"
    a_bundle(folder, timing=SLOW)
    said, broken = Said(), threading.Event()

    def breaks() -> None:
        while not broken.is_set():
            found = list(there.glob("*/results.jsonl"))
            if found and found[0].read_bytes().count(b"\n") >= 5:
                server.drop(runner=runner)
                broken.set()
            time.sleep(0.005)

    thread = threading.Thread(target=breaks)
    thread.start()
    try:
        results = run_over_ssh(
            folder, server.target(there), python=python, options=server.options, pause=0.1, say=said
        )
    finally:
        assert broken.is_set()
        thread.join()
    assert "Trying again in 0.1 s" in said
    assert sorted(measured(results)) == ALL
    runs = [line["kind"] for line in lines_of(results)].count("run")
    assert runs == 2 if runner else runs <= 2


def test_it_gives_up_and_says_where_things_are(
    bundle: Path, tmp_path: Path, server: Server, python: str
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = Said()
    with pytest.raises(EvaluationError, match=r"Connection refused.*stays in /there"):
        run_over_ssh(
            bundle,
            f"ssh://127.0.0.1:{port}/there",
            python=python,
            options=server.options,
            attempts=2,
            pause=0.01,
            say=said,
        )
    assert sum("Trying again" in line for line in list(said)) == 1


def test_what_was_fetched_is_kept_when_the_runner_fails(
    tmp_path: Path, server: Server, python: str
) -> None:
    """A tampered copy is noticed there and copied again; results that no longer fit are told."""
    folder, there = tmp_path / "made", tmp_path / "there"
    a_bundle(folder)
    options = {"python": python, "options": server.options, "say": Said()}
    results = run_over_ssh(folder, server.target(there), **options)  # type: ignore[arg-type]
    (copied,) = there.iterdir()
    (copied / "graphs" / "weights.bin").write_bytes(b"damaged")
    run_over_ssh(folder, server.target(there), **options)  # type: ignore[arg-type]
    assert (copied / "graphs" / "weights.bin").stat().st_size > 1000

    lines = (copied / "results.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (copied / "results.jsonl").write_text("".join([*lines[:3], *lines[4:]]), encoding="utf-8")
    with pytest.raises(
        FileFormatError, match=r"results-127.*-2.jsonl, line 4: the line, or one bef"
    ):
        run_over_ssh(folder, server.target(there), **options)  # type: ignore[arg-type]
    assert results.read_text(encoding="utf-8") == "".join(lines)


def test_results_that_are_gone_there_are_sent_along(
    tmp_path: Path, server: Server, python: str
) -> None:
    folder, there = tmp_path / "made", tmp_path / "there"
    a_bundle(folder)
    options = {"python": python, "options": server.options, "say": Said()}
    results = run_over_ssh(folder, server.target(there), **options)  # type: ignore[arg-type]
    shutil.rmtree(there)
    lines = results.read_bytes().splitlines(keepends=True)
    results.write_bytes(b"".join(lines[:10]) + lines[10][:7])
    run_over_ssh(folder, server.target(there), **options)  # type: ignore[arg-type]
    assert results.read_bytes().startswith(b"".join(lines[:10]))
    assert sorted(measured(results)) == ALL


def test_results_of_another_machine_are_not_overwritten(
    measured_bundle: Path, tmp_path: Path, server: Server, python: str
) -> None:
    said = Said()
    there, results = server.target(tmp_path / "there"), tmp_path / "mine.jsonl"
    options = {"python": python, "options": server.options, "say": said}
    run_over_ssh(measured_bundle, there, results, **options)  # type: ignore[arg-type]
    other = measured_bundle / "results.jsonl"
    before = other.read_bytes()
    run_over_ssh(measured_bundle, there, other, **options)  # type: ignore[arg-type]
    assert other.read_bytes() == before
    assert (measured_bundle / "results-2.jsonl").read_bytes() == results.read_bytes()
    assert "results.jsonl holds other measurements" in said


# ---- errors -------------------------------------------------------------------------------------


def test_a_key_that_is_not_known_there(bundle: Path, tmp_path: Path, server: Server) -> None:
    _keygen(tmp_path / "other")
    options = [f"IdentityFile={tmp_path / 'other'}", *server.options[1:]]
    with pytest.raises(EvaluationError, match=r"does not let us in .*ssh-copy-id"):
        run_over_ssh(bundle, server.target(tmp_path), options=options, say=Said())


def test_a_host_that_is_not_known_here(bundle: Path, tmp_path: Path, server: Server) -> None:
    options = [*server.options[:-1], f"UserKnownHostsFile={tmp_path / 'nobody'}"]
    with pytest.raises(EvaluationError, match=r"the host key of ssh://.* is not known"):
        run_over_ssh(bundle, server.target(tmp_path), options=options, say=Said())


def test_no_python_there(bundle: Path, tmp_path: Path, server: Server) -> None:
    with pytest.raises(MissingExtraError, match=r"but /no/python cannot be run \(.*--python"):
        run_over_ssh(
            bundle, server.target(tmp_path), python="/no/python", options=server.options, say=Said()
        )


def test_no_onnxruntime_there(
    bundle: Path, tmp_path: Path, server: Server, python: str, run: Run
) -> None:
    bare = f"{python} -S"
    options = [word for option in server.options for word in ("--ssh-option", option)]
    code, _, said = run("run-bundle", "made", server.target(tmp_path), "--python", bare, *options)
    assert code == 1
    assert "needs numpy and onnxruntime there" in said
    assert f"{bare} -m pip install numpy onnxruntime" in said


def test_no_ssh_here(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtraError, match="there is no ssh on the PATH"):
        run_over_ssh(bundle, "ssh://somewhere")


def test_a_bundle_that_was_changed_is_not_copied(bundle: Path) -> None:
    (bundle / "plan.json").unlink()
    with pytest.raises(FileFormatError, match=r"plan.json is listed in the manifest"):
        run_over_ssh(bundle, "ssh://somewhere")


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("ssh://box", SshTarget("box")),
        ("ssh://pi@box.local:2222/data/x", SshTarget("box.local", "pi", 2222, "/data/x")),
        ("ssh://[::1]:22/", SshTarget("::1", None, 22)),
    ],
)
def test_targets(text: str, target: SshTarget) -> None:
    assert SshTarget.parse(text) == target
    assert SshTarget.parse(str(target)) == target


@pytest.mark.parametrize(
    "text",
    [
        *("box", "ssh://", "http://box", "ssh://box:0", "ssh://box:99999", "ssh://a b"),
        # ssh would read these as options
        *("ssh://-oProxyCommand=x", "ssh://-l@box", "ssh://box;ls"),
    ],
)
def test_what_is_no_target(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"is written ssh://\[user@\]host"):
        SshTarget.parse(text)


# ---- as an evaluator -----------------------------------------------------------------------------


def remote(
    server: Server, folder: Path, there: Path, interpreter: str, **settings: object
) -> RemoteLatencyEvaluator:
    return RemoteLatencyEvaluator(
        model,
        SPACE,
        server.target(there),
        folder,
        timing=QUICK,
        noise=ONCE,
        accept_noise=True,
        together=2,
        python=interpreter,
        options=server.options,
        **settings,  # type: ignore[arg-type]
    )


def test_a_table_of_another_machine_is_built_from_here(
    server: Server, python: Path, tmp_path: Path
) -> None:
    there, bundles = tmp_path / "there", tmp_path / "bundles"
    evaluator = remote(server, bundles, there, str(python))
    with Study(tmp_path / "s", SPACE) as study:
        report = measure(study, [evaluator], minutes=2, target=10.0, networks=4)
        assert list(study.devices) == [evaluator.device.name]
        assert study.conditions("latency_ms") == [evaluator.conditions]
        assert report.metrics["latency_ms"].validation.networks.shape == (4, 3)
        # a bundle of the same networks is there already: nothing is measured again
        before = sorted(bundles.glob("*.jsonl"))
        again = remote(server, bundles, there, str(python))
        assert again.conditions == evaluator.conditions
        assert sorted(bundles.glob("*.jsonl")) == before


def test_networks_that_fail_there_do_not_cost_the_others(
    server: Server, python: Path, tmp_path: Path
) -> None:
    def with_a_bad_one(network: Network) -> bytes:
        if network != (0, 0, 1):
            return model(network)
        graph = onnx.load_from_string(model(network))
        graph.graph.node[-1].op_type = "NoSuchOperator"
        return bytes(graph.SerializeToString())

    evaluator = remote(server, tmp_path / "bundles", tmp_path / "there", str(python))
    evaluator.models = with_a_bad_one
    with Study(tmp_path / "s", SPACE) as study:
        report = evaluate(study, [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 0)], evaluator)
        assert [failure.network for failure in report.failures] == [(0, 0, 1)]
        assert "NoSuchOperator" in report.failures[0].error
        assert len(study) == 3
