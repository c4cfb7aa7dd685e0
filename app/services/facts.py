"""What inspections found, read and parsed once: the facts of a model or a data set that is ready never change.

Nobody is shown anything from here alone: whether an object is still there, is ready and is of the project that asks is
read from the database each time. An id is never given to another object.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from sqlalchemy.orm import Session

from app.db import inspections
from app.domain.dataset import DatasetFacts
from app.domain.model import ModelFacts

Found = TypeVar("Found")
_MOST_KEPT = 128


class Kept(Generic[Found]):
    """The last of what was read, by id."""

    def __init__(self, read: Callable[[Session, str], Found]) -> None:
        self._read = read
        self._found: OrderedDict[str, Found] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, session: Session, object_id: str) -> Found:
        """Give what is known of an object of which the caller knows that it is ready."""
        with self._lock:
            found = self._found.get(object_id)
            if found is not None:
                self._found.move_to_end(object_id)
                return found
        found = self._read(session, object_id)
        with self._lock:
            self._found[object_id] = found
            if len(self._found) > _MOST_KEPT:
                self._found.popitem(last=False)
        return found


def _read_model(session: Session, model_id: str) -> ModelFacts:
    facts, layers = inspections.model_facts(session, model_id)
    return ModelFacts.model_validate({**facts, "layers": layers})


def _read_dataset(session: Session, dataset_id: str) -> DatasetFacts:
    return DatasetFacts.model_validate(inspections.dataset_facts(session, dataset_id))


_models, _datasets = Kept(_read_model), Kept(_read_dataset)
of_model, of_dataset = _models.get, _datasets.get
