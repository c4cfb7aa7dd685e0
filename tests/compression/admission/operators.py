"""Writes the list of admitted operators: ``python -m tests.compression.admission.operators``."""

import re
from pathlib import Path

import torch

import workers.compression.admission

LIST = Path(workers.compression.admission.__file__).with_name("operators.txt")

PRIVATE = frozenset(
    {
        "_adaptive_avg_pool2d",
        "_adaptive_avg_pool3d",
        "_assert_async",
        "_assert_scalar",
        "_assert_tensor_metadata",
        "_batch_norm_no_update",
        "_batch_norm_with_update",
        "_cdist_forward",
        "_conj",
        "_convolution",
        "_embedding_bag",
        "_fake_quantize_learnable_per_channel_affine",
        "_fake_quantize_learnable_per_tensor_affine",
        "_fused_rms_norm",
        "_log_softmax",
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_functional",
        "_native_batch_norm_legit_no_training",
        "_native_multi_head_attention",
        "_pdist_forward",
        "_reshape_alias",
        "_safe_softmax",
        "_scaled_dot_product_attention_math",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_softmax",
        "_stack",
        "_to_copy",
        "_transformer_encoder_layer_fwd",
        "_trilinear",
        "_unsafe_index",
        "_unsafe_view",
        "_upsample_bicubic2d_aa",
        "_upsample_bilinear2d_aa",
        "_upsample_nearest_exact1d",
        "_upsample_nearest_exact2d",
        "_upsample_nearest_exact3d",
        "_weight_norm",
        "_weight_norm_interface",
    }
)
"""Operators with a leading underscore that exports and their decompositions do hold."""

REFUSED = re.compile(
    r"from_file|set_?|set_data|resize.*|record_stream|data|requires_grad_|retain_grad|retains_grad|"
    r"output_nr|is_leaf|pin_memory|is_pinned|cudnn_.*|miopen_.*|mkldnn_.*|mps_.*|xnnpack_.*|.*sparse.*|"
    r".*(?:csr|csc|bsr|bsc).*|coalesce.*|.*_backward.*|.*_jvp|rename.*|align_.*|refine_names|"
    r"quantize_per_.*|q_.*|qscheme|int_repr|dequantize|quantized_.*|empty_quantized|fbgemm_.*|"
    r"choose_qparams.*|.*nested.*|backward|swap|sym_storage_offset|storage_offset|equal|promote_types|"
    r"result_type|can_cast|is_.*|ccol_indices.*|crow_indices.*|row_indices.*|col_indices.*|values.*|"
    r"indices.*|dense_dim|.*_cuda.*|.*rand.*|normal.*|bernoulli.*|multinomial|poisson|binomial|uniform.*|"
    r"exponential.*|geometric.*|cauchy.*|log_normal.*|rrelu.*|special_.*polynomial.*|thread_.*|"
    r"unsafe_chunk|unsafe_split.*|lu_unpack|linalg_(?!vector_norm$).*|symeig|svd|qr|geqrf|ormqr|orgqr|lstsq|cholesky.*|"
    r"triangular_solve|Storage.*|fft_.*|istft|copy_sparse.*|to_padded.*|[A-Z]\w+|__interpolate|"
    r"__upsample.*|batch_norm_(?:elemt|gather.*|stats|update_stats)|to_mkldnn|hspmm|smm|sspaddmm|"
    r"convolution_overrideable|cuda|cpu|get_device|element_size|len|dim|tensor|as_tensor|hash_tensor|"
    r"slow_conv.*|nonzero_numpy|numpy_T|unflatten_dense_tensors|flatten_dense_tensors|conv_tbc|grad|lift.*|"
    r"\w+_window"
)
"""Storage and file access, random numbers, gradients, other devices and layouts, and what no network here computes."""

QUANTIZED = [
    f"torch.ops.quantized_decomposed.{name}"
    for name in (
        "quantize_per_tensor.default",
        "quantize_per_tensor.tensor",
        "quantize_per_tensor.tensor2",
        "dequantize_per_tensor.default",
        "dequantize_per_tensor.tensor",
        "dequantize_per_tensor.tensor2",
        "quantize_per_channel.default",
        "dequantize_per_channel.default",
        "fake_quant_per_channel.default",
    )
]

SYMBOLIC = [
    *(
        f"_operator.{name}"
        for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "pow", "neg", "pos", "eq", "ne", "lt", "le")
    ),
    *(f"_operator.{name}" for name in ("gt", "ge", "and_", "or_", "not_")),
    *(f"torch.sym_{name}" for name in ("float", "int", "ite", "max", "min", "not", "sum", "sqrt")),
    *(f"math.{name}" for name in ("ceil", "floor", "trunc")),
]
"""Arithmetic on sizes."""


def admitted() -> list[str]:
    """Give every admitted operator: functional ones and their in-place forms."""
    names = []
    for schema in torch._C._jit_get_all_schemas():
        namespace, _, name = schema.name.partition("::")
        if namespace != "aten" or not _is_plain(schema) or _is_refused(name):
            continue
        names.append(f"torch.ops.aten.{name}.{schema.overload_name or 'default'}")
    return sorted({*names, *QUANTIZED, *SYMBOLIC})


def _is_refused(name: str) -> bool:
    private = name.startswith("_") and not name.startswith("__") and name.removesuffix("_") not in PRIVATE
    return private or REFUSED.fullmatch(name) is not None


def _is_plain(schema: torch.FunctionSchema) -> bool:
    """Tell whether the operator takes and gives tensors and numbers, and writes into no tensor but its own."""
    kinds = {str(value.type) for value in (*schema.arguments, *schema.returns)}
    odd = re.compile(
        r"Storage|Generator|Stream|Any|Dict|__torch__|QScheme|Future|\bt\b|\bt\[\]|Dimname|NoneType|str\[\]"
    )
    if any(odd.search(kind) for kind in kinds) or (not schema.returns and not schema.name.startswith("aten::_assert")):
        return False
    if re.search(r"(?:^|_)out$", schema.overload_name) or any(argument.is_out for argument in schema.arguments):
        return False
    if not any("Tensor" in kind for kind in kinds):
        return False
    return hasattr(getattr(torch.ops.aten, schema.name.partition("::")[2]), schema.overload_name or "default")


if __name__ == "__main__":
    LIST.write_text("\n".join(admitted()) + "\n", encoding="ascii")
