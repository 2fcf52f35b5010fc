"""The one place that reads or writes weights. Nothing is ever unpickled.

Our checkpoints are safetensors with everything needed to use them as metadata: the network's name and config, where the
weights come from and what was measured. The authors' published ``.pth`` files are read with ``weights_only=True`` (models/released.py).
"""
import hashlib
import io
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize

from .baselines import NETWORKS, make
from .p_ieanet import PIEANet, PIEANetConfig


class CheckpointError(ValueError):
    """A weights file that cannot be used; the message is one line that names the file and the reason."""


def build_model(name, config):
    """A freshly initialised network from its name and a plain dict of its config."""
    if name == 'p_ieanet':
        return PIEANet(PIEANetConfig.from_dict(config))
    if name == 'released':
        from .released import ReleasedWaveletNet
        return ReleasedWaveletNet()
    if name in NETWORKS:
        try:
            return make(name, config)
        except TypeError as e:
            raise ValueError(f'{name}: {e}') from e
    raise ValueError(f'unknown network {name!r}, known: p_ieanet, released, {", ".join(NETWORKS)}')


def network_name(model):
    """The name by which :func:`build_model` makes a network of this kind."""
    file = type(model).__module__.rpartition('.')[2]
    return 'p_ieanet' if isinstance(model, PIEANet) else file if file in NETWORKS else 'released'


def atomic_write(path, data):
    """Write bytes under a temporary name in the same folder, flush to disk, rename: readers see the old file or the new one.

    Through a link; and a device or a pipe is written to as it is, not replaced by a file.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        path.write_bytes(data)
        return
    path = path.resolve()
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        with open(temporary, 'wb') as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_model(model, path, metadata=None, state=None):
    """Write a network as safetensors.

    Args:
        model: network with a ``config`` dataclass that has ``to_dict``.
        path: file name ending in ``.safetensors``.
        metadata: dict of provenance and figures, stored as JSON.
        state: state_dict to store instead of the model's own (an EMA's, say).
    """
    state = model.state_dict() if state is None else state
    # Frozen features are half precision numbers from the start (models/semantics.py).
    tensors = {k: (v.half() if k.startswith('semantics.') else v.float()).detach().contiguous().cpu() for k, v in state.items()}
    header = {'network': network_name(model), 'config': json.dumps(model.config.to_dict()), 'metadata': json.dumps(metadata or {})}
    atomic_write(path, serialize(tensors, metadata=header))


def weights_id(path):
    """The first 16 hex digits of the SHA-256 of a file's bytes."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def read_header(path):
    """``(network, config, metadata)`` of one of our checkpoints, without reading its weights.

    Raises:
        CheckpointError: when the file is missing, cut short or not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f'{path}: no such file')
    try:
        with safe_open(path, 'pt') as f:
            header = f.metadata() or {}
    except (SafetensorError, OSError) as e:
        raise CheckpointError(f'{path}: not a readable safetensors file ({str(e).splitlines()[0]})') from e
    try:
        return header['network'], json.loads(header['config']), json.loads(header['metadata'])
    except (KeyError, json.JSONDecodeError) as e:
        raise CheckpointError(f'{path}: a safetensors file without our header (network, config, metadata)') from e


def load_weights(model, tensors, path):
    """Strict ``load_state_dict`` whose error names the file, the keys and the shapes.

    Vectors (C,) may be stored as (1, C, 1, 1), as they were in earlier files.

    Raises:
        CheckpointError: for missing or unexpected keys, wrong shapes or values that are not finite.
    """
    expected = model.state_dict()
    tensors = {k: t.flatten() if k in expected and t.shape == (1, *expected[k].shape, 1, 1) else t for k, t in tensors.items()}
    kinds = [[f'missing {k}' for k in expected if k not in tensors],
             [f'unexpected {k}' for k in tensors if k not in expected],
             [f'{k} is {tuple(t.shape)}, expected {tuple(expected[k].shape)}'
              for k, t in tensors.items() if k in expected and t.shape != expected[k].shape],
             [f'{k} is not finite' for k, t in tensors.items() if not torch.isfinite(t).all()]]
    if any(kinds):
        named = [problem for kind in kinds for problem in kind[:2]]  # a few of each kind
        more = f' and {sum(map(len, kinds)) - len(named)} more' if sum(map(len, kinds)) > len(named) else ''
        raise CheckpointError(f'{path}: these are not weights of this network: {"; ".join(named)}{more}')
    model.load_state_dict(tensors)


def load_model(path, device='cpu'):
    """The network that a file holds, in eval mode on ``device``.

    Args:
        path: one of our ``.safetensors`` or the authors' ``.pth``.
        device: as torch takes it.

    Returns:
        nn.Module: (B, 3, H, W) RGB on [0, 1] -> residual (B, 1, H, W). ``model.provenance`` is the stored metadata.

    Raises:
        CheckpointError: in one line, with the file's name and the reason.
    """
    path = Path(path)
    if path.suffix in ('.pth', '.pt', '.pkl'):
        from .released import load_released
        return load_released(path, device)
    name, config, metadata = read_header(path)
    try:
        model = build_model(name, config)
    except (TypeError, ValueError) as e:
        raise CheckpointError(f'{path}: {e}') from e
    with safe_open(path, 'pt') as f:
        tensors = {k: f.get_tensor(k) for k in f.keys()}
    load_weights(model, tensors, path)
    model.provenance = metadata
    return model.to(device).eval()


def save_training_state(path, state):
    """Write a run's state (tensors, numbers, strings, lists and dicts only: it must load with ``weights_only``), atomically."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    atomic_write(path, buffer.getvalue())


def load_training_state(path):
    """What :func:`save_training_state` wrote.

    Raises:
        CheckpointError: when the file is missing, cut short or holds anything but plain data.
    """
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError as e:
        raise CheckpointError(f'{path}: no such file') from e
    except Exception as e:  # torch.load raises many kinds for a damaged file; none may pass as another error
        raise CheckpointError(f'{path}: not a readable training state ({str(e).splitlines()[0][:120]})') from e
