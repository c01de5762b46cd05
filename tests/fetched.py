"""What of the packages that training data comes from is on this machine, and items heard."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from qwen_audio_cli.audio import SAMPLE_RATE
from qwen_audio_cli.training.data import packages
from qwen_audio_cli.training.manifest import Item


def fetched(*names: str, program: str) -> Path:
    """The directory of the packages; skips without one of them or the program: none is fetched."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    directory = packages.default_cache()
    for name in names:
        if not packages.available(packages.PACKAGES[name], directory):
            pytest.skip(f"the package {name} has not been fetched")
    return directory


def heard(item: Item) -> NDArray[np.float32]:
    """The samples of an item, verified to be as long as it says."""
    samples, rate = soundfile.read(item.audio, dtype="float32")
    assert rate == SAMPLE_RATE
    assert item.seconds == pytest.approx(len(samples) / rate, abs=1e-3)
    return samples
