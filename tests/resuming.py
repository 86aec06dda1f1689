"""What tests of training share: a run stopped by Ctrl-C in the midst of it, and gone on with."""

import signal

import pytest
import torch

from geoembed import tasks
from geoembed.graph_training import train_model


def check_resumes_to_the_same_bits(config, triples, folder, monkeypatch, stop):
    """Stopped in its step number `stop`, a run ends with the weights and the history of one that was not."""
    reference, whole = train_model(config, triples, progress=False)
    original, calls = tasks._Task.step, []

    def step(self, batch):
        calls.append(batch)
        if len(calls) == stop:
            signal.raise_signal(signal.SIGINT)
        return original(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(tasks._Task, "step", step)
        with pytest.raises(KeyboardInterrupt):
            train_model(config, triples, checkpoint=folder, progress=False)
    model, fitted = train_model(config, triples, checkpoint=folder, progress=False)
    assert set(model.state_dict()) == set(reference.state_dict())
    for name, tensor in reference.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert [(r["loss"], r.get("score")) for r in fitted.history] == [(r["loss"], r.get("score")) for r in whole.history]
