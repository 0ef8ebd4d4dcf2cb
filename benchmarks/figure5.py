"""Figure 5 of the paper (SuperViT on ImageNet), with what can be recomputed.

    python benchmarks/figure5.py

1. MACs and parameters of MathNAS-T1 to T5, counted from their public configurations. Parameters in
   three conventions: of the extracted network, of all sliced layers, and as publications count them
   (see `mathnas.spaces.supervit.Costs`). Accuracies are copied from the paper's print.
2. The peers, as published; docs/supernets.md tells from where.
3. Which peers have a top-1 at least as high with no more MACs. This compares prints: accuracies
   come from different trainings, and none was measured here.

Nothing is drawn at random.
"""

from __future__ import annotations

from dataclasses import dataclass

from _columns import lines
from _machine import header
from mathnas.spaces import SuperViT
from mathnas.spaces.supervit import PUBLISHED


@dataclass(frozen=True)
class Printed:
    """MACs and parameters in millions, accuracies in percent, as published."""

    macs: float
    params: float | None
    top1: float
    top5: float | None = None


OURS = {
    "T1": Printed(200, 8.9, 78.4, 93.5),
    "T2": Printed(325, 9.3, 79.6, 94.3),
    "T3": Printed(671, 13.6, 81.3, 95.1),
    "T4": Printed(1101, 14.4, 82.0, 95.7),
    "T5": Printed(1476, 14.8, 82.5, 95.8),
}
PEERS = {
    "NASViT A0": Printed(208, None, 78.2),
    "NASViT A1": Printed(309, None, 79.7),
    "NASViT A2": Printed(421, None, 80.5),
    "NASViT A3": Printed(528, None, 81.0),
    "NASViT A4": Printed(591, None, 81.4),
    "NASViT A5": Printed(757, None, 81.8),
    "LeViT-256": Printed(1120, 19, 81.6),
    "LeViT-384": Printed(2353, 39, 82.6),
    "Swin-T": Printed(4500, 29, 81.3),
    "AutoFormer-small": Printed(5100, 22.9, 81.7),
}


def millions(count: float) -> str:
    return f"{count / 1e6:.3f}"


def recomputed() -> dict[str, float]:
    """Prints the networks; MACs of each, in millions."""
    rows = [
        [
            *("network", "resolution", "MACs", "as printed"),
            *("extracted", "sliced", "as publications count", "as printed", "top-1", "top-5"),
        ]
    ]
    macs = {}
    for name, config in PUBLISHED.items():
        space, printed = SuperViT(config["resolution"]), OURS[name]
        network = space.from_config(**config)
        costs = space.costs(network)
        assert space.macs([network]) == costs.macs  # the search's sum of blocks and pairs
        macs[name] = costs.macs / 1e6
        rows.append(
            [
                *(name, str(space.resolution), millions(costs.macs), f"{printed.macs:g}"),
                *(millions(costs.params), millions(costs.sliced_params)),
                *(millions(costs.published_params), f"{printed.params:g}"),
                *(f"{printed.top1:.1f}", f"{printed.top5:.1f}"),
            ]
        )
    print(lines(rows))
    return macs


def peers() -> None:
    rows = [["network", "MACs", "params", "top-1"]]
    for name, own in PEERS.items():
        params = "not given" if own.params is None else f"{own.params:g}"
        rows.append([name, f"{own.macs:g}", params, f"{own.top1:.1f}"])
    print(lines(rows))


def beaten_by(macs: float, top1: float) -> list[str]:
    """Peers at least as accurate with no more MACs."""
    return [name for name, own in PEERS.items() if own.top1 >= top1 and own.macs <= macs]


def main() -> None:
    print(header("none"))
    print(
        "\n1. MathNAS-T1 to T5: MACs and parameters (M) recomputed, beside the printed ones; top-1 "
        "and\n   top-5 (%) as published\n"
    )
    macs = recomputed()
    print("\n2. Peers: MACs and parameters (M), top-1 (%), all as published\n")
    peers()
    print("\n3. Peers with a top-1 at least as high and no more MACs, by these figures\n")
    for name, value in macs.items():
        print(f"{name}  {', '.join(beaten_by(value, OURS[name].top1)) or 'none'}")


if __name__ == "__main__":
    main()
