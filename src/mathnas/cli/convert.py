"""``mathnas convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mathnas.cli._extras import needing
from mathnas.cli._options import AsJson, print_json
from mathnas.errors import InvalidInputError


def register(app: typer.Typer) -> None:
    app.command(
        "convert",
        help="Make a supernet file of public weights, which the other commands read: a "
        "once-for-all MobileNetV3, a weight-sharing network of NAS-Bench-201, a SuperTransformer "
        "of HAT, or NASViT's SuperViT (whose licence forbids commercial use). Nothing in the "
        "checkpoint is run, and every tensor must be one of that supernet.",
        epilog="Examples:\n\n"
        "mathnas convert ofa_mbv3_d234_e346_k357_w1.2 --kind once-for-all -o ofa.safetensors\n\n"
        "mathnas convert HAT_wmt14ende_super_space0.pt --kind hat "
        "--space supertransformer:positions=640 -o hat.safetensors\n\n"
        "mathnas convert ckpt_360.pth --kind nasvit --resolution 224 -o nasvit224.safetensors",
    )(convert)


def convert(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A file of torch.save, or safetensors.")
    ],
    output: Annotated[
        Path, typer.Option(*("--output", "-o"), metavar="FILE.safetensors", help="What is written.")
    ],
    kind: Annotated[
        str,
        typer.Option(metavar="KIND", help="Whose it is: once-for-all, nasbench201, hat or nasvit."),
    ] = "once-for-all",
    resolution: Annotated[
        int | None,
        typer.Option(help="Side of the images, pixels, where the weights do not tell it."),
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(
            metavar="SPACE",
            help="Of a SuperTransformer's networks, no wider than the weights; by default as wide.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="What it was trained on, as later commands read it: folder:PATH, cifar10, ...",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    if output.exists():
        raise InvalidInputError(f"{output} is there already: name another file, or remove it.")
    with needing("supernets", "train"):
        from mathnas.images.known import preprocessing_for
        from mathnas.nets.families import space_named
        from mathnas.nets.files import save_supernet
        from mathnas.nets.public import PUBLIC
    if kind not in PUBLIC:
        raise InvalidInputError(f"checkpoints are of {', '.join(PUBLIC)}, but got {kind!r}.")
    supernet = PUBLIC[kind](checkpoint, resolution, None if space is None else space_named(space))
    notes: dict[str, object] = {"checkpoint": checkpoint.name}
    if supernet.vocabulary_size is None:
        preprocessing = preprocessing_for(data or "")
        if supernet.resolution is not None:
            preprocessing = preprocessing.at(supernet.resolution)
        notes["preprocessing"] = preprocessing.to_dict()
    if data is not None:
        notes["data"] = data
    save_supernet(output, supernet, notes=notes)
    tensors = len(supernet.state_dict())
    if as_json:
        print_json({"file": str(output), "space": supernet.space.name, "tensors": tensors})
    else:
        typer.echo(f"{tensors} tensors of {supernet.space.name}\nwritten: {output}")
