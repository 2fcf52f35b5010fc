"""What several test files share."""
import torch

from models.p_ieanet import PIEANetConfig

SMALL = PIEANetConfig(levels=3, width=16, down=(1,), middle=1, structure_widths=(4, 8, 8), token_width=8, heads=2)


@torch.no_grad()
def switch_on(net, std):
    """The network with its gated blocks at work: they start as the identity."""
    for name, p in net.named_parameters():
        if name.endswith(('beta', 'gamma')):
            torch.nn.init.normal_(p, std=std)
    return net.eval()


@torch.no_grad()
def awake(net):
    """The network with its last layers drawn like the others and its blocks switched on: they start near zero, as does what it says."""
    for layer in (net.head[-1], net.skip):
        torch.nn.init.normal_(layer.weight, std=0.1)
    return switch_on(net, 0.1)
