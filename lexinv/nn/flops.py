"""Floating-point operations of a language model by token, and what devices can do: tokens per second as a share of the peak."""

from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import require

PEAK_FLOPS = {
    "TPU v2": 45e12,
    "TPU v3": 123e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
    "Tesla T4": 65e12,
    "Tesla V100-SXM2-16GB": 125e12,
}
"""Dense bfloat16 (T4, V100: float16) operations per second of one `jax.Device.device_kind`, from the makers' data sheets."""


def forward_flops(config: TransformerConfig, vocab: int, time: int) -> float:
    """Floating-point operations of reading and predicting one token of a sequence of `time`, the mean over its positions.

    2 for each multiply-add of the linear maps, of scores and weighted values, and of the logits; norms, softmax, convolutions and the
    drawing of lexica are not counted. Causal attention is counted for the tokens that a query sees, half of them on average (Chowdhery
    et al. 2022, appendix B, counts all).
    """
    require(vocab >= 1, "vocab", vocab, "at least 1")
    require(time >= 1, "time", time, "at least 1")
    everywhere, reach = len(config.global_layers) if config.window else config.depth, min(config.window, time)
    of_all = (time + 1) / 2 if config.causal else float(time)
    of_window = reach - reach * (reach - 1) / 2 / time
    width = config.width
    inner, outer = config.heads * config.head_dim, config.keys_and_values * config.head_dim
    mlp = (2 if config.gate == "none" else 3) * width * config.mlp_width
    maps = 2 * width * (inner + outer) + mlp
    if config.parameter_pairs:  # three maps from the width and one to it, and the MLP as four
        maps = config.parameter_pairs * (4 * width + 2 * (inner + outer) + 8 * width)
    scores = 2 * inner * (everywhere * of_all + (config.depth - everywhere) * of_window)
    output = width * vocab + (width**2 if config.output == "matrix" else 0)
    return 2.0 * (config.depth * maps + scores + output)


def train_flops(config: TransformerConfig, vocab: int, time: int) -> float:
    """Of one token in training: three times `forward_flops`, since each product has two in its gradient. Recomputing is not counted."""
    return 3.0 * forward_flops(config, vocab, time)


def utilisation(flops_per_second: float, device_kind: str, devices: int) -> float | None:
    """Model FLOP utilisation (Chowdhery et al. 2022): the share of the devices' peak; None for a kind that is not in PEAK_FLOPS."""
    peak = PEAK_FLOPS.get(device_kind)
    return None if peak is None else flops_per_second / (peak * devices)
