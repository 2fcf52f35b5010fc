"""Networks: tensors in, tensors out. No files (except checkpoint.py), no device choice, no globals."""
from .checkpoint import CheckpointError, load_model, save_model
from .p_ieanet import PIEANet, PIEANetConfig, set_ideal

__all__ = ['CheckpointError', 'PIEANet', 'PIEANetConfig', 'load_model', 'save_model', 'set_ideal']
