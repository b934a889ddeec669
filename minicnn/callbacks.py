"""Callbacks by their public name: `from minicnn.callbacks import EarlyStopping`."""

from minicnn.training.callbacks.averages import SwapEMAWeights
from minicnn.training.callbacks.backup import BackupAndRestore
from minicnn.training.callbacks.base import Callback, CallbackList, LambdaCallback
from minicnn.training.callbacks.checkpoint import ModelCheckpoint
from minicnn.training.callbacks.csv_logger import CSVLogger
from minicnn.training.callbacks.history import History
from minicnn.training.callbacks.rates import LearningRateScheduler, ReduceLROnPlateau
from minicnn.training.callbacks.stopping import EarlyStopping, TerminateOnNaN
from minicnn.training.callbacks.tensorboard import TensorBoard

__all__ = [
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ReduceLROnPlateau",
    "SwapEMAWeights",
    "TensorBoard",
    "TerminateOnNaN",
]
