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

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import cast

import torch

from geoembed import checkpoint
from geoembed.config import TrainConfig
from geoembed.data import Closure, Triples, load
from geoembed.errors import CheckpointError, DataError, UnknownNameError
from geoembed.files import atomic_write
from geoembed.graph_training import build_model, generators, ranker
from geoembed.models import BothDirections, GraphModel
from geoembed.prediction import Answer, Prediction, Predictor
from geoembed.run_folder import RunFolder

__all__ = ["Answer", "Prediction", "Run", "load_teachers", "load_triples"]


class Run(RunFolder[TrainConfig]):
    """A run folder and the model in it.

    >>> run = Run.open("runs/wordnet-animals-murp-40")  # doctest: +SKIP
    >>> run.neighbours("dog.n.01", k=3)  # doctest: +SKIP
    """

    task, tables, weights = "graph", ("entities", "relations"), "model.safetensors"

    @property
    def entities(self) -> list[str]:
        return self.names["entities"]

    @property
    def relations(self) -> list[str]:
        return self.names["relations"]

    @property
    def triples(self) -> Triples:
        """The data the run was trained on, found by its name or path; DataError if it is not the same any more."""
        return self.data

    def load_data(self) -> Triples:
        return load_triples(self.config)

    def save_model(self, model: GraphModel) -> None:
        """Write the weights and the table of points."""
        with checkpoint.writing(self.folder), atomic_write(self.folder / "embedding.tsv") as file:
            points = model.points()
            digits = 17 if points.dtype == torch.float64 else 9  # reading them back gives the same bits
            for name, point in zip(self.entities, points.tolist(), strict=True):
                file.write("\t".join([name, *(f"{x:.{digits}g}" for x in point)]) + "\n")
        checkpoint.save_weights(self.folder / self.weights, model.state_dict())

    @cached_property
    def model(self) -> GraphModel:
        """The trained model, on the CPU."""
        self.check_trained()
        model = build_model(self.config.replace(device="cpu"), len(self.entities), len(self.relations))
        try:
            model.load_state_dict(checkpoint.load_weights(self.folder / self.weights))
        except RuntimeError as error:
            raise CheckpointError(f"the weights in {self.folder} do not fit its config.toml: {error}") from error
        return model

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


def load_triples(config: TrainConfig, data: Triples | Closure | None = None) -> Triples:
    """The graph that a configuration names; one without valid and test splits is split 90 : 5 : 5 by the seed.

    Where train would lose an entity or a relation by that, as in a tree, nothing is held out. data: what
    `load(config.data)` gave, if it was called before.
    """
    data = load(config.data) if data is None else data
    if not isinstance(data, Triples):
        raise DataError(
            f"{config.data} holds pairs, not triples (head, relation, tail); a hierarchy is trained with "
            "--task hierarchy"
        )
    if len(data.valid) or len(data.test):
        return data
    try:
        return data.split(valid=0.05, test=0.05, generator=generators(config.seed)["init"])
    except DataError:
        return data


def load_teachers(config: TrainConfig, triples: Triples) -> list[GraphModel]:
    """The models of the runs that the setting `teachers` names; none where it is empty.

    Raises:
        CheckpointError: a folder holds no trained run, or one of other data: its rows would be of other entities, or
            it has seen triples that are held out here.
    """
    models = []
    for folder in filter(None, map(str.strip, config.teachers.split(","))):
        run = Run.open(folder)
        if run.fingerprint != triples.fingerprint():
            raise CheckpointError(f"the teacher {folder} was trained on other data than {triples.name}, or its splits")
        models.append(run.model)
    return models
