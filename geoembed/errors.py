"""Errors and warnings. Every error is a `GeoEmbedError` and also the builtin a caller would expect.

A message says what was expected, what came (shape, dtype, first bad index, count) and what to do.
"""

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "ConvergenceWarning",
    "DataError",
    "DataWarning",
    "DomainError",
    "GeoEmbedError",
    "MissingDependencyError",
    "NumericalWarning",
    "PerformanceWarning",
    "ShapeError",
    "UnknownNameError",
]


class GeoEmbedError(Exception):
    """Root of all errors raised by geoembed."""


class ShapeError(GeoEmbedError, ValueError):
    """Tensors whose shape, dtype or device do not fit together."""


class DomainError(GeoEmbedError, ValueError):
    """A value outside the set a function is defined on: a point off its manifold, a NaN, a negative weight."""


class DataError(GeoEmbedError, ValueError):
    """A data file or graph that cannot be read as what it claims to be; names file and line where there is one."""


class UnknownNameError(GeoEmbedError, KeyError):
    """A name that is not in a table; the message lists the closest and the known ones.

    `related` holds names that are likelier to be meant than those that are spelt alike.
    """

    def __init__(self, kind: str, name: object, known: Iterable[object], related: Iterable[str] = ()):
        names = sorted(map(str, known))
        close = [*related, *difflib.get_close_matches(str(name), names, n=3)][:5]
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        shown = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
        self.message = f"unknown {kind} {str(name)!r}.{hint} Known: {shown or 'none'}."
        super().__init__(self.message)

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return self.message


class CheckpointError(GeoEmbedError, RuntimeError):
    """A saved run that is missing, damaged or of a format this version cannot read."""


class MissingDependencyError(GeoEmbedError, ImportError):
    """An optional package is needed; the message names the extra that brings it."""


class NumericalWarning(UserWarning):
    """A result whose digits are not all to be trusted."""


class ConvergenceWarning(UserWarning):
    """An iteration that stopped before it met its tolerance."""


class PerformanceWarning(UserWarning):
    """A correct but needlessly slow way was taken."""


class DataWarning(UserWarning):
    """Data that was accepted but holds something worth knowing: duplicates, unseen entities, ..."""
