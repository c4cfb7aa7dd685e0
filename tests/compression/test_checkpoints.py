import pickle
import resource
from dataclasses import replace

import pytest
import torch

from app.domain.job import EventType
from app.domain.steps.training import FinetuneSpec
from workers.compression.checkpoints import Checkpoints
from workers.compression.training import finetune

EPOCHS = 4


class CutOff(Exception):
    """What stands for a kill: nothing behind it runs."""


@pytest.fixture
def kept(context, tmp_path):
    return replace(context, checkpoints=Checkpoints(tmp_path / "checkpoints", 2, context.log))


def spec(optimizer="sgd"):
    return FinetuneSpec(method="finetune", epochs=EPOCHS, learning_rate=0.005, optimizer=optimizer)


def train(network, context, optimizer="sgd"):
    return finetune.run(network, spec(optimizer), context)


def cut_off_behind(epoch, network, context, optimizer="sgd"):
    def progress(event):
        if event.type == EventType.PROGRESS and event.data["message"].startswith(f"epoch {epoch + 1} "):
            raise CutOff

    with pytest.raises(CutOff):
        train(network, replace(context, progress=progress), optimizer)


def names(context):
    return sorted(path.name for path in context.checkpoints.folder.iterdir())


def logged(events):
    return [event.data["message"] for event in events if event.type == EventType.LOG]


def timeless(details):
    epochs = [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in details["epochs"]]
    return details | {"epochs": epochs}


def same(one, other):
    return all(torch.equal(value, other.module.state_dict()[name]) for name, value in one.module.state_dict().items())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_training_cut_off_goes_on_to_the_same_weights_and_history(context, kept, digits_network, events, optimizer):
    whole = train(digits_network, context, optimizer)
    cut_off_behind(2, digits_network, kept, optimizer)
    assert names(kept) == ["step-02-epoch-0001.pt", "step-02-epoch-0002.pt"]
    events.clear()
    torch.manual_seed(99)
    resumed = train(digits_network, kept, optimizer)
    assert same(resumed.network, whole.network)
    assert timeless(resumed.details) == timeless(whole.details)
    assert resumed.earlier_seconds > 0
    losses = [event.data for event in events if event.type == EventType.METRIC and event.data["name"] == "loss"]
    assert [found["step"] for found in losses] == [3, 4]
    assert names(kept) == ["step-02-epoch-0004.pt"]


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "pickle"])
def test_a_damaged_checkpoint_is_told_and_gives_way_to_the_one_before(context, kept, digits_network, events, damage):
    whole = train(digits_network, context)
    cut_off_behind(3, digits_network, kept)
    newest = kept.checkpoints.folder / "step-02-epoch-0003.pt"
    content = newest.read_bytes()
    # In the middle of the file stand weights.
    flipped = content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]
    damaged = {"flipped": flipped, "cut": content[:-100], "empty": b"", "pickle": pickle.dumps({})}[damage]
    newest.write_bytes(damaged)
    assert same(train(digits_network, kept).network, whole.network)
    assert any(line.startswith("step-02-epoch-0003.pt is damaged") for line in logged(events))
    assert any("going on from step-02-epoch-0002.pt" in line for line in logged(events))


def test_a_checkpoint_of_another_network_is_told_and_left_out(context, kept, digits_network, events):
    whole = train(digits_network, context)
    kept.checkpoints.save(3, {"epoch": 3, "weights": {}}, finished=False)
    assert same(train(digits_network, kept).network, whole.network)
    assert any(line.startswith("step-02-epoch-0003.pt is of another training") for line in logged(events))


def test_a_checkpoint_runs_no_code(kept, tmp_path, events):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    kept.checkpoints.save(1, {"epoch": Hostile()}, finished=False)
    assert list(kept.checkpoints.newest_first()) == []
    assert not (tmp_path / "written").exists()
    assert "damaged" in logged(events)[-1]


def test_steps_keep_two_each_and_only_the_last_once_finished(kept):
    other = replace(kept.checkpoints, step=3)
    for epoch in (1, 2, 3):
        kept.checkpoints.save(epoch, {"epoch": epoch}, finished=epoch == 3)
        other.save(epoch, {"epoch": epoch}, finished=False)
    assert names(kept) == ["step-02-epoch-0003.pt", "step-03-epoch-0002.pt", "step-03-epoch-0003.pt"]
    assert [state["epoch"] for _, state in other.newest_first()] == [3, 2]


def test_without_room_the_one_before_stays_and_the_training_goes_on(kept, events):
    kept.checkpoints.save(1, {"weights": torch.zeros(10)}, finished=False)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        kept.checkpoints.save(2, {"weights": torch.zeros(100_000)}, finished=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(kept) == ["step-02-epoch-0001.pt"]
    assert events[-1].data["level"] == "warning"
    assert "step-02-epoch-0002.pt could not be written" in events[-1].data["message"]
