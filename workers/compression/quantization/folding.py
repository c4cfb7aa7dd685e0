"""Batch norms that follow a layer become part of its weights."""

import copy

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batch_norms(module: fx.GraphModule) -> fx.GraphModule:
    """Fold each batch norm into the convolution or linear layer that it alone follows, in a copy.

    W' = W·γ/√(σ²+ε), b' = (b−μ)·γ/√(σ²+ε) + β.
    """
    folded = copy.deepcopy(module).eval()
    modules = dict(folded.named_modules())
    calls = [node for node in folded.graph.nodes if node.op == "call_module"]
    uses: dict[str, int] = {}
    for node in calls:
        uses[str(node.target)] = uses.get(str(node.target), 0) + 1
    for node in calls:
        norm = modules[str(node.target)]
        source = node.args[0] if node.args else None
        if not isinstance(norm, _NORMS) or not isinstance(source, fx.Node) or source.op != "call_module":
            continue
        if len(source.users) > 1 or uses[str(source.target)] > 1 or norm.running_mean is None:
            continue
        fused = _fuse(modules[str(source.target)], norm)
        if fused is None:
            continue
        folded.set_submodule(str(source.target), fused)
        node.replace_all_uses_with(source)
        folded.graph.erase_node(node)
    folded.delete_all_unused_submodules()
    folded.graph.lint()
    folded.recompile()
    return folded


def _fuse(layer: nn.Module, norm: BatchNorm) -> nn.Module | None:
    with torch.no_grad():
        if isinstance(layer, _CONVOLUTIONS):
            return fuse_conv_bn_eval(layer, norm)
        # Over (rows, channels, length) a norm acts on another dimension than a linear layer's outputs.
        if isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
            return fuse_linear_bn_eval(layer, norm)
    return None
