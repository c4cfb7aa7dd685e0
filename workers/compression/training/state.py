"""A training under way: all that changes from epoch to epoch, so that another process can go on with it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from app.domain.steps.training import TrainingSpec
from workers.compression.network import Network
from workers.compression.training.averaging import Average
from workers.compression.training.criterion import Criterion
from workers.compression.training.mode import Mode, compiled_form
from workers.compression.training.optimizer import make_optimizer


@dataclass(frozen=True)
class Score:
    """How an epoch did on the held-out rows: the task's figure, of which more is better, and the loss."""

    figure: float
    loss: float

    def better(self, other: "Score | None") -> bool:
        return other is None or (self.figure, -self.loss) > (other.figure, -other.loss)


class Run:
    """One training of one student, with what its criterion trains beside it.

    ``rate_share`` is what is left of the rates of the schedule, ``pieces`` how many parts a batch goes through the
    network in, and ``setbacks`` tell for the report what made either change.
    """

    def __init__(self, network: Network, spec: TrainingSpec, criterion: Criterion, device: torch.device) -> None:
        self.student = network.clone()
        self.module = self.student.module.to(device).requires_grad_(requires_grad=True)
        beside = criterion.attach(self.module)
        self.beside = nn.Module() if beside is None else beside.to(device)
        self.optimizer = make_optimizer(nn.ModuleList([self.module, self.beside]), spec)
        self.average = None if spec.ema is None else Average(self.module, spec.ema)
        self.device = device
        self.mode = Mode()
        self.forward: Callable[..., Any] = self.module
        self.epoch = 0
        self.rate_share = 1.0
        self.pieces = 1
        self.setbacks: list[dict[str, Any]] = []
        self.best: Score | None = None
        self.best_epoch = 0
        self.best_weights: dict[str, Tensor] = {}
        self.history: list[dict[str, float]] = []
        self.earlier_seconds = 0.0
        self._patience = spec.early_stopping or spec.epochs
        self._epochs = spec.epochs
        self._began = time.monotonic()

    @property
    def over(self) -> bool:
        """Whether all epochs are trained, or so many in a row were no better that the rest will not be."""
        return self.epoch == self._epochs or self.epoch - self.best_epoch >= self._patience

    def compute_as(self, mode: Mode) -> None:
        """Compute in a mode from now on."""
        self.mode = mode
        if mode.channels_last:
            self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.forward = compiled_form(self.module) if mode.compiled else self.module

    def judged(self) -> dict[str, Tensor]:
        """Give what is judged and kept: the weights, or their average where there is one."""
        return self.module.state_dict() if self.average is None else self.average.values

    def end_epoch(self, score: Score, found: dict[str, float]) -> None:
        """Count the epoch that has just been trained, and keep its weights where no other did better."""
        self.epoch += 1
        self.history.append({"epoch": self.epoch, **found})
        if score.better(self.best):
            self.best, self.best_epoch = score, self.epoch
            self.best_weights = {name: value.clone() for name, value in self.judged().items()}

    def state(self, *, finished: bool) -> dict[str, Any]:
        """Give what :meth:`restore` takes. The schedule, the order of rows and their changes follow from the epoch.

        Of a finished training the best weights are all that matters, so that it takes a third of the room.
        """
        return {
            "epoch": self.epoch,
            "weights": self.best_weights if finished else self.module.state_dict(),
            "beside": self.beside.state_dict(),
            "optimizer": None if finished else self.optimizer.state_dict(),
            "average": None if finished or self.average is None else self.average.state(),
            "generators": _generators(self.device),
            "mode": self.mode.as_json(),
            "rate_share": self.rate_share,
            "pieces": self.pieces,
            "setbacks": self.setbacks,
            "best": None if self.best is None else (self.best.figure, self.best.loss),
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
            "history": self.history,
            "seconds": self.earlier_seconds + time.monotonic() - self._began,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state. Raises whatever a state of another network or of no training causes."""
        if state["best"] is not None:
            self.module.load_state_dict(state["best_weights"])  # tells whether they fit
        self.module.load_state_dict(state["weights"])
        self.beside.load_state_dict(state["beside"])
        if state["optimizer"] is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None and state["average"] is not None:
            self.average.restore(state["average"], self.device)
        self.epoch, self.best_epoch = int(state["epoch"]), int(state["best_epoch"])
        self.rate_share, self.pieces = float(state["rate_share"]), int(state["pieces"])
        self.best = None if state["best"] is None else Score(*state["best"])
        self.best_weights = state["best_weights"]
        self.setbacks, self.history = list(state["setbacks"]), list(state["history"])
        torch.set_rng_state(state["generators"][0])
        for generator in state["generators"][1:]:
            torch.cuda.set_rng_state(generator, self.device)

    def go_on_from(self, state: dict[str, Any]) -> None:
        """Restore what another process left, with the mode that it computed in and the time that it took."""
        self.restore(state)
        self.compute_as(Mode(**state["mode"]))
        self.earlier_seconds = float(state["seconds"])

    def snapshot(self) -> dict[str, Any]:
        """Give a state that training on does not change, in the CPU's memory."""
        state = self.state(finished=False)
        return {name: value if name == "best_weights" else _copied(value) for name, value in state.items()}

    def result(self) -> Network:
        """Give the network of the best epoch, at rest."""
        self.module.load_state_dict(self.best_weights)
        self.optimizer.zero_grad(set_to_none=True)
        self.module.requires_grad_(requires_grad=False).to("cpu").eval()
        if self.mode.channels_last:
            self.module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return self.student


def _copied(value: Any) -> Any:
    match value:
        case Tensor():
            return value.detach().to("cpu", copy=True)
        case dict():
            return {name: _copied(part) for name, part in value.items()}
        case list():
            return [_copied(part) for part in value]
        case _:
            return value


def _generators(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states
