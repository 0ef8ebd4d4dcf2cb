"""Sentence pairs to train a supernet for translation on."""

from __future__ import annotations

from pathlib import Path

from mathnas.errors import InvalidInputError
from mathnas.text.batches import LONGEST, TokenBatches
from mathnas.text.corpus import ParallelText, has_part, open_parallel
from mathnas.text.held_out import HeldOutSentences
from mathnas.text.vocabulary import VOCABULARY_FILE, Vocabulary
from mathnas.training.config import TrainingConfig
from mathnas.training.data import TrainingData
from mathnas.training.processes import Processes

VOCABULARY_SIZE = 8_000
_EVALUATED = 2_000  # held-out pairs of an evaluation on the way


def translation_data(
    text: str,
    config: TrainingConfig,
    processes: Processes,
    *,
    folder: Path | None = None,
    vocabulary_size: int | None = None,
) -> TrainingData:
    """Sentence pairs as batches of tokens; a class is a token of the vocabulary.

    The vocabulary is the one that the configuration names; otherwise one is learned from the
    sentences that are trained on. It is kept in the folder, as `VOCABULARY_FILE`, from which
    training that goes on reads it again.

    Args:
        text: as `mathnas.text.corpus.open_parallel` takes it. Held out is its part ``valid``, or
            where it has none as many of the training pairs as the configuration says; of more than
            2,000 pairs, 2,000 are evaluated.
        config: its ``batch_size`` counts tokens, of sources and of targets each.
        folder: of the training.
        vocabulary_size: that of the supernet; None: `VOCABULARY_SIZE`, or that of the vocabulary
            that is given.

    Raises:
        InvalidInputError: there is no such text, or it does not fit the configuration; or the
            vocabulary has another size, or is another one than the folder's.
        MissingDataError, FileFormatError: files are not here, or damaged.
        MissingExtraError: what reads them is not installed.
    """
    training, kept = _parts(text, config)
    vocabulary = _vocabulary(training, config, processes, folder, vocabulary_size)
    batches = TokenBatches(
        *_encoded(training, vocabulary),
        config.batch_size,
        seed=config.seed,
        rank=processes.rank,
        world=processes.world,
    )
    held_out = None
    if kept is not None:
        if len(kept) > _EVALUATED:
            _, kept = kept.holdout(_EVALUATED, config.seed)
        held_out = HeldOutSentences.of(*_encoded(kept, vocabulary))
    notes: dict[str, object] = {
        "vocabulary": {
            "file": VOCABULARY_FILE,
            "sha256": vocabulary.fingerprint,
            "size": vocabulary.size,
        },
        "languages": list(training.languages),
        "longest_sentence": LONGEST,
        "sentences": {"trained": len(training), "cut": batches.cut, "empty": training.dropped},
        "held_out": 0 if has_part(text, "valid") else config.held_out,
        "held_out_seed": config.seed,
    }
    return TrainingData(
        text, batches, vocabulary.size, held_out=held_out, notes=notes, samples="tokens"
    )


def _parts(text: str, config: TrainingConfig) -> tuple[ParallelText, ParallelText | None]:
    """What is trained on, and what is evaluated with."""
    training = open_parallel(text, "train")
    if has_part(text, "valid"):
        return training, open_parallel(text, "valid")
    if config.held_out >= len(training):
        raise InvalidInputError(
            f"{text} has {len(training)} pairs and no part to validate on, but held_out is "
            f"{config.held_out}: hold out fewer of them (held_out=0: none), or name files to "
            "validate with, text:TRAIN.src,TRAIN.tgt,VALID.src,VALID.tgt."
        )
    if config.held_out:
        return training.holdout(config.held_out, config.seed)
    return training, None


def _encoded(text: ParallelText, vocabulary: Vocabulary) -> tuple[list[list[int]], list[list[int]]]:
    return vocabulary.encode(text.source), vocabulary.encode(text.target)


def _vocabulary(
    training: ParallelText,
    config: TrainingConfig,
    processes: Processes,
    folder: Path | None,
    size: int | None,
) -> Vocabulary:
    """That of the folder, where it is kept if it was not there."""
    given = None if config.vocabulary is None else _read(Path(config.vocabulary).expanduser())
    wanted = size if size is not None or given is None else given.size

    if given is not None:
        _check_size(given, wanted, str(config.vocabulary))

    def made() -> Vocabulary:
        return given or _learned(training, wanted)

    if folder is None:
        found, where = made(), config.vocabulary or "the vocabulary"
    else:
        path = folder / VOCABULARY_FILE
        if processes.first and not path.exists():
            made().save(path)
        processes.wait()
        found, where = Vocabulary.load(path), str(path)
        if given is not None and given.fingerprint != found.fingerprint:
            raise InvalidInputError(
                f"a training keeps its vocabulary, but {where} is another one than "
                f"{config.vocabulary}: name another folder."
            )
    _check_size(found, wanted, where)
    return found


def _learned(training: ParallelText, size: int | None) -> Vocabulary:
    try:
        return Vocabulary.learn(training.lines(), size or VOCABULARY_SIZE)
    except InvalidInputError as error:
        if size is None:
            raise
        raise InvalidInputError(f"{error} The size is that of the supernet's space.") from error


def _check_size(vocabulary: Vocabulary, wanted: int | None, where: str) -> None:
    if wanted is not None and vocabulary.size != wanted:
        raise InvalidInputError(
            f"a supernet has an output for every token of the vocabulary, but this one has "
            f"{wanted}, and {where} has {vocabulary.size}: make a supernet of that size, or name "
            "another vocabulary or folder."
        )


def _read(path: Path) -> Vocabulary:
    """A dictionary of fairseq's by its suffix, or what `Vocabulary.save` wrote."""
    return Vocabulary.given(path) if path.suffix == ".txt" else Vocabulary.load(path)
