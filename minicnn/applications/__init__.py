"""Networks that others designed, ready to train or to load: VGG16, SmallVGGNet and ResNet20."""

from minicnn.applications import vgg16
from minicnn.applications.resnet20 import ResNet20
from minicnn.applications.small_vggnet import SmallVGGNet
from minicnn.applications.vgg16 import VGG16

__all__ = ["VGG16", "ResNet20", "SmallVGGNet", "vgg16"]
