"""A training under way: all that changes from epoch to epoch, so that another process can go on with it."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from app.domain.steps.training import TrainingSpec
from workers.compression.network import Network
from workers.compression.training.criterion import Criterion
from workers.compression.training.optimizer import make_optimizer


@dataclass(frozen=True)
class Score:
    """How an epoch did on the held-out rows: the task's figure, of which more is better, and the loss."""

    figure: float
    loss: float

    def better(self, other: "Score | None") -> bool:
        return other is None or (self.figure, -self.loss) > (other.figure, -other.loss)


class Run:
    """One training of one student, with what its criterion trains beside it."""

    def __init__(self, network: Network, spec: TrainingSpec, criterion: Criterion, device: torch.device) -> None:
        self.student = network.clone()
        self.module = self.student.module.to(device).requires_grad_(requires_grad=True)
        beside = criterion.attach(self.module)
        self.beside = torch.nn.Module() if beside is None else beside.to(device)
        self.optimizer = make_optimizer(torch.nn.ModuleList([self.module, self.beside]), spec)
        self.device = device
        self.epoch = 0
        self.best: Score | None = None
        self.best_epoch = 0
        self.best_weights: dict[str, Tensor] = {}
        self.history: list[dict[str, float]] = []
        self.earlier_seconds = 0.0
        self._began = time.monotonic()

    def end_epoch(self, score: Score, found: dict[str, float]) -> None:
        """Count the epoch that has just been trained, and keep its weights where no other did better."""
        self.epoch += 1
        self.history.append({"epoch": self.epoch, **found})
        if score.better(self.best):
            self.best, self.best_epoch = score, self.epoch
            self.best_weights = {name: value.clone() for name, value in self.module.state_dict().items()}

    def state(self, *, finished: bool) -> dict[str, Any]:
        """Give what :meth:`restore` takes. The schedule and the order of rows follow from the epoch alone.

        Of a finished training the best weights are all that matters, so that it takes a third of the room.
        """
        assert self.best is not None
        return {
            "epoch": self.epoch,
            "weights": self.best_weights if finished else self.module.state_dict(),
            "beside": self.beside.state_dict(),
            "optimizer": None if finished else self.optimizer.state_dict(),
            "generators": _generators(self.device),
            "best": (self.best.figure, self.best.loss),
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
            "history": self.history,
            "seconds": self.earlier_seconds + time.monotonic() - self._began,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state. Raises whatever a state of another network or of no training causes."""
        self.module.load_state_dict(state["best_weights"])  # tells whether they fit
        self.module.load_state_dict(state["weights"])
        self.beside.load_state_dict(state["beside"])
        if state["optimizer"] is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.best_epoch = int(state["epoch"]), int(state["best_epoch"])
        self.best, self.best_weights = Score(*state["best"]), state["best_weights"]
        self.history, self.earlier_seconds = list(state["history"]), float(state["seconds"])
        torch.set_rng_state(state["generators"][0])
        for generator in state["generators"][1:]:
            torch.cuda.set_rng_state(generator, self.device)

    def result(self) -> Network:
        """Give the network of the best epoch, at rest."""
        self.module.load_state_dict(self.best_weights)
        self.optimizer.zero_grad(set_to_none=True)
        self.module.requires_grad_(requires_grad=False).to("cpu").eval()
        return self.student


def _generators(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states
