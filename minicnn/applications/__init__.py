"""Networks that others designed, ready to train or to load: VGG16 and SmallVGGNet."""

from minicnn.applications import vgg16
from minicnn.applications.small_vggnet import SmallVGGNet
from minicnn.applications.vgg16 import VGG16

__all__ = ["VGG16", "SmallVGGNet", "vgg16"]
