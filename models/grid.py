"""Everything global, on a fixed grid of the whole picture.

Attention over all pixels of a detail band costs N^2; a fixed grid of G x G tokens costs a constant, and what it finds does not depend
on tiles and hardly on the resolution. A map is resized to the grid (antialiased bilinear, so that every pixel is seen), the tokens attend to
each other, and the answer is resized back (bilinear): linear in pixels.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F


def to_grid(x, grid):
    """(B, C, H, W) -> (B, C, grid, grid), antialiased bilinear (half precision through fp32: the CPU has no such kernel)."""
    y = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    return F.interpolate(y, size=(grid, grid), mode='bilinear', align_corners=False, antialias=True).to(x.dtype)


def from_grid(x, size):
    """(B, C, G, G) -> (B, C, *size), bilinear."""
    return F.interpolate(x, size=size, mode='bilinear', align_corners=False)


class SelfAttention(nn.Module):
    """Multi-head self-attention across the tokens of one picture: (B, N, C) -> (B, N, C).

    The key has no bias: softmax is blind to a constant added to all keys' scores, so its true gradient is zero.
    """

    def __init__(self, dim, heads):
        super().__init__()
        if dim % heads:
            raise ValueError(f'width {dim} is not a multiple of the number of heads {heads}')
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = (f(x).view(b, n, self.heads, c // self.heads).transpose(1, 2) for f in (self.query, self.key, self.value))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(b, n, c))


class TransformerLayer(nn.Module):
    """Pre-norm Transformer encoder layer on tokens: (B, N, C) -> (B, N, C)."""

    def __init__(self, dim, heads, expansion=2):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, expansion * dim), nn.GELU(), nn.Linear(expansion * dim, dim))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GridTransformer(nn.Module):
    """Transformer on the fixed grid: (B, in_dim, H, W) -> (B, dim, grid, grid).

    Args:
        in_dim, dim: channels of the map and of the tokens.
        heads, depth: of the Transformer.
        grid: tokens per side. A learned position belongs to every token (skies are above).
    """

    def __init__(self, in_dim, dim, heads, depth, grid):
        super().__init__()
        self.grid = grid
        self.embed = nn.Linear(in_dim, dim)
        self.position = nn.Parameter(torch.randn(1, grid * grid, dim) * 0.02)
        self.layers = nn.Sequential(*(TransformerLayer(dim, heads) for _ in range(depth)))

    def forward(self, x):
        tokens = self.embed(to_grid(x, self.grid).flatten(2).transpose(1, 2)) + self.position
        # Flattened first: the strides of a batch of one may be any, and with odd ones the map is not known for channels_last.
        return self.layers(tokens).flatten(0, 1).unflatten(0, (-1, self.grid, self.grid)).permute(0, 3, 1, 2)
