"""torch.hub entry points. From a clone, offline; or from GitHub by OWNER/REPOSITORY.

    import torch
    model = torch.hub.load('path/to/this/clone', 'p_ieanet', source='local')   # (B, 3, H, W) on [0, 1] -> (B, 1, H, W)
    predictor = torch.hub.load('path/to/this/clone', 'predictor', source='local')
    loss = torch.hub.load('path/to/this/clone', 'exposure_loss', source='local')
"""
import sys as _sys
from pathlib import Path as _Path

dependencies = ['torch', 'numpy', 'PIL', 'cv2', 'safetensors', 'tqdm']

_ROOT = _Path(__file__).resolve().parent
_WEIGHTS = _ROOT / 'checkpoints' / 'p_ieanet.safetensors'


def _check_names():
    """Our packages have everyday names: say so when another project's are loaded in their place."""
    for name in ('models', 'datasets', 'exposure'):
        module = _sys.modules.get(name)
        paths = [] if module is None else [_Path(p).resolve() for p in getattr(module, '__path__', [])]
        if module is not None and _ROOT / name not in paths:
            where = paths[0] if paths else getattr(module, '__file__', 'unknown')
            raise ImportError(f'another package {name!r} is loaded already ({where}); load this model before importing it')


def p_ieanet(checkpoint=None, device='cpu', pretrained=True, **config):
    """P-IEANet in eval mode: (B, 3, H, W) RGB on [0, 1], H, W >= 32 -> residual (B, 1, H, W), + under, - over.

    Args:
        checkpoint: our .safetensors or the authors' .pth; None: the weights of this clone.
        pretrained: False gives a freshly initialised network, and ``config`` is for ``PIEANetConfig``.

    Raises:
        CheckpointError (a ValueError): in one line, when the weights cannot be read.
    """
    _check_names()
    from models import PIEANet, PIEANetConfig, load_model
    if pretrained:
        if config:
            raise ValueError(f'{sorted(config)} can only be given with pretrained=False: the weights bring their own')
        return load_model(checkpoint or _WEIGHTS, device)
    if checkpoint is not None:
        raise ValueError('give either a checkpoint or pretrained=False')
    return PIEANet(PIEANetConfig.from_dict(config)).to(device).eval()


def predictor(checkpoint=None, device='auto', **options):
    """Pictures (paths or PIL) to full-size maps and scores, see ``exposure.Predictor``."""
    _check_names()
    from exposure import Predictor
    return Predictor(checkpoint, device, **options)


def exposure_loss(checkpoint=None, **options):
    """The frozen network as a training loss, see ``exposure.loss.ExposureLoss``."""
    _check_names()
    from exposure.loss import ExposureLoss
    return ExposureLoss(checkpoint, **options)
