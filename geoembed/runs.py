"""A run folder: what `geoembed train` leaves behind, to evaluate, query, plot and reuse.

run.json             format version, fingerprint and counts of the data
config.toml          all settings
entities.tsv, relations.tsv   one name a line; the line number is the row of the tables
model.safetensors    the trained weights
embedding.tsv        name, then the coordinates of the point on the manifold
metrics.jsonl        one line an epoch: loss, validation MRR, seconds
results.json         the evaluation on the test split, with its protocol
disk.png             the picture
report/              see `geoembed.report`
checkpoints/         see `geoembed.checkpoint`
"""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch

from geoembed import checkpoint
from geoembed.config import TrainConfig
from geoembed.data import Triples, load
from geoembed.errors import CheckpointError, DataError, UnknownNameError
from geoembed.files import atomic_write
from geoembed.models import BothDirections, GraphModel
from geoembed.prediction import Answer, Prediction, Predictor
from geoembed.tasks import build_model, generators, ranker

__all__ = ["Answer", "Prediction", "Run", "load_triples"]

FORMAT = 1


class Run:
    """A run folder and the model in it.

    >>> run = Run.open("runs/wordnet-animals-murp-40")  # doctest: +SKIP
    >>> run.neighbours("dog.n.01", k=3)  # doctest: +SKIP
    """

    def __init__(self, folder: Path, config: TrainConfig, entities: list[str], relations: list[str]):
        self.folder, self.config, self.entities, self.relations = folder, config, entities, relations

    # ------------------------------------------------------------------------------------------------ on disk

    @classmethod
    def create(cls, folder: Path, config: TrainConfig, triples: Triples) -> "Run":
        """A new run folder, or the one that is there if it holds the same settings and data."""
        run = cls(folder, config, triples.entities, triples.relations)
        run.triples = triples  # at hand, wherever config.data says they are
        about = {"format": FORMAT, "fingerprint": triples.fingerprint(), "counts": triples.counts()}
        if (folder / "run.json").exists():
            old = cls.open(folder)
            if old.config != config or old._about != about:
                changed = [name for name, value in vars(config).items() if getattr(old.config, name) != value]
                what = f"other settings ({', '.join(changed)})" if changed else "other data"
                raise CheckpointError(f"{folder} holds a run with {what}. Choose another folder with -o.")
            old.triples = triples
            return old
        with checkpoint.writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            run.write_text("config.toml", config.to_toml())
            run.write_text("entities.tsv", "".join(f"{name}\n" for name in triples.entities))
            run.write_text("relations.tsv", "".join(f"{name}\n" for name in triples.relations))
            run.write_text("run.json", json.dumps(about, indent=1))  # last: it marks the folder as complete
        return run

    @classmethod
    def open(cls, folder: Path | str) -> "Run":
        """The run in a folder; CheckpointError says what is missing, damaged or of an unknown version."""
        folder = Path(folder)
        if not (folder / "run.json").is_file():
            raise CheckpointError(f"{folder} is not a run folder: it has no run.json. Make one with geoembed train.")
        run = cls(folder, TrainConfig.load(folder / "config.toml"), [], [])
        version = run._about.get("format")
        if version != FORMAT:
            raise CheckpointError(f"{folder} has format {version}, this version of geoembed reads format {FORMAT}")
        for table, names in (("entities", run.entities), ("relations", run.relations)):
            try:
                with open(folder / f"{table}.tsv", encoding="utf-8", newline="\n") as file:
                    names.extend(file.read().removesuffix("\n").split("\n"))  # splitlines parts more than lines
            except (OSError, UnicodeDecodeError) as error:
                raise CheckpointError(f"{folder / table}.tsv cannot be read: {error}") from error
            if len(names) != run._about["counts"][table]:
                raise CheckpointError(f"{folder / table}.tsv has {len(names)} lines, the run {run._about['counts']}")
        return run

    def write_text(self, name: str, text: str) -> None:
        """Write a file of the run folder, whole or not at all."""
        with checkpoint.writing(self.folder / name), atomic_write(self.folder / name) as file:
            file.write(text)

    def save_model(self, model: GraphModel) -> None:
        """Write the weights and the table of points."""
        with checkpoint.writing(self.folder), atomic_write(self.folder / "embedding.tsv") as file:
            points = model.points()
            digits = 17 if points.dtype == torch.float64 else 9  # reading them back gives the same bits
            for name, point in zip(self.entities, points.tolist(), strict=True):
                file.write("\t".join([name, *(f"{x:.{digits}g}" for x in point)]) + "\n")
        checkpoint.save_weights(self.folder / "model.safetensors", model.state_dict())

    @property
    def trained(self) -> bool:
        return (self.folder / "model.safetensors").is_file()

    @cached_property
    def model(self) -> GraphModel:
        """The trained model, on the CPU."""
        if not self.trained:
            raise CheckpointError(
                f"{self.folder} is not trained to its end. Go on with: geoembed train --resume {self.folder}"
            )
        model = build_model(self.config.replace(device="cpu"), len(self.entities), len(self.relations))
        try:
            model.load_state_dict(checkpoint.load_weights(self.folder / "model.safetensors"))
        except RuntimeError as error:
            raise CheckpointError(f"the weights in {self.folder} do not fit its config.toml: {error}") from error
        return model

    @cached_property
    def triples(self) -> Triples:
        """The data the run was trained on, found by its name or path; DataError if it is not the same any more."""
        triples = load_triples(self.config)
        if triples.fingerprint() != self._about["fingerprint"]:
            raise DataError(f"{self.config.data} is not the data that {self.folder} was trained on")
        return triples

    @cached_property
    def _about(self) -> dict[str, Any]:
        path = self.folder / "run.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error

    # ------------------------------------------------------------------------------------------------ queries

    @cached_property
    def ranker(self) -> GraphModel | BothDirections:
        """What answers queries and is evaluated: the model, or the mean of its two directions."""
        return cast(GraphModel | BothDirections, ranker(self.config, self.model))

    @cached_property
    def predictor(self) -> Predictor:
        """The ranker with names; where the data has moved, answers are not marked as known."""
        try:
            triples = self.triples
        except (DataError, UnknownNameError):
            triples = None
        return Predictor(self.ranker, self.entities, self.relations, triples)

    def entity(self, name: str) -> int:
        """Row of an entity; UnknownNameError lists the closest names."""
        return self.predictor.entity(name)

    def relation(self, name: str, inverse: bool = False) -> int:
        """Row of a relation or of its inverse; UnknownNameError lists the closest names."""
        return self.predictor.relation(name, inverse)

    def neighbours(self, name: str, k: int = 10) -> list[Answer]:
        """The k entities nearest to an entity, by distance on the manifold."""
        return self.predictor.neighbours(name, k)

    def tails(
        self, head: str, relation: str, k: int = 10, *, inverse: bool = False, exclude_known: bool = False
    ) -> list[Answer]:
        """The k most probable answers to (head, relation, ?), or to (?, relation, head) with `inverse`.

        The value is the probability sigmoid(score). Known triples stay in the list and name their split, or are left
        out, for which the data must be at hand. The entity itself is no answer, unless a known triple says so.
        """
        if inverse:
            return self.heads(relation, head, k, exclude_known=exclude_known)
        return self._asked(exclude_known).tails(head, relation, k, exclude_known=exclude_known)

    def heads(self, relation: str, tail: str, k: int = 10, *, exclude_known: bool = False) -> list[Answer]:
        """The k most probable answers to (?, relation, tail); see `tails`."""
        return self._asked(exclude_known).heads(relation, tail, k, exclude_known=exclude_known)

    def relations_between(self, head: str, tail: str, k: int = 10, *, exclude_known: bool = False) -> list[Answer]:
        """The k most probable answers to (head, ?, tail); see `tails`."""
        return self._asked(exclude_known).relations_between(head, tail, k, exclude_known=exclude_known)

    def best_new(self, relation: str, k: int = 10) -> list[Prediction]:
        """The k most probable triples of a relation that the data does not state."""
        return self._asked(True).best_new(relation, k)

    def score(self, triples: Iterable[Sequence[str]], *, rank: bool = False) -> list[Prediction]:
        """Probabilities of (head, relation, tail) names, and ranks of the tails if asked for; see `Predictor.score`."""
        return self.predictor.score(triples, rank=rank)

    def probability(self, head: str, relation: str, tail: str) -> tuple[float, float]:
        """sigmoid(score) of a triple, and the rank of its tail among all entities (known ones not removed)."""
        found = self.score([(head, relation, tail)], rank=True)[0]
        return found.probability, cast(float, found.rank)

    def with_entity(
        self, name: str, triples: Iterable[Sequence[str]], *, generator: torch.Generator | None = None
    ) -> Predictor:
        """A predictor that knows one entity more, placed by triples about it; see `Predictor.with_entity`.

        The run and its folder stay as they are.
        """
        options = {"weight": self.config.negative_weight, "penalty": self.config.penalty}
        return self.predictor.with_entity(name, triples, generator=generator, **options)

    def _asked(self, exclude_known: bool) -> Predictor:
        if exclude_known:
            _ = self.triples  # says what is wrong with the data
        return self.predictor


def load_triples(config: TrainConfig) -> Triples:
    """The graph that a configuration names; one without valid and test splits is split 90 : 5 : 5 by the seed.

    Where train would lose an entity or a relation by that, as in a tree, nothing is held out.
    """
    data = load(config.data)
    if not isinstance(data, Triples):
        raise DataError(f"{config.data} holds pairs, not triples (head, relation, tail)")
    if len(data.valid) or len(data.test):
        return data
    try:
        return data.split(valid=0.05, test=0.05, generator=generators(config.seed)["init"])
    except DataError:
        return data
