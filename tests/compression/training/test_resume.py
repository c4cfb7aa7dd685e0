"""A training that is cut off, even more than once, ends with the weights of one that was not, whatever it does."""

from dataclasses import replace

import pytest
import torch

from app.domain.job import EventType
from tests.compression.training.runs import same, spec
from tests.compression.training.test_setbacks import NotFinite, short_of_memory
from workers.compression.checkpoints import Checkpoints
from workers.compression.training import mode
from workers.compression.training.loop import fit

ALL = {
    "epochs": 9,
    "optimizer": "adamw",
    "learning_rate": 0.02,
    "schedule": "step",
    "decay_at": (0.2, 0.6),
    "warm_up_epochs": 0.5,
    "clip_norm": 0.5,
    "accumulate": 3,
    "ema": 0.95,
    "mixup": 0.3,
    "augment": {"crop": 1, "cutout": 3},
    "early_stopping": 3,
}
STATE = {"epoch": 0, "lowered": False}


class CutOff(Exception):
    """What stands for a kill: nothing behind it runs."""


def trained(network, context, seed=0):
    """Train with everything on; a loss in the third epoch is not finite the first time that a process gets there."""
    return fit(network, spec(**ALL), replace(context, seed=seed), DivergesOnce(context))


class DivergesOnce(NotFinite):
    """Is not finite in the third epoch until the rate has been lowered, which the log tells."""

    def __init__(self, context):
        super().__init__(context.task, self.in_third_epoch)
        object.__setattr__(self, "context", context)

    def in_third_epoch(self, _):
        return STATE["epoch"] == 3 and not STATE["lowered"]


def hearing(context, kill_in=None):
    """Follow which epoch is under way and whether the rate was lowered; be cut off as an epoch begins."""

    def progress(event):
        if event.type == EventType.PROGRESS and event.data["message"].startswith("epoch "):
            STATE["epoch"] = int(event.data["message"].split()[1])
            if STATE["epoch"] == kill_in:
                raise CutOff
        if event.type == EventType.LOG and "a tenth of the rate" in event.data["message"]:
            STATE["lowered"] = True
        context.progress(event)

    return replace(context, progress=progress)


@pytest.mark.parametrize("bits", ["float32", "bf16"])
def test_everything_at_once_goes_on_to_the_same_weights(context, digits_network, tmp_path, monkeypatch, bits):
    measured = {"float32": [(1.0, 1.0)], "bf16": [(2.0, 1.0)]}[bits]
    monkeypatch.setattr(mode, "isa", lambda: ("avx512_bf16",))
    monkeypatch.setattr(mode, "LEAST_MULTIPLICATIONS", 1)
    monkeypatch.setattr(mode, "LEAST_BATCHES", 1)
    monkeypatch.setattr(mode, "compare", lambda *_: measured[0])
    network = short_of_memory(digits_network, 40)
    STATE.update(epoch=0, lowered=False)
    whole = trained(network, hearing(context))
    assert [found["reason"] for found in whole.details["setbacks"]] == ["out_of_memory", "diverged"]
    assert whole.details["mode"]["bf16"] is (bits == "bf16")
    assert whole.spec.precision == bits

    kept = Checkpoints(tmp_path / "checkpoints", 1, lambda *_: None)
    for kill_in in (2, 4, 5):
        STATE.update(epoch=0, lowered=False)
        torch.manual_seed(kill_in)
        with pytest.raises(CutOff):
            trained(network, replace(hearing(context, kill_in), checkpoints=kept))
        assert len(list(kept.folder.iterdir())) == min(2, kill_in - 1)
        # Measured again, it would come out the other way.
        measured[0] = measured[0][::-1] if bits == "bf16" else (2.0, 1.0)
    resumed = trained(network, replace(hearing(context), checkpoints=kept))
    assert same(resumed.network, whole.network)
    for name in ("best_epoch", "setbacks", "mode"):
        assert resumed.details[name] == whole.details[name]
    assert resumed.details.get("stopped_early") == whole.details.get("stopped_early")
    curves = [[{**epoch, "seconds": 0} for epoch in result.details["epochs"]] for result in (whole, resumed)]
    assert curves[0] == curves[1]
    assert resumed.earlier_seconds > 0
    # Once it has ended, nothing is trained again.
    STATE.update(epoch=0, lowered=False)
    again = trained(network, replace(hearing(context, 1), checkpoints=kept))
    assert same(again.network, whole.network)
