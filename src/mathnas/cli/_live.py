"""What a dynamic network does, drawn in the terminal while it serves."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mathnas.metrics import Metric
from mathnas.runtime.policy import Reason
from mathnas.runtime.serving import Server
from mathnas.runtime.status import Status
from mathnas.space import BlockNode, Network, SearchSpace, network_text

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 60  # runs in the sparkline


class LiveView:
    """Deadline, latency, network, switches and expected quality; use it as a context.

    Args:
        server: what is shown.
        space: of its networks.
        quality: the metric that networks are expected to be good in; None: not shown.
        console: by default the terminal of standard error.
    """

    def __init__(
        self,
        server: Server,
        space: SearchSpace,
        quality: Metric | None = None,
        console: Console | None = None,
    ) -> None:
        self._server, self._space, self._quality = server, space, quality
        # drawn when `refresh` is called: a thread of its own would disturb the runs more
        self._live = Live(
            console=console or Console(stderr=True), auto_refresh=False, transient=False
        )

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.refresh()
        self._live.stop()

    def refresh(self) -> None:
        """Draw what is so now."""
        status, latencies = self._server.status, self._server.latencies_ms
        self._live.update(drawn(status, latencies, self._space, self._quality), refresh=True)


def drawn(
    status: Status, latencies: Sequence[float], space: SearchSpace, quality: Metric | None
) -> Group:
    """A status as lines of text."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    if status.deadline_ms is not None:
        table.add_row("deadline", f"{status.deadline_ms:.4g} ms")
    shown = latencies[-_WIDTH:]
    latency = "" if status.latency_ms is None else f"{status.latency_ms:.4g} ms "
    table.add_row("latency", Text(latency).append_text(sparkline(shown, status.deadline_ms)))
    row = Text(blocks(status.network, space), style="bold")
    table.add_row("network", row.append(f"  {network_text(status.network)}", style="not bold"))
    if quality is not None and status.quality is not None:
        mean = (
            "" if status.mean_quality is None else f", mean {quality.format(status.mean_quality)}"
        )
        table.add_row(f"{quality.name} expected", f"{quality.format(status.quality)}{mean}")
    table.add_row(
        "switches",
        f"{status.switches} of {status.changed} blocks, among {len(status.networks)} networks",
    )
    table.add_row("runs", f"{status.runs}, {status.misses} late{_share(status)}")
    table.add_row("queue", f"{status.queue} wait, {status.refused} refused")
    notes = []
    if status.reason is Reason.UNREACHABLE:
        notes.append(Text("no network meets the goal: the fastest serves", style="bold red"))
    if status.failures or status.faults:
        last = "" if status.last_fault is None else f": {status.last_fault}"
        notes.append(
            Text(f"{status.failures} runs failed, {status.faults} other faults{last}", style="red")
        )
    return Group(table, *notes)


def sparkline(values: Sequence[float], limit: float | None) -> Text:
    """One bar a value, on a scale from 0 to the largest of them and of the limit; red above it."""
    top = max([*values, limit or 0.0], default=0.0)
    line = Text()
    for value in values:
        level = round(value / top * (len(_BARS) - 1)) if top > 0 else 0
        late = limit is not None and value > limit
        line.append(_BARS[level], style="red" if late else "green")
    return line


def blocks(network: Network, space: SearchSpace) -> str:
    """A network as one bar a node: the more MACs its block has among the node's, the higher; where
    they are not known, the higher its index."""
    return "".join(
        _BARS[round(_rank(node, block) * (len(_BARS) - 1))]
        for node, block in zip(space.nodes, network, strict=True)
    )


def _rank(node: BlockNode, block: int) -> float:
    """Where a block stands among those of its node, from 0 to 1."""
    macs = [candidate.macs for candidate in node.blocks]
    order = sorted(range(len(macs)), key=lambda j: (0.0 if None in macs else macs[j] or 0.0, j))
    return order.index(block) / max(1, len(order) - 1)


def _share(status: Status) -> str:
    return f" ({100 * status.misses / status.runs:.2f} %)" if status.runs else ""
