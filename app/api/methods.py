"""``/methods``: what a recipe can be made of."""

from fastapi import APIRouter

from app.api.deps import Reader
from app.api.schemas import Items, MethodOut
from app.domain.errors import NotFound
from app.domain.recipe import SPECS

router = APIRouter(prefix="/methods", tags=["methods"])


@router.get("")
def list_methods(_: Reader) -> Items[MethodOut]:
    """List the methods, each with the JSON Schema of its step."""
    return Items(items=[MethodOut.of(name, spec) for name, spec in SPECS.items()])


@router.get("/{name}")
def get_method(_: Reader, name: str) -> MethodOut:
    """Show one method."""
    if name not in SPECS:
        raise NotFound(f"There is no method {name!r}; there are {', '.join(SPECS)}.")
    return MethodOut.of(name, SPECS[name])
