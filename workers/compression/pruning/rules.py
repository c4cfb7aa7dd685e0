"""What each operator that computes does to ids; one that is not listed freezes what it sees."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch

from workers.compression.pruning.ids import along, squash, varies
from workers.compression.pruning.movement import MOVES, move, pad
from workers.compression.pruning.products import meet, product
from workers.compression.pruning.walk import Call, Ids

Rule = Callable[[Call], Ids]


def follow(call: Call) -> Ids:
    """Give the ids of the operator's result, having joined and frozen what it ties."""
    rule = RULES.get(call.op)
    if rule is not None:
        return rule(call)
    if call.op in MOVES:
        return move(call)
    if torch.Tag.pointwise in getattr(call.node.target, "tags", ()):
        return elementwise(call)
    return call.unknown()


def elementwise(call: Call) -> Ids:
    ids = call.tensors()
    if not ids:
        return constant(call)
    if torch.broadcast_shapes(*(part.shape for part in ids)) != call.output.shape:
        return call.unknown()
    return meet(call.space, ids, call.output.shape)


def constant(call: Call) -> Ids:
    return call.each_output(lambda value: call.space.constant(value.shape, f"{call.node.name!r} has a fixed size"))


def size(_call: Call) -> Ids:
    return None


def _channels(call: Call, axis: int) -> torch.Tensor:
    """Join all that stands in one channel and give one id for each."""
    ids = call.ids("input" if "input" in call.given else "self")
    vector = ids
    for other in reversed(range(ids.dim())):
        if other != axis:
            vector = vector.select(other, 0)
    call.space.join(ids, along(vector, axis, ids.shape))
    return vector


def convolution(call: Call) -> Ids:
    """Join each input channel with the weight's; grouped: the same position in every group."""
    weight, groups = call.value("weight"), call.value("groups")
    if call.param("weight") is None:
        return call.unknown()
    axis = call.output.dim() - weight.dim() + 1
    channels = _channels(call, axis)
    call.produces("weight", 0)
    out = call.dimension("weight", 0)
    if groups == 1:
        call.space.join(channels, call.dimension("weight", 1))
    elif weight.shape[1] == 1:
        call.space.join(channels.repeat_interleave(weight.shape[0] // groups), out)
    else:
        call.space.join(channels.view(groups, -1), call.dimension("weight", 1))
        _same_position(call, out, groups)
    return _biased(call, out, axis)


def transposed_convolution(call: Call) -> Ids:
    weight, groups = call.value("weight"), call.value("groups")
    if call.param("weight") is None:
        return call.unknown()
    axis = call.output.dim() - weight.dim() + 1
    entering = call.dimension("weight", 0)
    call.space.join(_channels(call, axis), entering)
    if groups == weight.shape[0] and groups > 1:
        call.produces("weight", 0)
        return _biased(call, entering.repeat_interleave(weight.shape[1]), axis)
    call.produces("weight", 1)
    if groups > 1:
        _same_position(call, entering, groups)
    return _biased(call, call.dimension("weight", 1).repeat(groups), axis)


def _same_position(call: Call, ids: torch.Tensor, groups: int) -> None:
    by_group = ids.view(groups, -1)
    call.space.join(by_group, by_group[:1])


def _biased(call: Call, out: torch.Tensor, axis: int) -> Ids:
    if call.given.get("bias") is not None:
        if call.param("bias") is None:
            return call.unknown()
        call.space.join(out, call.dimension("bias", 0))
    return along(out, axis, call.output.shape)


def linear(call: Call) -> Ids:
    if call.param("weight") is None:
        return call.unknown()
    call.space.join(call.ids("input"), call.dimension("weight", 1))
    call.produces("weight", 0)
    return _biased(call, call.dimension("weight", 0), call.output.dim() - 1)


def embedding(call: Call) -> Ids:
    if call.param("weight") is None:
        return call.unknown()
    call.produces("weight", 1)
    return along(call.dimension("weight", 1), call.output.dim() - 1, call.output.shape)


def per_channel(call: Call) -> Ids:
    """Batch norm and the like: parameters and statistics go with their channel."""
    channels = _channels(call, 1)
    for key in ("weight", "bias", "running_mean", "running_var"):
        if call.given.get(key) is None:
            continue
        if call.param(key) is None:
            return call.unknown()
        if len(call.value(key)) > 1 or len(channels) == 1:
            call.space.join(channels, call.dimension(key, 0))
    return call.each_output(lambda value: along(channels, 1, value.shape))


def spatial(call: Call) -> Ids:
    """Pooling and interpolation: channels stay what they are, positions do not."""
    found = re.search(r"(\d)d", call.op)
    assert found is not None
    ids = call.ids("input" if "input" in call.given else "self")
    axis = ids.dim() - int(found[1]) - 1
    channels = _channels(call, axis)
    return call.each_output(lambda value: along(channels, axis, value.shape))


def _axes(call: Call, rank: int) -> list[int]:
    if call.op in {"layer_norm", "rms_norm"}:
        return list(range(rank - len(call.value("normalized_shape")), rank))
    if call.op == "group_norm":
        return [1]
    axes = call.value("dim")
    listed = list(range(rank)) if axes is None or axes == [] else [axes] if isinstance(axes, int) else list(axes)
    return [axis % rank for axis in listed] if rank else []


def across(call: Call) -> Ids:
    """Softmax and norms: what they normalize over cannot lose an index, all else passes."""
    ids = call.tensors()[0]
    if any(varies(ids, axis) for axis in _axes(call, ids.dim())):
        return call.freeze(call.tensors(), f"{call.op!r} ({call.node.name}) works across its channels")
    return call.each_output(lambda _: ids)


def reduction(call: Call) -> Ids:
    if "other" in call.given:
        return elementwise(call)
    ids = call.tensors()[0]
    axes = _axes(call, ids.dim())
    if any(varies(ids, axis) for axis in axes):
        return call.freeze([ids], f"{call.op!r} ({call.node.name}) reduces its channels to one value")
    for axis in sorted(axes, reverse=True):
        ids = ids.narrow(axis, 0, 1) if call.value("keepdim") else ids.select(axis, 0)
    return call.each_output(lambda value: ids.expand(value.shape))


def matrix_product(call: Call) -> Ids:
    left, right = ("mat1", "mat2") if "mat1" in call.given else ("self", "mat2" if "mat2" in call.given else "other")
    if call.param(left) is not None or call.ids(left).dim() < 2:
        return call.unknown()
    if call.param(right) is not None:
        if call.value(right).dim() != 2:
            return call.unknown()
        call.space.join(call.ids(left), call.dimension(right, 0))
        call.produces(right, 1)
        out = along(call.dimension(right, 1), call.output.dim() - 1, call.output.shape)
    elif call.ids(right).dim() < 2:
        return call.unknown()
    else:
        out = product(call.space, call.ids(left), call.ids(right), call.node.name)
    return meet(call.space, [out, call.ids("self")], call.output.shape) if "mat1" in call.given else out


def attention(call: Call) -> Ids:
    """Softmax(Q·Kᵀ)·V: a head's indices go together; alone, the scale depends on how many there are."""
    query, key, value = call.ids("query"), call.ids("key"), call.ids("value")
    if call.value("enable_gqa"):
        key, value = (ids.repeat_interleave(query.shape[-3] // ids.shape[-3], dim=-3) for ids in (key, value))
    scores = product(call.space, query, key.transpose(-1, -2), call.node.name)
    if call.value("scale") is None and not any(varies(scores, axis) for axis in range(scores.dim())):
        reason = f"{call.op!r} ({call.node.name}) scales by the width of its only head"
        call.space.freeze(query, reason)
        call.space.freeze(key, reason)
    if call.given.get("attn_mask") is not None:
        scores = meet(call.space, [scores, call.ids("attn_mask")], scores.shape)
    return product(call.space, scores, value, call.node.name)


def indexed(call: Call) -> Ids:
    """Pick rows of a table: none of them can go, the other dimensions pass."""
    ids, indices = call.ids("self"), call.value("indices")
    if any(index is not None and index.dtype is torch.bool for index in indices):
        return call.unknown()
    for axis, index in enumerate(indices):
        if index is not None:
            call.space.join(ids, ids.narrow(axis, 0, 1))
            ids = ids.narrow(axis, 0, 1).expand(ids.shape)
    return squash(ids[tuple(slice(None) if index is None else index for index in indices)])


def outer_product(call: Call) -> Ids:
    return meet(call.space, [call.ids("self")[:, None], call.ids("vec2")[None]], call.output.shape)


def _named(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: dict[str, Rule] = {
    **_named(convolution, "conv1d conv2d conv3d"),
    **_named(transposed_convolution, "conv_transpose1d conv_transpose2d conv_transpose3d"),
    **_named(linear, "linear"),
    **_named(embedding, "embedding"),
    **_named(per_channel, "batch_norm prelu instance_norm"),
    **_named(
        spatial,
        "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
        "adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d max_pool2d_with_indices "
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d "
        "upsample_bicubic2d upsample_trilinear3d reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d",
    ),
    **_named(across, "softmax log_softmax _softmax _log_softmax cumsum layer_norm rms_norm group_norm"),
    **_named(
        reduction, "mean sum amax amin max min argmax argmin norm std var prod any all logsumexp linalg_vector_norm"
    ),
    **_named(matrix_product, "matmul mm bmm addmm"),
    **_named(attention, "scaled_dot_product_attention"),
    **_named(indexed, "index"),
    **_named(outer_product, "outer"),
    **_named(pad, "constant_pad_nd pad"),
    **_named(size, "sym_size"),
    **_named(
        constant, "zeros ones full arange empty scalar_tensor eye linspace rand randn new_zeros new_ones new_full"
    ),
    **_named(
        elementwise,
        "relu relu6 hardtanh sigmoid tanh silu gelu hardswish hardsigmoid leaky_relu elu selu celu mish softplus "
        "log_sigmoid dropout feature_dropout to _to_copy type_as clamp clamp_min clamp_max masked_fill rsub where "
        "zeros_like ones_like full_like alpha_dropout identity __and__ __or__ __xor__",
    ),
}
