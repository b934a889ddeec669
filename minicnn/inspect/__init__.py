"""Looking inside: pictures of images, predictions, training, and of what a network computes.

The figures are imported when the first one is used: a trace alone needs none of them.
"""

from typing import Any

__all__ = [
    "activation_histograms", "architecture", "confusion_matrix", "convolution_figure", "feature_maps", "filters",
    "grad_cam", "gradient_flow", "gradient_maps", "im2col_figure", "image_grid", "misclassified", "occlusion",
    "padding_figure", "prediction_grid", "receptive_field_figure", "saliency", "show_image", "top_patches",
    "training_curves", "update_ratios", "winograd_figure",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in __all__:
        from minicnn.inspect import figures

        return getattr(figures, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
