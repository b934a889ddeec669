"""Looking inside: pictures of images, predictions, training, and of what a network computes."""

from minicnn.inspect.figures import (
    activation_histograms,
    architecture,
    confusion_matrix,
    convolution_figure,
    feature_maps,
    filters,
    grad_cam,
    gradient_flow,
    gradient_maps,
    im2col_figure,
    image_grid,
    misclassified,
    occlusion,
    padding_figure,
    prediction_grid,
    receptive_field_figure,
    saliency,
    show_image,
    top_patches,
    training_curves,
    update_ratios,
    winograd_figure,
)

__all__ = [
    "activation_histograms", "architecture", "confusion_matrix", "convolution_figure", "feature_maps", "filters",
    "grad_cam", "gradient_flow", "gradient_maps", "im2col_figure", "image_grid", "misclassified", "occlusion",
    "padding_figure", "prediction_grid", "receptive_field_figure", "saliency", "show_image", "top_patches",
    "training_curves", "update_ratios", "winograd_figure",
]  # fmt: skip
