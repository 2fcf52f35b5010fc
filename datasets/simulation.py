"""Exposure simulation in linear light: from one well-exposed photograph to the same picture exposed otherwise.

An 8-bit photograph multiplied by 2^EV gives itself away: its brightest pixel, and the gaps between its levels, tell the exposure, and a
network learns that cue instead of exposure. So a photograph is first dithered, then taken back to scene light through the
inverse of a random camera curve, its clipped highlights are given light that the camera did not record, and only then exposed anew:

    scene light E = curve^-1(picture + dither), clipped pixels pushed beyond the white point by a random headroom
    picture' = round(255 curve(E 2^(EV + field) white_balance + noise)), JPEG

With EV 0, no field, no cast and no noise this returns the 8-bit picture exactly. All tensors are batched, every picture has its own curve,
everything random comes from one torch.Generator on the CPU (noise by the pixel from one on the GPU that it seeds), and the arithmetic runs
wherever the pictures are.

The order of magnitude of each knob: tone curves as measured over cameras by Grossberg and Nayar (CVPR 2003) and Debevec and
Malik (SIGGRAPH 1997): display gamma 1.8 to 2.6 with a shoulder; sensor noise as shot plus read noise (Foi et al., TIP 2008).
"""
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class SimulationConfig:
    """Ranges are drawn uniformly per picture. The defaults are for training; ``photos`` test sets use :meth:`protocol`."""
    ev: tuple = (-5.5, 4.0)            # global exposure, stops; brackets reach further to the dark
    ev_sigma: float = 3.0              # spread of the exposures: normal, cut at ``ev`` (brackets lie around the middle)
    unchanged: float = 0.08            # share of pictures left as they are: "all fine" must be learned too
    gamma: tuple = (1.8, 2.6)          # display gamma of the camera curve
    white: tuple = (1.0, 6.0)          # scene light that reaches white; 1 is a curve without shoulder
    contrast: tuple = (0.5, 5.0)       # slope of the sigmoid contrast of the picture style
    black: tuple = (0.0, 0.01)         # scene light (and flare) that the camera still shows as black
    headroom: tuple = (0.0, 2.5)       # stops of light beyond white in the picture's clipped pixels
    mixed: float = 0.45                # share of pictures with an exposure that differs over the picture
    mixed_ev: tuple = (0.5, 3.0)       # half range of that field, stops
    cast: float = 0.12                 # standard deviation of the white-balance error per channel, stops
    colour: float = 0.3                # share of pictures with other saturation, down to black and white; their grey stays
    saturation: tuple = (0.0, 1.5)
    noise: float = 0.5                 # share of pictures with sensor noise
    shot: tuple = (1e-5, 2e-3)         # shot noise: variance per unit of scene light, log-uniform
    read: tuple = (1e-4, 6e-3)         # read noise: standard deviation in scene light, log-uniform
    jpeg: float = 0.5                  # share of pictures that went through JPEG
    jpeg_quality: tuple = (40.0, 97.0)

    @classmethod
    def protocol(cls):
        """What the ``photos`` sets use: a random curve with headroom, nothing else; EV is given, JPEG is the file's."""
        return cls(unchanged=0.0, mixed=0.0, cast=0.0, colour=0.0, noise=0.0, jpeg=0.0, black=(0.0, 0.0))

    @classmethod
    def jitter(cls):
        """Augmentation of pictures whose label is known: half are left alone, the others move by about a stop, and keep what they clip."""
        return cls(unchanged=0.5, ev=(-2.0, 2.0), ev_sigma=0.7, mixed=0.1, mixed_ev=(0.3, 1.0), headroom=(0.0, 0.5), noise=0.2, jpeg=0.2)


@dataclass
class CameraCurve:
    """A camera's response, scene light -> display, with its exact inverse. Every field is a (B, 1, 1, 1) tensor.

    E -> subtract black -> shoulder t = u (1 + u / W^2) / (1 + u) (extended Reinhard; W = 1 is a straight line, t(W) = 1)
      -> t^(1/gamma) -> sigmoid contrast about ``pivot``. Monotone; light beyond W is clipped to white, each channel by itself.
    """
    gamma: torch.Tensor
    white: torch.Tensor
    contrast: torch.Tensor
    pivot: torch.Tensor
    black: torch.Tensor

    def _sigmoid(self, x):
        return torch.sigmoid(self.contrast * (x - self.pivot))

    def to_display(self, light):
        """Scene light (B, 3, H, W) >= 0 -> display on [0, 1]."""
        u = ((light - self.black) / (1 - self.black)).clamp_min(0)
        u = torch.minimum(u, self.white)
        v = (u * (1 + u / self.white ** 2) / (1 + u)).clamp(0, 1) ** (1 / self.gamma)
        low, high = self._sigmoid(torch.zeros_like(self.pivot)), self._sigmoid(torch.ones_like(self.pivot))
        return ((self._sigmoid(v) - low) / (high - low)).clamp(0, 1)

    def to_light(self, picture):
        """Display (B, 3, H, W) on [0, 1] -> scene light on [black, white]; the exact inverse of :meth:`to_display`."""
        low, high = self._sigmoid(torch.zeros_like(self.pivot)), self._sigmoid(torch.ones_like(self.pivot))
        v = (self.pivot + torch.logit(low + picture * (high - low)) / self.contrast).clamp(0, 1)
        t = v ** self.gamma
        u = 2 * t / ((1 - t) + ((1 - t) ** 2 + 4 * t / self.white ** 2).sqrt())
        return self.black + (1 - self.black) * u

    def to(self, device):
        return CameraCurve(*(move(t, device) for t in vars(self).values()))


def move(tensor, device):
    """A small tensor to the device, without waiting for the work that a GPU still has in hand."""
    return tensor.to(device, non_blocking=True)


def uniform(n, low_high, generator):
    """(n, 1, 1, 1) numbers uniform on ``low_high``."""
    low, high = low_high
    return low + (high - low) * torch.rand(n, 1, 1, 1, generator=generator)


def log_uniform(n, low_high, generator):
    return uniform(n, [math.log(v) for v in low_high], generator).exp()


def random_curve(n, config, generator):
    """``n`` camera curves drawn from the config's ranges."""
    white = 2 ** uniform(n, [math.log2(v) for v in config.white], generator)
    return CameraCurve(uniform(n, config.gamma, generator), white, uniform(n, config.contrast, generator),
                       uniform(n, (0.4, 0.6), generator), uniform(n, config.black, generator))


def smooth_noise(n, size, cells, generator, device='cpu'):
    """(n, 1, H, W) smooth random map on [-1, 1] made of ``cells`` x ``cells`` random numbers."""
    coarse = move(torch.rand(n, 1, cells, cells, generator=generator) * 2 - 1, device)
    return F.interpolate(coarse, size=size, mode='bicubic', align_corners=True).clamp(-1, 1)


def on_device(generator, device):
    """The generator for whole pictures of noise: the CPU's own, or one on the GPU seeded by it (a GPU would wait for the CPU's)."""
    if device.type == 'cpu':
        return generator
    seed = torch.randint(2 ** 62, (1,), generator=generator).item()
    return torch.Generator(device).manual_seed(seed)


def draw_kinds(n, shares, generator):
    """(n,) indices, each drawn with its share: the first of as many races of exponential waiting times.

    Not torch.multinomial, whose draws changed between PyTorch 2.6 and 2.15: sets must not hang on the version.
    """
    u = torch.rand(n, len(shares), generator=generator, dtype=torch.float64)
    return (torch.tensor(shares, dtype=torch.float64) / -torch.log1p(-u)).argmax(1)


def exposure_field(pictures, generator):
    """Exposure that differs over the picture, each of a kind that photographers meet: (B, 1, H, W) on [-1, 1].

    Drawn per picture: smooth patches; a soft or hard edge across the picture (shade and sun, a window wall); a spot light or
    flash fall-off; vignette; and backlight or flat light, where the field follows the picture's own large-scale brightness.
    """
    (b, _, h, w), device = pictures.shape, pictures.device

    def draw(f, low_high):
        return move(f(b, low_high, generator), device)
    y, x = torch.meshgrid(torch.linspace(-1, 1, h, device=device), torch.linspace(-1, 1, w, device=device), indexing='ij')
    x, y = x[None, None], y[None, None]
    patches = smooth_noise(b, (h, w), 4, generator, device) * 1.5
    angle = draw(uniform, (0, 2 * math.pi))
    edge = torch.tanh((x * angle.cos() + y * angle.sin() + draw(uniform, (-.5, .5))) * draw(log_uniform, (1.0, 30.0)))
    cx, cy, radius = draw(uniform, (-.8, .8)), draw(uniform, (-.8, .8)), draw(uniform, (.3, 1.0))
    spot = 2 * torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * radius ** 2)) - 1
    vignette = (1 - (x ** 2 + y ** 2)).expand(b, -1, -1, -1)
    grey = pictures.mean(1, keepdim=True)
    coarse = F.interpolate(F.interpolate(grey, size=(12, 12), mode='bilinear', antialias=True), size=(h, w), mode='bicubic')
    sign = move(torch.where(torch.rand(b, 1, 1, 1, generator=generator) < .8, 1.0, -1.0), device)
    own = sign * (coarse - coarse.mean((2, 3), keepdim=True)) * 3
    kinds = torch.stack((patches, edge, spot, vignette, own)).clamp(-1, 1)
    kind = draw_kinds(b, (.25, .25, .15, .05, .3), generator)
    return kinds[move(kind, device), torch.arange(b, device=device)]


def add_headroom(light, picture, curve, stops, generator):
    """Give pixels that the 8-bit picture shows as clipped (254.5 or more) light beyond the white point: up to ``stops``, smooth."""
    b, _, h, w = picture.shape
    amount = (smooth_noise(b, (h, w), 6, generator, picture.device) + 1) / 2 * move(torch.as_tensor(stops), picture.device)
    return torch.where(picture >= 254.5 / 255, torch.maximum(light, curve.white) * torch.exp2(amount), light)


def random_ev(n, config, generator):
    """(n, 1, 1, 1) global exposures in stops: normal with ``ev_sigma``, cut at ``ev``."""
    ev = torch.randn(n, 1, 1, 1, generator=generator) * config.ev_sigma
    low, high = config.ev
    return torch.where((ev < low) | (ev > high), uniform(n, config.ev, generator), ev)


def quantise(x):
    """Round to 8 bit; the result is on the levels k/255."""
    return (x * 255).round().clamp(0, 255) / 255


_QUANT = {  # Annex K of ITU-T T.81
    'luma': [16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
             14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
             49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99],
    'chroma': [17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
               47, 66, 99, 99, 99, 99, 99, 99] + [99] * 32}


def jpeg_artifacts(x, quality):
    """What JPEG does to a picture, without the file: 8x8 DCT, quantisation by the standard tables, 4:4:4.

    Args:
        x: (B, 3, H, W) on [0, 1]; sides need not be multiples of 8.
        quality: (B, 1, 1, 1), 1 to 100, the scale of libjpeg.

    Returns:
        (B, 3, H, W) on [0, 1], 8-bit levels.
    """
    b, _, h, w = x.shape
    y = F.pad(x * 255, (0, -w % 8, 0, -h % 8), mode='replicate')
    to_ycc = torch.tensor([[.299, .587, .114], [-.168736, -.331264, .5], [.5, -.418688, -.081312]])
    to_rgb, to_ycc = move(torch.linalg.inv(to_ycc), x.device), move(to_ycc, x.device)
    middle = move(torch.tensor([128.0, 0, 0])[:, None, None], x.device)
    y = torch.einsum('ij,bjhw->bihw', to_ycc, y) - middle
    k = torch.arange(8, device=x.device, dtype=x.dtype)
    dct = torch.cos((2 * k[None] + 1) * k[:, None] * math.pi / 16) * 0.5
    dct[0] *= 2 ** -0.5
    table = move(torch.tensor([_QUANT[n] for n in ('luma', 'chroma', 'chroma')], dtype=x.dtype).view(3, 8, 8), x.device)
    scale = move(torch.where(quality < 50, 5000 / quality, 200 - 2 * quality), x.device).view(b, 1, 1, 1)
    table = ((table[None] * scale + 50) / 100).floor().clamp(1, 255)[:, :, None, :, None, :]
    blocks = y.reshape(b, 3, y.shape[2] // 8, 8, y.shape[3] // 8, 8)
    coefficients = torch.einsum('ui,bcyixj,vj->bcyuxv', dct, blocks, dct)
    coefficients = (coefficients / table).round() * table
    y = torch.einsum('ui,bcyuxv,vj->bcyixj', dct, coefficients, dct).reshape(b, 3, y.shape[2], y.shape[3])
    rgb = torch.einsum('ij,bjhw->bihw', to_rgb, y + middle)
    return quantise(rgb[..., :h, :w] / 255)


def expose(pictures, ev, curve, generator, headroom=0.0, dither=True):
    """Expose 8-bit pictures anew by ``ev`` stops (a number, (B, 1, 1, 1), or a field (B, 1, H, W)); no noise, cast or JPEG.

    Args:
        pictures: (B, 3, H, W) on the levels k/255.
        curve: :class:`CameraCurve` for these pictures, on their device.
        generator: CPU torch.Generator for dither and headroom.
        headroom: stops of light beyond white in clipped pixels, number or (B, 1, 1, 1).

    Returns:
        (B, 3, H, W) display light on [0, 1], not yet rounded; rounding returns ``pictures`` exactly where ``ev`` is 0.
    """
    return curve.to_display(scene_light(pictures, curve, generator, headroom, dither) * torch.exp2(torch.as_tensor(ev)))


def scene_light(pictures, curve, generator, headroom=0.0, dither=True):
    """Scene light of 8-bit pictures under a curve, clipped highlights with headroom; see :func:`expose`."""
    noisy = pictures
    if dither:
        # Just under half a level, so that rounding still finds the level it came from.
        noise = torch.rand(pictures.shape, generator=on_device(generator, pictures.device), device=pictures.device)
        noisy = (pictures + (noise - 0.5) * 0.98 / 255).clamp(0, 1)
    return add_headroom(curve.to_light(noisy), pictures, curve, headroom, generator)


def simulate(pictures, generator, config=SimulationConfig()):
    """A training batch out of well-exposed pictures.

    Args:
        pictures: (B, 3, H, W) RGB on the levels k/255, the ideal references; the device decides where it runs.
        generator: CPU torch.Generator; the same seed gives the same batch on the same kind of device.
        config: ranges to draw from.

    Returns:
        ``(image, ev)``: image (B, 3, H, W) on the levels k/255, and the global exposure (B,) in stops. The label is
        ``luma(pictures) - luma(image)``.
    """
    b, device = len(pictures), pictures.device

    def choose(share):
        return move(torch.rand(b, 1, 1, 1, generator=generator) < share, device)

    curve = random_curve(b, config, generator).to(device)
    headroom = uniform(b, config.headroom, generator)
    light = scene_light(pictures, curve, generator, headroom)
    ev = move(random_ev(b, config, generator), device)
    field = exposure_field(pictures, generator) * move(uniform(b, config.mixed_ev, generator), device)
    # A field usually comes with a moderate global exposure: the camera's meter aimed at the middle.
    mixed = choose(config.mixed)
    ev = torch.where(mixed, ev * 0.5, ev)
    stops = torch.where(mixed, ev + field, ev)
    cast = move(torch.randn(b, 3, 1, 1, generator=generator) * config.cast, device)
    weights = move(torch.tensor([.299, .587, .114]), device)
    stops = stops + cast - (cast * weights[None, :, None, None]).sum(1, keepdim=True)
    light = light * torch.exp2(stops)
    shot, read = (move(log_uniform(b, r, generator), device) for r in (config.shot, config.read))
    grain = torch.randn(light.shape, generator=on_device(generator, device), device=device) * (shot * light + read ** 2).sqrt()
    light = torch.where(choose(config.noise), (light + grain).clamp_min(0), light)
    image = curve.to_display(light)
    if config.colour > 0:
        grey = torch.einsum('bchw,c->bhw', image, weights)[:, None]
        image = torch.where(choose(config.colour), (grey + move(uniform(b, config.saturation, generator), device) * (image - grey)).clamp(0, 1), image)
    image = quantise(image)
    quality = uniform(b, config.jpeg_quality, generator)
    if config.jpeg > 0:
        image = torch.where(choose(config.jpeg), jpeg_artifacts(image, quality), image)
    unchanged = choose(config.unchanged)
    return torch.where(unchanged, pictures, image), torch.where(unchanged, 0, ev).flatten()
