"""Subword vocabularies: sentences to ids and back, one vocabulary for both languages."""

from __future__ import annotations

import hashlib
import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from mathnas._files import replacing
from mathnas._records import Record, check_header, shown
from mathnas.errors import FileFormatError, InvalidInputError, MissingExtraError
from mathnas.text._bpe import VERSIONS, BytePairs, joined, read_codes
from mathnas.text._lines import read_lines
from mathnas.tokens import END, PAD, START, UNKNOWN

# as in fairseq, whose dictionaries do not list them
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")

VOCABULARY_FILE = "vocabulary.model"
"""Its name in the folder of a training, and beside networks that were extracted."""
_FORMAT, _VERSION = "mathnas-vocabulary", 1
_MAX_BYTES = 64 * 2**20
_LONGEST_LINE = 2**16  # bytes; longer lines are no sentences to learn from


class Vocabulary(ABC):
    """Subwords with ids: ``<s>`` is 0, ``<pad>`` 1, ``</s>`` 2, ``<unk>`` 3, as in fairseq.

    One is *learned* from text (`learn`), with sentencepiece, or *given* (`given`): a dictionary of
    fairseq's with codes of subword-nmt. Both are kept in a file (`save`, `load`).
    """

    @property
    @abstractmethod
    def size(self) -> int:
        """How many ids there are, the four special ones included."""

    @abstractmethod
    def encode(self, sentences: Sequence[str]) -> list[list[int]]:
        """The ids of each sentence, ``</s>`` at the end of each; text never gives ``<s>``,
        ``<pad>`` or a ``</s>`` of its own.

        Raises:
            MissingExtraError: sentencepiece is not installed.
        """

    def decode(self, ids: Iterable[int]) -> str:
        """The sentence of ids: what comes before the first ``</s>``, without ``<pad>``, as words.

        Raises:
            InvalidInputError: an id is not in the vocabulary.
            MissingExtraError: sentencepiece is not installed.
        """
        chosen: list[int] = []
        for each in map(int, ids):
            if not 0 <= each < self.size:
                raise InvalidInputError(
                    f"ids of this vocabulary are 0 to {self.size - 1}, but got {each}: was the "
                    "sentence made with another vocabulary?"
                )
            if each == END:
                break
            if each not in (START, PAD):
                chosen.append(each)
        return self._text(chosen)

    @abstractmethod
    def _text(self, ids: list[int]) -> str:
        """Ids, none of them special but ``<unk>``, as words."""

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the content, in hexadecimal: of the file that `save` writes."""
        return hashlib.sha256(self._content()).hexdigest()

    @abstractmethod
    def _content(self) -> bytes:
        """What `save` writes."""

    def save(self, path: str | Path) -> None:
        """Write the vocabulary, whole or not at all.

        Raises:
            FileFormatError: the file cannot be written.
        """
        with replacing(Path(path)) as temporary:
            temporary.write_bytes(self._content())

    @staticmethod
    def load(path: str | Path) -> Vocabulary:
        """Read what `save` wrote, or a model of sentencepiece with these special ids.

        Raises:
            FileFormatError: the file cannot be read, is damaged, is another format, or is newer
                than this version of mathnas understands.
            MissingExtraError: sentencepiece is not installed, and the file needs it.
        """
        path = Path(path)
        try:
            size = path.stat().st_size
            if size > _MAX_BYTES:
                raise FileFormatError(
                    f"{path} has {size} bytes, but a vocabulary of at most {_MAX_BYTES} is read."
                )
            content = path.read_bytes()
        except OSError as error:
            raise FileFormatError(f"{path} cannot be read: {error.strerror or error}.") from error
        # no model of sentencepiece starts so
        if content[:1] == b"{":
            return _Dictionary.from_json(content, str(path))
        return _SentencePieces(content, str(path))

    @staticmethod
    def learn(lines: Iterable[str], size: int) -> Vocabulary:
        """Learn byte pairs from sentences of both languages, with sentencepiece.

        The same lines give the same vocabulary. Unicode is normalised (NFKC), and every character
        of the lines is in the vocabulary.

        Args:
            lines: one sentence each; those of more than 65,536 bytes are left out.
            size: ids in all, the four special ones included.

        Raises:
            InvalidInputError: the lines have too few subwords, or more characters than that.
            MissingExtraError: sentencepiece is not installed.
        """
        return _SentencePieces(_learned(lines, size), "the learned vocabulary")

    @staticmethod
    def given(dictionary: str | Path, codes: str | Path | None = None) -> Vocabulary:
        """Read a vocabulary that was made for fairseq.

        Args:
            dictionary: ``dict.txt``: a subword and its count a line; the ids follow those of the
                special ones.
            codes: of subword-nmt, which are then applied to every word. Without them text is
                already in subwords, with ``@@`` behind all of a word's but the last. In both cases
                sentences are tokenised: there are spaces between words and punctuation.

        Raises:
            FileFormatError: a file cannot be read, or a line is wrong.
        """
        path = Path(dictionary)
        words: dict[str, None] = {}
        for number, line in enumerate(read_lines(path), start=1):
            word, _, count = line.rstrip().rpartition(" ")
            where = f"{path}, line {number}"
            if not count.isdecimal():
                raise FileFormatError(
                    f"{where}: a dictionary has a subword, a space and its count a line, but this "
                    f"one is {shown(line)}."
                )
            _check_word(word, words, where)
            words[word] = None
        return _Dictionary(tuple(words), None if codes is None else read_codes(Path(codes)))


class _SentencePieces(Vocabulary):
    """A model of sentencepiece.

    Args:
        model: the bytes of its file.
        where: what an error calls it.

    Raises:
        FileFormatError: it is not such a model, or has other special ids.
    """

    def __init__(self, model: bytes, where: str) -> None:
        self._model = model
        self._processor = _sentencepiece().SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except (RuntimeError, OSError, ValueError, TypeError) as error:
            raise FileFormatError(
                f"{where} is not a vocabulary: neither one of {_FORMAT} nor a model of "
                "sentencepiece, or it is damaged."
            ) from error
        p = self._processor
        found = (p.bos_id(), p.pad_id(), p.eos_id(), p.unk_id())
        if found != (START, PAD, END, UNKNOWN):
            raise FileFormatError(
                f"{where}: the ids of {', '.join(SPECIAL)} are 0 to 3, but this model of "
                f"sentencepiece has {', '.join(map(str, found))}: learn it anew."
            )

    @property
    def size(self) -> int:
        return int(self._processor.get_piece_size())

    def encode(self, sentences: Sequence[str]) -> list[list[int]]:
        found: list[list[int]] = self._processor.encode(
            list(sentences), out_type=int, add_eos=True, num_threads=1
        )
        return found

    def _text(self, ids: list[int]) -> str:
        return str(self._processor.decode(ids)) if ids else ""

    def _content(self) -> bytes:
        return self._model

    def __reduce__(self) -> tuple[type[_SentencePieces], tuple[bytes, str]]:
        return type(self), (self._model, "the vocabulary")


class _Dictionary(Vocabulary):
    """Subwords by their place in a dictionary, after the special ones.

    Args:
        words: the subwords.
        pairs: split words into them; None where that has been done.
    """

    def __init__(self, words: Sequence[str], pairs: BytePairs | None) -> None:
        self._words = (*SPECIAL, *words)
        self._pairs = pairs
        self._ids = {word: each for each, word in enumerate(self._words) if each > UNKNOWN}

    @property
    def size(self) -> int:
        return len(self._words)

    def encode(self, sentences: Sequence[str]) -> list[list[int]]:
        return [
            [*(self._ids.get(part, UNKNOWN) for part in self._parts(sentence)), END]
            for sentence in sentences
        ]

    def _parts(self, sentence: str) -> Iterator[str]:
        if self._pairs is None:
            return iter(sentence.split())
        # for subword-nmt other kinds of space are letters
        words = filter(None, sentence.split(" "))
        return chain.from_iterable(map(self._pairs.split, words))

    def _text(self, ids: list[int]) -> str:
        return joined([self._words[each] for each in ids])

    def _content(self) -> bytes:
        record: dict[str, object] = {
            "format": _FORMAT,
            "version": _VERSION,
            "words": self._words[len(SPECIAL) :],
        }
        if self._pairs is not None:
            record["codes"] = {"version": self._pairs.version, "merges": self._pairs.merges}
        return json.dumps(record, ensure_ascii=False).encode()

    @staticmethod
    def from_json(content: bytes, where: str) -> _Dictionary:
        """Raises `FileFormatError` where it is not what `_content` gives."""
        try:
            value = json.loads(content)
            json.dumps(value, ensure_ascii=False).encode()  # no halves of characters
        except (ValueError, RecursionError) as error:
            raise FileFormatError(f"{where} is damaged or not JSON ({error}).") from error
        record = check_header(value, _FORMAT, _VERSION, where)
        record.only("format", "version", "words", "codes")
        words: dict[str, None] = {}
        for place, word in record.items("words"):
            _check_word(word, words, place)
            words[word] = None
        pairs = _pairs_of(record.record("codes")) if "codes" in record else None
        return _Dictionary(tuple(words), pairs)


def _pairs_of(record: Record) -> BytePairs:
    record.only("version", "merges")
    merges = []
    for place, pair in record.items("merges"):
        if not isinstance(pair, list) or len(pair) != 2 or not all(map(_is_symbol, pair)):
            raise FileFormatError(f"{place}: a merge is two symbols, but got {shown(pair)}.")
        merges.append((pair[0], pair[1]))
    version = record.get("version", str)
    if version not in VERSIONS:
        raise FileFormatError(
            f"{record.where}.version: BPE codes are of version {' or '.join(VERSIONS)}, but got "
            f"{version!r}."
        )
    return BytePairs(merges, version)


def _is_symbol(value: object) -> bool:
    return isinstance(value, str) and value != "" and " " not in value


def _is_word(value: object) -> bool:
    return isinstance(value, str) and value.split() == [value]


def _check_word(word: object, known: Mapping[str, None], where: str) -> None:
    if not _is_word(word):
        raise FileFormatError(
            f"{where}: a subword is a text without spaces, but got {shown(word)}."
        )
    if word in known or word in SPECIAL:
        raise FileFormatError(
            f"{where}: a subword stands once in a dictionary, and {', '.join(SPECIAL)} never, but "
            f"got {shown(word)}."
        )


def _learned(lines: Iterable[str], size: int) -> bytes:
    """The bytes of sentencepiece's model; arguments and errors as `Vocabulary.learn`."""
    if size <= len(SPECIAL):
        raise InvalidInputError(
            f"a vocabulary has more ids than the {len(SPECIAL)} special ones, but got a size of "
            f"{size}."
        )
    trainer = _sentencepiece().SentencePieceTrainer
    start, pad, end, unknown = SPECIAL
    model = io.BytesIO()
    try:
        trainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=size,
            character_coverage=1.0,
            max_sentence_length=_LONGEST_LINE,
            num_threads=1,  # more of them may count in another order
            bos_id=START,
            pad_id=PAD,
            eos_id=END,
            unk_id=UNKNOWN,
            bos_piece=start,
            pad_piece=pad,
            eos_piece=end,
            unk_piece=unknown,
            minloglevel=2,
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise InvalidInputError(
            f"a vocabulary of {size} ids cannot be learned from these lines: {_reason(error)}."
        ) from error
    return model.getvalue()


def _reason(error: Exception) -> str:
    """Why nothing was learned, from what sentencepiece says."""
    text = str(error)
    if most := re.search(r"value <= (\d+)", text):
        return f"they have subwords for {most[1]} at most, so ask for fewer or give more text"
    if least := re.search(r"required_chars\. \d+ vs (\d+)", text):
        return f"their characters and the special ids alone are {least[1]}, so ask for more"
    if "sentences_.empty()" in text or "all_chars_count" in text:
        return "there are no sentences among them"
    return text.strip().rstrip(".")


def _sentencepiece() -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise MissingExtraError(
            "vocabularies of sentencepiece need it: pip install 'mathnas[text]'."
        ) from error
    return sentencepiece
