"""Methods to compare P-IEANet with: untrained.py needs no training, the networks listed here have a file each."""
from importlib import import_module

NETWORKS = {  # file, which is also the name for --model and in checkpoints -> class
    'encoder_decoder': 'EncoderDecoder',
    'iqa_resnet50': 'IQAResNet50',
    'mslt': 'MSLT',
    'nafnet': 'NAFNet',
    'retinexformer': 'Retinexformer',
    'tone_curve': 'ToneCurve',
    'unet': 'UNet',
    'zerodce': 'ZeroDCE',
}


def make(name, settings):
    """A freshly initialised network of the list, from a dict of the arguments that its class takes."""
    return getattr(import_module(f'.{name}', __name__), NETWORKS[name])(**settings)
