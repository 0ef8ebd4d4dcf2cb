"""The exceptions of mathnas: few, and each message states the rule, the value and the way out."""

from __future__ import annotations


class MathNASError(Exception):
    """Base of every error that mathnas raises on purpose."""


class InvalidInputError(MathNASError, ValueError):
    """A value that the caller gave breaks a rule (network, block, metric, limit, measurement)."""


class FileFormatError(MathNASError):
    """A file is damaged, foreign, from a newer version, or cannot be read or written."""


class MissingDataError(MathNASError):
    """A public data set is not on this machine and could not be fetched."""


class MissingExtraError(MathNASError):
    """An optional dependency is not installed; the message says which extra brings it."""


class EvaluationError(MathNASError):
    """An evaluator cannot be run as asked: it cannot be pickled, or its workers die."""


class MeterError(MathNASError):
    """An energy meter cannot measure: its sensor went away or says what cannot be."""


class MeterAbsentError(MeterError):
    """This machine does not show the sensor; the message says where it was looked for."""


class MeterPermissionError(MeterError):
    """The sensor may not be read; the message says by what path, and which command grants it."""


class VerificationError(MathNASError):
    """Two solvers contradict each other on one program: one of them is wrong, so neither answer is
    given."""


class MathNASWarning(UserWarning):
    """Something that the user should know about a result that is still valid."""
