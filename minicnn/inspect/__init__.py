"""Looking inside: pictures of images, predictions and training."""

from minicnn.inspect.figures import image_grid, prediction_grid, show_image, training_curves

__all__ = ["image_grid", "prediction_grid", "show_image", "training_curves"]
