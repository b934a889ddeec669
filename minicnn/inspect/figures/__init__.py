"""Pictures of images, predictions, training, and of what goes on inside a network.

    predictions   show_image, image_grid, prediction_grid, misclassified, confusion_matrix
    training      training_curves, gradient_flow, update_ratios, activation_histograms
    inside        filters, feature_maps, gradient_maps, top_patches, architecture
    lessons       convolution_figure, im2col_figure, winograd_figure, padding_figure, receptive_field_figure
    why           saliency, grad_cam, occlusion

Every function returns a matplotlib Figure (architecture: an SVG text) and, with save=PATH, writes it there (.png, .pdf,
.svg …). No window is opened and pyplot is not used: nothing to close, and it works where there is no screen.

Images are (H, W), (H, W, 1) or (H, W, 3): whole numbers from 0 to 255, or floats from 0 to 1. Grey ones are shown like
ink on paper, a 0 white, since that is how MNIST and Fashion-MNIST are stored; pass cmap="gray" for photos. In all other
pictures white is 0, blue above and orange below it, and a bar gives the numbers.
"""

from minicnn.inspect.figures.attribution import (
    grad_cam,
    grad_cam_map,
    logit_gradient,
    occlusion,
    occlusion_map,
    saliency,
)
from minicnn.inspect.figures.drawing import FAINT, RIGHT, WRONG
from minicnn.inspect.figures.images import image_grid, show_image
from minicnn.inspect.figures.maps import feature_maps, filters, gradient_maps, top_activations, top_patches
from minicnn.inspect.figures.predictions import confusion_matrix, misclassified, prediction_grid
from minicnn.inspect.figures.svg import architecture
from minicnn.inspect.figures.teaching import convolution_figure, im2col_figure, winograd_figure
from minicnn.inspect.figures.training import activation_histograms, gradient_flow, training_curves, update_ratios
from minicnn.inspect.figures.windows import padding_figure, receptive_field_figure

__all__ = [
    "FAINT", "RIGHT", "WRONG", "activation_histograms", "architecture", "confusion_matrix", "convolution_figure",
    "feature_maps", "filters", "grad_cam", "grad_cam_map", "gradient_flow", "gradient_maps", "im2col_figure",
    "image_grid", "logit_gradient", "misclassified", "occlusion", "occlusion_map", "padding_figure",
    "prediction_grid", "receptive_field_figure", "saliency", "show_image", "top_activations", "top_patches",
    "training_curves", "update_ratios", "winograd_figure",
]  # fmt: skip
