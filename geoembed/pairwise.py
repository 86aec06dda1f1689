"""The matrix of distances where it is large or slow: in blocks, in several processes, in a file, resumable.

    pairwise_matrix(distance, sets, out="D.npy", workers=4, resume=True)

What is done once an item is done first (`Distance.reduced`: an embedding, sorted projections); the rest is cut into
blocks of rows. Of a symmetric distance from a set of items to itself only what is right of the diagonal is computed,
and mirrored at the end, so the matrix is exactly symmetric. Where the distance is a metric or a norm of differences,
its diagonal is exactly zero (NaN stays NaN).

A matrix on its way to a file is kept beside it (`matrix_file`), so a run that is killed goes on to the same numbers.
"""

import contextlib
import math
import multiprocessing
import os
import pickle
import signal
from collections.abc import Generator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from geoembed.distance import DEFAULT_BUDGET, Distance, Items, rows_within
from geoembed.errors import DomainError, GeoEmbedError, ShapeError
from geoembed.matrix_file import MatrixFile, digest

__all__ = ["WorkerError", "pairwise_matrix"]

PARTS = 64  # blocks at least, so that work can be shared and little is lost when it stops
CHEAP_ROWS = 256  # but not fewer rows where a pair costs next to nothing, as in a matrix product
TILE = 1024  # rows and columns mirrored at a time


class WorkerError(GeoEmbedError, RuntimeError):
    """A process that computes distances failed."""


def pairwise_matrix(
    distance: Distance,
    x: Items,
    y: Items | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    workers: int = 0,
    budget: int = DEFAULT_BUDGET,
    progress: bool = False,
    resume: bool = False,
) -> NDArray[Any]:
    """Matrix of distances from the items of x (rows) to those of y (columns), or of x to itself.

    Args:
        x, y: (n, *E), (m, *E) tensors or `PointSets`.
        out: a .npy file for the matrix, which is then returned memory-mapped, read-only.
        workers: processes that compute blocks, on one thread each and with a copy of the items each; 0 = this one.
            The numbers are those of workers=0 on one thread. A script that uses workers needs the guard
            `if __name__ == "__main__":`.
        budget: bytes of a block and of what it is made from, in each process.
        progress: show a bar.
        resume: go on with what a stopped run left beside `out`, if there is such a run; False starts anew.

    Returns:
        (n, m), float64 for items of float64, else float32.

    Raises:
        ShapeError: items that do not fit the distance, or that have further batch dimensions.
        DomainError, DataError: options that make no sense.
        CheckpointError: a file that cannot be written, or a stopped run of another matrix.
        WorkerError: a worker that died, or a distance that cannot be sent to one.
    """
    itself = y is None or y is x
    x, y = distance._checked(x, x if y is None else y, distance.event_dim + 1)
    y = x if itself else y
    if max(x.dim(), y.dim()) != distance.event_dim + 1:
        raise ShapeError(
            f"pairwise_matrix: x and y must hold items in one batch dimension, got shapes {tuple(x.shape)} and "
            f"{tuple(y.shape)}. For batches of matrices call distance.pairwise."
        )
    if budget <= 0 or workers < 0:
        raise DomainError(f"budget must be positive and workers not negative, got {budget} and {workers}")
    if workers and x.device.type != "cpu":
        raise DomainError(f"workers compute on the CPU, the items are on {x.device}. Move them, or use workers=0.")
    if resume and out is None:
        raise DomainError("resume needs out, the file that a stopped run was to write")
    with torch.no_grad():
        problem = _Problem(*distance.reduced(x, y), symmetric=itself and distance.symmetric)
    blocks = problem.blocks(budget, cheap=problem.distance is not distance or distance.embed_p is not None)
    dtype = np.dtype(np.float64 if x.dtype == torch.float64 else np.float32)
    file = None
    if out is None:
        matrix: NDArray[Any] = np.empty((len(x), len(y)), dtype)
    else:
        identity = _identity(distance, x, y, problem, budget)
        file = MatrixFile(Path(out), (len(x), len(y)), dtype, identity, resume)
        matrix, blocks = file.matrix, [rows for rows in blocks if rows.start not in file.finished]
    left = sum(rows.stop - rows.start for rows in blocks)
    with (
        tqdm(
            total=len(x),
            initial=len(x) - left,
            desc="distances",
            unit="row",
            disable=None if progress else True,
            dynamic_ncols=True,
        ) as bar,
        contextlib.closing(_computed(problem, blocks, workers)) as computed,
    ):
        try:
            for rows, block in computed:
                matrix[rows, rows.start if problem.symmetric else 0 :] = block
                bar.update(rows.stop - rows.start)
                if file is not None:
                    file.finish(rows)
        finally:
            if file is not None:
                file.save()
    if problem.symmetric:
        _mirror(matrix)
    if itself and (distance.is_metric or distance.embed_p is not None):
        diagonal = np.einsum("ii->i", matrix)
        diagonal[~np.isnan(diagonal)] = 0
    return matrix if file is None else file.close()


class _Problem(NamedTuple):
    """What is left after `Distance.reduced`."""

    distance: Distance
    u: Any
    v: Any
    symmetric: bool

    def blocks(self, budget: int, cheap: bool) -> list[slice]:
        """Slices of the rows. cheap: a pair costs little."""
        n = len(self.u)
        rows = min(rows_within(budget, self.distance, self.v), max(CHEAP_ROWS if cheap else 1, math.ceil(n / PARTS)))
        return [slice(start, min(start + rows, n)) for start in range(0, n, rows)]

    def block(self, rows: slice) -> NDArray[Any]:
        """Some rows of the matrix; from the diagonal on where it is symmetric."""
        with torch.no_grad():
            d = self.distance.pairwise(self.u[rows], self.v[rows.start :] if self.symmetric else self.v)
        return (d if d.dtype == torch.float64 else d.float()).cpu().numpy()


def _identity(distance: Distance, x: Items, y: Items, problem: _Problem, budget: int) -> dict[str, Any]:
    """What a matrix is a matrix of, and in which blocks."""
    found = {
        "distance": repr(distance),
        "settings of the distance": digest(distance),
        "shape of x": list(x.shape),
        "shape of y": list(y.shape),
        "values of x": digest(x),
        "values of y": "x" if y is x else digest(y),
        "budget": budget,
    }
    if problem.distance is not distance:  # random directions drawn just now, say
        found["what the distance makes of x"] = digest(problem.u)
    return found


def _mirror(matrix: NDArray[Any]) -> None:
    """Copy what is right of the diagonal to its left, in tiles, for the matrix may be a file."""
    n = len(matrix)
    for i in range(0, n, TILE):
        rows = slice(i, i + TILE)
        tile = matrix[rows, rows]
        matrix[rows, rows] = np.triu(tile) + np.triu(tile, 1).T
        for j in range(i + TILE, n, TILE):
            matrix[j : j + TILE, rows] = matrix[rows, j : j + TILE].T


# Processes.


def _computed(problem: _Problem, blocks: list[slice], workers: int) -> Generator[tuple[slice, NDArray[Any]]]:
    """The blocks, in any order. No more than two a worker wait for being written, so memory stays bounded."""
    if not workers:
        for rows in blocks:
            yield rows, problem.block(rows)
        return
    try:
        packed = pickle.dumps(problem)
    except Exception as error:  # pickle passes on whatever an object's own methods raise
        raise WorkerError(
            f"{type(problem.distance).__name__} cannot be sent to another process: {error}. Use workers=0."
        ) from error
    with ProcessPoolExecutor(
        min(workers, max(1, len(blocks))), multiprocessing.get_context("spawn"), _receive, (packed,)
    ) as pool:
        waiting, running = iter(blocks), dict[Future, slice]()
        try:
            for rows in islice(waiting, 2 * workers):
                running[pool.submit(_work, rows)] = rows
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    rows = running.pop(future)
                    for following in islice(waiting, 1):
                        running[pool.submit(_work, following)] = following
                    yield rows, future.result()
        except BrokenProcessPool as error:
            raise WorkerError(
                "a worker process died: killed for want of memory, or started by a script without the guard "
                '`if __name__ == "__main__":`. Finished blocks are kept where the matrix goes to a file.'
            ) from error
        except BaseException:  # an interruption does not wait for the blocks that are being computed
            for process in list(pool._processes.values()):
                process.terminate()
            raise


_packed = b""


def _receive(packed: bytes) -> None:
    """Start a worker."""
    global _packed
    _packed = packed
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the workers


@cache
def _problem() -> _Problem:
    return pickle.loads(_packed)


def _work(rows: slice) -> NDArray[Any]:
    try:
        return _problem().block(rows)
    except GeoEmbedError:
        raise
    except Exception as error:  # named here, since not every error survives the way to the parent
        raise WorkerError(
            f"rows {rows.start} to {rows.stop - 1} failed in a worker: {type(error).__name__}: {error}"
        ) from error
