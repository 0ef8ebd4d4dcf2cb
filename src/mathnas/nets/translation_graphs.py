"""A translation network as two ONNX graphs: the encoder, and one step of the decoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from mathnas._files import replacing
from mathnas.devices.onnxruntime import session_options
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.nets.agreement import TOLERANCE, check_agreement
from mathnas.nets.onnx_export import exported
from mathnas.nets.supertransformer import DecoderState, SubTransformer
from mathnas.tokens import END

_EXAMPLE = (7, 11)  # lengths of a source that is exported with, and of one that is checked with
_PARTS = (".encoder", ".step")
_PAST = 3
_STEPS = 3


@dataclass(frozen=True)
class TranslationGraphs:
    """Graphs for one sentence at a time, of any length.

    Attributes:
        encoder: ``source`` (1, tokens) to ``cross_key0``, ``cross_value0``, ...: what each decoder
            layer attends to, shape (1, heads, time, channels a head).
        step: ``tokens`` (1, beam), those, and ``own_key0``, ``own_value0``, ... of the tokens so
            far, shape (beam, heads, tokens, channels a head), to ``logits`` (1, beam, vocabulary)
            and the longer ``next_key0``, ``next_value0``, ...
        beam: targets at a time.
    """

    encoder: onnx.ModelProto
    step: onnx.ModelProto
    beam: int

    @classmethod
    def export(
        cls, network: SubTransformer, *, beam: int = 4, tolerance: float = TOLERANCE
    ) -> TranslationGraphs:
        """Export a network, and compare steps of both graphs in onnxruntime with it.

        Args:
            network: in evaluation mode, on the processor.
            tolerance: largest difference, relative to the largest output.

        Raises:
            ExportError: graphs and network disagree.
            InvalidInputError: the beam is below 1, or the network is in training mode.
        """
        if beam < 1:
            raise InvalidInputError(f"a beam holds at least 1 target, but got {beam}.")
        source = _sentence(network, _EXAMPLE[0])
        layers = len(network.decoder_choices)
        time = torch.export.Dim("source", min=2)
        cross_names, own_names = _names("cross", layers), _names("own", layers)
        encoder = exported(
            _Encoder(network).eval(), (source,), ["source"], cross_names, open_shapes=({1: time},)
        )
        state = network.start(network.encode(source), beam)
        tokens = torch.full((1, beam), END)
        for _ in range(_PAST):
            _, state = network.step(tokens, state)
        cross, own = (tuple(_flat(pairs)) for pairs in (state.cross, state.own))
        past = torch.export.Dim("past", min=0)
        # a layer attends to one, two or three times the source: the graph need not know
        open_cross = tuple({2: torch.export.Dim(f"time{place}", min=2)} for place in range(layers))
        step = exported(
            _Step(network).eval(),
            (tokens, cross, own),
            ["tokens", *cross_names, *own_names],
            ["logits", *_names("next", layers)],
            open_shapes=(
                None,
                tuple(shape for shape in open_cross for _ in range(2)),
                tuple({2: past} for _ in own),
            ),
        )
        found = cls(encoder, step, beam)
        found._compare(network, tolerance)
        return found

    def write(self, path: str | Path) -> tuple[Path, Path]:
        """Write ``NAME.encoder.onnx`` and ``NAME.step.onnx`` beside `path`, ``.../NAME.onnx``.

        Raises:
            FileFormatError: a file cannot be written.
        """
        paths = graph_paths(path)
        for place, graph in zip(paths, (self.encoder, self.step), strict=True):
            with replacing(place) as temporary:
                temporary.write_bytes(graph.SerializeToString())
        return paths

    def _compare(self, network: SubTransformer, tolerance: float) -> None:
        translator = OnnxTranslator(self)
        source = _sentence(network, _EXAMPLE[1])
        tokens = torch.full((1, self.beam), END)
        with torch.inference_mode():
            state = network.start(network.encode(source), self.beam)
            other = translator.start(translator.encode(source), self.beam)
            for _ in range(_STEPS):
                expected, state = network.step(tokens, state)
                logits, other = translator.step(tokens, other)
                check_agreement(
                    logits, expected, "graphs of a translator and its module", tolerance=tolerance
                )
                tokens = expected.argmax(2)
                state, other = (one.of_targets(_mixed(self.beam)) for one in (state, other))


class OnnxTranslator:
    """A translation network in onnxruntime: what `SubTransformer` offers, one sentence at a time.

    Args:
        graphs: of a network.
        threads: of onnxruntime, inside one operator.

    Attributes:
        beam: targets at a time.
        words: size of the vocabulary.
    """

    def __init__(self, graphs: TranslationGraphs, *, threads: int = 1) -> None:
        self.beam = graphs.beam
        self._encoder = _session(graphs.encoder, threads)
        self._step = _session(graphs.step, threads)
        (logits,) = (found for found in self._step.get_outputs() if found.name == "logits")
        self.words = int(logits.shape[-1])
        self._shapes = [
            (given.shape[1], given.shape[3])
            for given in self._step.get_inputs()
            if given.name.startswith("own_")
        ]

    @classmethod
    def load(cls, path: str | Path, *, threads: int = 1) -> OnnxTranslator:
        """The files that `TranslationGraphs.write` wrote.

        Raises:
            FileFormatError: one is missing or no graph.
        """
        graphs = []
        for place in graph_paths(path):
            try:
                graphs.append(onnx.load(place, load_external_data=False))
            except OSError as error:
                raise FileFormatError(
                    f"{place} cannot be read: {error.strerror or error}. A translator is two "
                    "graphs, which TranslationGraphs.write writes."
                ) from error
            except Exception as error:  # protobuf's own kinds
                raise FileFormatError(f"{place} cannot be read as a graph: {error}.") from error
        (tokens,) = (given for given in graphs[1].graph.input if given.name == "tokens")
        beam = int(tokens.type.tensor_type.shape.dim[1].dim_value)
        return cls(TranslationGraphs(graphs[0], graphs[1], beam), threads=threads)

    def encode(self, source: Tensor) -> tuple[Tensor, ...]:
        """A source sentence, token ids of shape (1, source), without padding."""
        if len(source) != 1:
            raise InvalidInputError(
                f"graphs translate one sentence at a time, but got {len(source)}."
            )
        return self._run(self._encoder, {"source": source})

    def start(self, memory: tuple[Tensor, ...], beam: int = 1) -> DecoderState:
        """As `SubTransformer.start`, for the beam of the graphs."""
        if beam != self.beam:
            raise InvalidInputError(
                f"these graphs are for a beam of {self.beam}, but {beam} targets were asked for."
            )
        own = [torch.zeros(beam, heads, 0, size) for heads, size in self._shapes]
        return DecoderState(_paired(memory), None, _paired(tuple(own)))

    def step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """As `SubTransformer.step`."""
        layers = len(state.own)
        given = {"tokens": tokens}
        given |= zip(_names("cross", layers), _flat(state.cross), strict=True)
        given |= zip(_names("own", layers), _flat(state.own), strict=True)
        logits, *own = self._run(self._step, given)
        return logits, DecoderState(state.cross, state.real, _paired(tuple(own)))

    @staticmethod
    def _run(session: onnxruntime.InferenceSession, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
        feeds = {name: tensor.contiguous().numpy() for name, tensor in given.items()}
        return tuple(torch.from_numpy(array) for array in session.run(None, feeds))


def graph_paths(path: str | Path) -> tuple[Path, Path]:
    """The two files of ``.../NAME.onnx``.

    Raises:
        InvalidInputError: the path has another ending.
    """
    place = Path(path)
    encoder, step = (place.with_suffix(f"{part}.onnx") for part in _PARTS)
    if place.suffix != ".onnx" or place.stem.endswith(_PARTS):
        raise InvalidInputError(
            "a translator's two graphs are named together, NAME.onnx for NAME.encoder.onnx and "
            f"NAME.step.onnx, but got {place.name!r}."
        )
    return encoder, step


class _Encoder(nn.Module):
    """Source to what the decoder layers attend to."""

    def __init__(self, network: SubTransformer) -> None:
        super().__init__()
        self.network = network

    def forward(self, source: Tensor) -> tuple[Tensor, ...]:
        return tuple(_flat(self.network.start(self.network.encode(source)).cross))


class _Step(nn.Module):
    """A step, with its state as tensors."""

    def __init__(self, network: SubTransformer) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, tokens: Tensor, cross: tuple[Tensor, ...], own: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        state = DecoderState(_paired(cross), None, _paired(own))
        logits, state = self.network.step(tokens, state)
        return (logits, *_flat(state.own))


def _names(kind: str, layers: int) -> list[str]:
    return [f"{kind}_{what}{place}" for place in range(layers) for what in ("key", "value")]


def _flat(pairs: tuple[tuple[Tensor, Tensor], ...]) -> Iterator[Tensor]:
    for pair in pairs:
        yield from pair


def _paired(tensors: tuple[Tensor, ...]) -> tuple[tuple[Tensor, Tensor], ...]:
    return tuple(zip(tensors[::2], tensors[1::2], strict=True))


def _sentence(network: SubTransformer, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    words = network.encoder.embed_tokens.num_embeddings
    source = torch.randint(END + 1, words, (1, length), generator=generator)
    source[0, -1] = END
    return source


def _mixed(beam: int) -> Tensor:
    return torch.arange(beam).flip(0)


def _session(graph: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(
        graph.SerializeToString(), session_options(threads), providers=["CPUExecutionProvider"]
    )
