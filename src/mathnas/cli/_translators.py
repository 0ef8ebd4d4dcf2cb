"""Translators on the command line: their vocabulary, loss and BLEU, and what runs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mathnas.cli._extras import needing
from mathnas.errors import InvalidInputError
from mathnas.space import Network, SearchSpace

if TYPE_CHECKING:
    from mathnas.nets.supertransformer import SuperTransformerNet
    from mathnas.nets.translation_engine import TranslationEngine
    from mathnas.nets.translator import Translator
    from mathnas.text.corpus import ParallelText
    from mathnas.text.evaluator import TranslationEvaluator
    from mathnas.text.vocabulary import Vocabulary

_OPTION = "vocabulary=FILE"
_BEAM = 4  # of translations; of latencies see TranslationEngine


def read_vocabulary(network: Path, path: Path | None, option: str) -> Vocabulary:
    """The vocabulary that is named, or that beside a network or a supernet.

    Args:
        option: how it is named, for errors.

    Raises:
        InvalidInputError: none is named, and none is there.
        FileFormatError: the file is damaged.
        MissingExtraError: sentencepiece is not installed, and the file needs it.
    """
    from mathnas.text.vocabulary import VOCABULARY_FILE, Vocabulary

    found = path or network.with_name(VOCABULARY_FILE)
    if path is None and not found.exists():
        raise InvalidInputError(
            f"there is no {VOCABULARY_FILE} beside {network.name}: name the vocabulary that it was "
            f"trained with, {option} (it is in the folder of the training)."
        )
    return Vocabulary.load(found)


def check_vocabulary(
    words: Vocabulary, size: int, notes: Mapping[str, object], option: str
) -> None:
    """Raises `InvalidInputError` where weights were not trained with a vocabulary.

    Args:
        size: tokens that the weights know.
        notes: of their file, which may tell the vocabulary.
        option: how another one is named, for errors.
    """
    if words.size != size:
        raise InvalidInputError(
            f"the network has {size} tokens, but the vocabulary has {words.size}: name the "
            f"one that it was trained with, {option}."
        )
    noted = notes.get("vocabulary")
    digest = noted.get("sha256") if isinstance(noted, dict) else None
    if digest not in (None, words.fingerprint):
        raise InvalidInputError(
            f"the network was trained with the vocabulary {str(digest)[:12]}, but this one is "
            f"{words.fingerprint[:12]}: name that one, {option}."
        )


@dataclass(frozen=True)
class SentenceChoice:
    """How translators are evaluated.

    Attributes:
        data: as `mathnas.text.corpus.open_parallel` takes it.
        vocabulary: its file; None: beside the supernet.
        count: random pairs, the same each time; None: all.
        test: the test part, even where others are held out.
        bleu: whether sentences are translated and scored, too.
        beam: of the translations.
        threads, together: of one evaluation, and networks that share work.
    """

    data: str
    vocabulary: Path | None = None
    count: int | None = None
    test: bool = False
    bleu: bool = False
    beam: int = _BEAM
    threads: int = 1
    together: int = 8


def translation_evaluator(
    path: Path, supernet: SuperTransformerNet, notes: Mapping[str, object], choice: SentenceChoice
) -> TranslationEvaluator:
    """Loss, and BLEU where it is asked for.

    Args:
        path: of the supernet.
        notes: of its file.

    Raises:
        InvalidInputError: there are no such sentences, or the vocabulary is another one.
        MissingDataError, FileFormatError: a file is not here, or damaged.
        MissingExtraError: what reads them is not installed.
    """
    with needing("evaluating translators", "text"):
        from mathnas.nets.beam_search import BeamSearch
        from mathnas.text.evaluator import ReferenceBleu, TranslationEvaluator
    words = read_vocabulary(path, choice.vocabulary, _OPTION)
    check_vocabulary(words, supernet.space.vocabulary, notes, _OPTION)
    text, part = _sentences(notes, choice)
    if choice.count is not None and choice.count < len(text):
        _, text = text.holdout(choice.count)
    evaluator = TranslationEvaluator(
        supernet,
        words.encode(text.source),
        words.encode(text.target),
        score=ReferenceBleu(text.target, words) if choice.bleu else None,
        search=BeamSearch(choice.beam),
        threads=choice.threads,
        batch_size=choice.together,
    )
    evaluator.conditions = {**evaluator.conditions, "data": f"{choice.data}, {part}"}
    return evaluator


def _sentences(notes: Mapping[str, object], choice: SentenceChoice) -> tuple[ParallelText, str]:
    """What is evaluated on, and where it comes from, in words."""
    from mathnas.text.corpus import has_part, is_parallel, open_parallel

    if not is_parallel(choice.data):
        raise InvalidInputError(
            f"translators are evaluated on sentence pairs, but {choice.data} is of images: name "
            "data=multi30k or data=text:TRAIN.src,TRAIN.tgt,VALID.src,VALID.tgt."
        )
    if choice.test:
        return open_parallel(choice.data, "test"), "test"
    if has_part(choice.data, "valid"):
        return open_parallel(choice.data, "valid"), "valid"
    count, seed = notes.get("held_out"), notes.get("held_out_seed")
    if notes.get("data") != choice.data or not isinstance(count, int) or count < 1:
        raise InvalidInputError(
            f"{choice.data} has no part to evaluate on, and none of it was held out of the "
            "training: name files to validate with, "
            "data=text:TRAIN.src,TRAIN.tgt,VALID.src,VALID.tgt."
        )
    training = open_parallel(choice.data, "train")
    _, kept = training.holdout(count, seed if isinstance(seed, int) else 0)
    return kept, "held out of the training pairs"


@dataclass(frozen=True)
class Translators:
    """A supernet's networks as a `TranslationEngine` takes them.

    Attributes:
        supernet: of the networks.
        engine: that runs them.
    """

    supernet: SuperTransformerNet
    engine: TranslationEngine

    @classmethod
    def of(
        cls, supernet: SuperTransformerNet, runtime: str, *, threads: int, beam: int | None
    ) -> Translators:
        """Sentences have the lengths that the space counts MACs at.

        Raises:
            InvalidInputError: translators do not run in this runtime.
        """
        from mathnas.nets.translation_engine import TranslationEngine

        space = supernet.space
        engine = TranslationEngine(
            runtime,
            threads,
            space.source,
            space.target,
            TranslationEngine().beam if beam is None else beam,
            space.vocabulary,
        )
        return cls(supernet, engine)

    @property
    def space(self) -> SearchSpace:
        return self.supernet.space

    def __call__(self, network: Network) -> Translator:
        module = self.supernet.extract(network)
        if self.engine.runtime == "torch":
            return module
        from mathnas.nets.translation_graphs import OnnxTranslator, TranslationGraphs

        graphs = TranslationGraphs.export(module, beam=self.engine.beam)
        return OnnxTranslator(graphs, threads=self.engine.threads)
