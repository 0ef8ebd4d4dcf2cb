"""``mathnas translate``."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mathnas._progress import progress_bar
from mathnas._records import write_text
from mathnas.cli._extras import needing
from mathnas.cli._options import AsJson, at_least_one, print_json, progress_of
from mathnas.cli._translators import check_vocabulary, read_vocabulary
from mathnas.errors import FileFormatError, InvalidInputError

if TYPE_CHECKING:
    from mathnas.nets.beam_search import BeamSearch, Hypothesis
    from mathnas.nets.translator import Translator
    from mathnas.text.vocabulary import Vocabulary

_AT_ONCE = 64  # sentences between two moves of the progress bar
_VOCABULARY = "--vocabulary FILE"
_KINDS = (".safetensors", ".onnx")


def register(app: typer.Typer) -> None:
    app.command(
        "translate",
        help="Translate a text file, one sentence a line, with a network that mathnas extracted.",
        epilog="Examples:\n\n"
        "mathnas translate net.safetensors news.en -o news.de\n\n"
        "mathnas translate net.safetensors test.en --references test.de --beam 5\n\n"
        "echo 'A dog runs.' | mathnas translate net.onnx - --vocabulary vocabulary.model",
    )(translate)


def translate(
    network: Annotated[
        Path,
        typer.Argument(
            metavar="NETWORK",
            help="NAME.safetensors of `mathnas extract`, or NAME.onnx, for the graphs "
            "NAME.encoder.onnx and NAME.step.onnx.",
        ),
    ],
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="A UTF-8 file, may be .gz; - reads the input.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Instead of standard output."),
    ] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            "--vocabulary",
            metavar="FILE",
            help="That the network was trained with; by default vocabulary.model beside it.",
        ),
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(
            "--references", metavar="FILE", help="Translations to compare with: tells BLEU."
        ),
    ] = None,
    beam: Annotated[
        int, typer.Option("--beam", help="Partial translations that are kept; 1 is greedy.")
    ] = 4,
    length_penalty: Annotated[
        float, typer.Option("--length-penalty", help="More favours longer translations.")
    ] = 0.6,
    threads: Annotated[int, typer.Option("--threads", help="Inside one operator.")] = 1,
    as_json: AsJson = False,
) -> None:
    with needing("translating", "text"):
        from mathnas._threads import torch_threads
        from mathnas.nets.beam_search import BeamSearch
        from mathnas.text._lines import lines_of
        from mathnas.text.bleu import bleu, bootstrap
        from mathnas.text.corpus import read_sentences
    at_least_one("--threads", threads)
    search = BeamSearch(beam, length_penalty)
    known = _Network.read(network, vocabulary, beam, threads)
    sentences = (
        list(lines_of(sys.stdin.buffer, "the input")) if text == "-" else read_sentences(Path(text))
    )
    expected = None if references is None else read_sentences(references)
    if expected is not None and len(expected) != len(sentences):
        raise InvalidInputError(
            f"there is a reference for every sentence, but {references} has {len(expected)} lines "
            f"and {text} has {len(sentences)}."
        )
    began = time.perf_counter()
    with torch_threads(threads):
        found = _translated(known, sentences, search, progress_of(as_json))
    seconds = time.perf_counter() - began
    words = [known.vocabulary.decode(one.tokens) for one in found]
    score = None if expected is None else bleu(words, expected)
    if output is not None:
        write_text(output, "".join(f"{line}\n" for line in words))
    if as_json:
        record: dict[str, object] = {
            "sentences": len(words),
            "seconds": seconds,
            "output": None if output is None else str(output),
            "translations": [
                {"text": line, "score": one.score, "tokens": len(one.tokens)}
                for line, one in zip(words, found, strict=True)
            ],
        }
        if score is not None:
            sure = bootstrap(score)
            record["bleu"] = {
                "value": score.score,
                "standard_error": sure.standard_error,
                "signature": score.signature,
            }
        print_json(record)
        return
    if output is None:
        for line in words:
            typer.echo(line)
    told = f"{len(words)} sentences in {seconds:.1f} s"
    typer.echo(told + (f"; written: {output}" if output is not None else ""), err=True)
    if score is not None:
        typer.echo(f"BLEU {bootstrap(score)}; {score.signature}", err=True)


@dataclass(frozen=True)
class _Network:
    """What translates, in which words.

    Attributes:
        translator: in evaluation mode.
        vocabulary: of both languages.
        one_by_one: whether it takes one sentence at a time.
    """

    translator: Translator
    vocabulary: Vocabulary
    one_by_one: bool

    @classmethod
    def read(cls, path: Path, vocabulary: Path | None, beam: int, threads: int) -> _Network:
        """
        Raises:
            InvalidInputError: the file is no translator, or was trained with another vocabulary.
            FileFormatError: a file is missing or damaged.
            MissingExtraError: what reads it is not installed.
        """
        if path.suffix not in _KINDS:
            raise InvalidInputError(
                f"a network that translates is NAME{' or NAME'.join(_KINDS)}, but got "
                f"{str(path)!r}: cut one out of its supernet with mathnas extract."
            )
        words = read_vocabulary(path, vocabulary, _VOCABULARY)
        if path.suffix == ".onnx":
            with needing("graphs", "onnx"):
                from mathnas.nets.translation_graphs import OnnxTranslator
            graphs = OnnxTranslator.load(path, threads=threads)
            if graphs.beam != beam:
                raise InvalidInputError(
                    f"these graphs were exported for a beam of {graphs.beam}: give --beam "
                    f"{graphs.beam}, or export others."
                )
            check_vocabulary(words, graphs.words, {}, _VOCABULARY)
            return cls(graphs, words, True)
        from mathnas.nets.extracted import read_extracted
        from mathnas.nets.supertransformer import SubTransformer

        try:
            extracted = read_extracted(path)
        except FileFormatError as error:
            if not _is_supernet(path):
                raise
            raise InvalidInputError(
                f"one network translates, but {path} is a supernet: cut one out of it, mathnas "
                f"extract --supernet {path} --network ... -o {path.with_name('net.safetensors')}."
            ) from error
        module = extracted.module
        if not isinstance(module, SubTransformer):
            raise InvalidInputError(
                f"{path} holds a network of {extracted.space.name}, which does not translate."
            )
        size = module.encoder.embed_tokens.num_embeddings
        check_vocabulary(words, size, extracted.notes, _VOCABULARY)
        return cls(module, words, False)


def _is_supernet(path: Path) -> bool:
    from mathnas.nets.files import supernet_notes

    try:
        supernet_notes(path)
    except FileFormatError:
        return False
    return True


def _translated(
    known: _Network, sentences: Sequence[str], search: BeamSearch, show: bool | None
) -> list[Hypothesis]:
    from mathnas.nets.beam_search import translations

    ids = known.vocabulary.encode(sentences)
    found: list[Hypothesis] = []
    with progress_bar("translating", len(ids), show) as bar:
        for start in range(0, len(ids), _AT_ONCE):
            part = ids[start : start + _AT_ONCE]
            tokens = 1 if known.one_by_one else 4096
            found += translations(known.translator, part, search, tokens_at_once=tokens)
            bar.advance(len(part))
    return found
