"""What a figure was made with: commit, versions, hardware."""
import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ('torch', 'torchvision', 'numpy', 'scipy', 'pillow', 'opencv-python-headless')


def commit():
    """The checkout's commit, with ``-dirty`` when tracked files differ from it; None without git."""
    def git(*arguments):
        return subprocess.run(['git', *arguments], cwd=ROOT, capture_output=True, text=True, timeout=20,
                              check=True).stdout.strip()
    try:
        return git('rev-parse', 'HEAD') + '-dirty' * bool(git('status', '--porcelain', '-uno'))
    except (OSError, subprocess.SubprocessError):
        return None


def versions():
    """Versions of Python and of the packages that figures depend on."""
    found = {'python': platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def processor():
    """The CPU's name."""
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
        return next(line.split(':', 1)[1].strip() for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def hardware(device):
    """CPU, its cores, torch's threads, and in ``device`` the name of what the networks ran on."""
    device = torch.device(device)
    cpu, threads = processor(), torch.get_num_threads()
    name = f'{cpu}, {threads} thread{"s" * (threads > 1)}'
    if device.type == 'cuda':
        name = torch.cuda.get_device_name(device)
    return {'device': name, 'cpu': cpu, 'cores': os.cpu_count(), 'threads': threads,
            'system': platform.system()}


def sha256(path):
    """Of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with open(path, 'rb') as f:
        while piece := f.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
