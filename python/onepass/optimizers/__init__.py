"""The optimizers: thin classes over those of the same name in ``torch.optim``, a file each."""

from . import layerwise, recent, relatives
from .adadelta import Adadelta
from .adagrad import Adagrad
from .adam import Adam, AdamW
from .adamax import Adamax
from .asgd import ASGD
from .layerwise import *  # noqa: F403
from .momentum import Momentum
from .nadam import NAdam
from .radam import RAdam
from .recent import *  # noqa: F403
from .relatives import *  # noqa: F403
from .rmsprop import RMSprop
from .rprop import Rprop
from .sgd import SGD

__all__ = [
    "ASGD",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Momentum",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
]
__all__ += layerwise.__all__
__all__ += recent.__all__
__all__ += relatives.__all__
