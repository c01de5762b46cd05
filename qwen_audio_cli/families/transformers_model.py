"""The Qwen audio models that transformers implements as networks for the engine.

The library's own decoder layers run unmodified on the engine's packed steps: one attention
function, registered with the library, hands queries, keys and values to `Step.attend`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.utils import logging

from ..engine.arena import CacheShape
from ..engine.attention import Step, attention_dtype
from ..engine.memory import is_out_of_memory
from ..errors import ConfigError
from .checkpoint import Checkpoint
from .packed import pack
from .qwen3_layout import is_aligner, is_original, loading
from .qwen_model import splice
from .transformers_audio import (
    AudioAdapter,
    Qwen2AudioAdapter,
    Qwen3AsrAdapter,
    Qwen3OmniAdapter,
    Qwen25OmniAdapter,
)
from .transformers_names import names_of_today

DeviceMap = Mapping[str, int | str | torch.device] | str
"""Which modules go where, as `from_pretrained` takes it."""

ATTENTION = "qwa"
"""The name that our attention function is registered under."""

QWEN2_AUDIO = "Qwen2AudioForConditionalGeneration"
QWEN25_OMNI = "Qwen2_5OmniThinkerForConditionalGeneration"
QWEN3_OMNI = "Qwen3OmniMoeThinkerForConditionalGeneration"
QWEN3_ASR = "Qwen3ASRForConditionalGeneration"
QWEN3_ALIGNER = "Qwen3ASRForTokenClassification"

# The library's class by the architecture that a checkpoint says it is of. Of an Omni checkpoint
# only the thinker is loaded, the part that hears and writes.
CLASSES = {
    QWEN2_AUDIO: QWEN2_AUDIO,
    QWEN25_OMNI: QWEN25_OMNI,
    "Qwen2_5OmniForConditionalGeneration": QWEN25_OMNI,
    "Qwen2_5OmniModel": QWEN25_OMNI,
    QWEN3_OMNI: QWEN3_OMNI,
    "Qwen3OmniMoeForConditionalGeneration": QWEN3_OMNI,
    QWEN3_ASR: QWEN3_ASR,
    QWEN3_ALIGNER: QWEN3_ALIGNER,
}
ADAPTERS: dict[str, Callable[[Any], AudioAdapter]] = {
    QWEN2_AUDIO: Qwen2AudioAdapter,
    QWEN25_OMNI: Qwen25OmniAdapter,
    QWEN3_OMNI: Qwen3OmniAdapter,
    QWEN3_ASR: Qwen3AsrAdapter,
    QWEN3_ALIGNER: Qwen3AsrAdapter,
}


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    step: Step,
    **_: object,
) -> tuple[Tensor, None]:
    """The library's attention interface: from [1, heads, rows, width] to [1, rows, heads, width].

    Scores are scaled by the square root of the width, as in all these models.
    """
    rows = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return step.attend(cast(int, module.layer_idx), *rows)[None], None


AttentionInterface.register(ATTENTION, _attend)


class TransformersModel:
    """One network of the library; implements `engine.request.Model`.

    `audio_token` is the id whose positions in a prompt audio takes, one for each of `audio_rows`.
    The `vocabulary` of a forced aligner are its classes.
    """

    def __init__(self, network: Any) -> None:
        """Take over a network of one of `ADAPTERS`' classes: its decoder attends by steps only."""
        network.requires_grad_(False).eval()
        self.network: nn.Module = network
        self._text = network.model.language_model
        self._audio = ADAPTERS[type(network).__name__](network.model)
        self._text.set_attn_implementation(ATTENTION)
        config = self._text.config
        self.audio_token: int = network.config.audio_token_id
        # A window that slides is not attended by, so nothing may be longer than it is.
        self.positions: int = min(
            config.max_position_embeddings,
            config.sliding_window or config.max_position_embeddings,
        )
        self._devices = tuple(_device(layer) for layer in self._text.layers)
        self.frame_bytes: int = 4 * config.hidden_size // 4  # a row of 40 ms, in float32 at most
        self.capturable = not any(map(_needs_host, self._text.layers))
        pack(network)
        self._head = network.score if hasattr(network, "score") else network.lm_head
        self.vocabulary: int = self._head.out_features

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        dtype: torch.dtype,
        device: torch.device,
        device_map: DeviceMap | None = None,
    ) -> TransformersModel:
        """Load a checkpoint, onto `device` or spread as `device_map` says.

        Raises ConfigError for another architecture, and for files that are not the model's, or its
        adapter's.
        """
        name = _class_name(checkpoint)
        _ = checkpoint.shards  # all there, and none pickled
        options: dict[str, Any] = {}
        try:
            if name in (QWEN3_ASR, QWEN3_ALIGNER) and is_original(checkpoint.config):
                options = loading(checkpoint.config)
            with _quiet():
                network, report = getattr(transformers, name).from_pretrained(
                    checkpoint.directory,
                    dtype=dtype,
                    device_map=device_map or {"": device},
                    attn_implementation="sdpa",
                    use_safetensors=True,
                    local_files_only=True,
                    trust_remote_code=False,
                    ignore_mismatched_sizes=True,  # and say so, below
                    output_loading_info=True,
                    **options,
                )
        except Exception as error:
            if is_out_of_memory(error):
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConfigError(f"{checkpoint.directory}: cannot be loaded: {reason}") from error
        _check(report, checkpoint)
        if checkpoint.adapter is not None:
            checkpoint.adapter.apply(network, names_of_today)
        if hasattr(network.model, "visual"):
            del network.model.visual  # nothing is looked at
        return cls(network)

    @property
    def cache(self) -> CacheShape:
        """What the decoder keeps of every position: what `attention_dtype` says it is kept in."""
        config = self._text.config
        weight = torch.empty(0, dtype=self._text.dtype, device=self._devices[0])
        return CacheShape(
            config.num_key_value_heads,
            self._text.layers[0].self_attn.head_dim,
            attention_dtype(weight),
            self._devices,
        )

    def features(self, samples: NDArray[np.float32]) -> Tensor:
        """What `encode` takes of a clip at 16 kHz: [mels, frames]. Thread-safe."""
        return self._audio.features(samples)

    def frames(self, samples: int) -> int:
        """How many frames the features of a clip of so many samples have."""
        return self._audio.frames(samples)

    def audio_rows(self, frames: int) -> int:
        """How many audio tokens a prompt needs for features of so many frames."""
        return self._audio.rows(frames)

    def encode(self, features: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """Rows of each clip of [batch, mels, frames]: [rows, width]."""
        return self._audio.encode(features, lengths)

    def open(self, memories: Sequence[object], watch: bool) -> Tensor:
        """The rows of the prompt's clips, in order. There is nothing to `watch`."""
        rows = cast("list[Tensor]", list(memories))
        device = _device(self._text.embed_tokens)
        if not rows:
            return torch.empty(0, self._text.config.hidden_size, device=device)
        return torch.cat([clip.to(device) for clip in rows])

    def forward(self, tokens: Tensor, positions: Tensor, step: Step, rows: Tensor) -> Tensor:
        """Scores [len(rows), vocabulary] of the packed step.

        Of audio and text alone, the three axes of the Omni models' positions are one.
        """
        text = self._text
        x = text.embed_tokens(tokens)
        splice(x, step.spans, frozenset((self.audio_token,)))
        x = x[None]
        turns = text.rotary_emb(x, positions.to(x.device)[None])
        for layer in text.layers:
            x = layer(x, attention_mask=None, position_embeddings=turns, step=step)
        x = text.norm(x[0, rows.to(x.device)])
        scores: Tensor = self._head(x)
        return scores.float()


def _class_name(checkpoint: Checkpoint) -> str:
    """The library's class for a checkpoint's architecture."""
    architectures = checkpoint.config.get("architectures")
    for architecture in architectures if isinstance(architectures, list) else ():
        if architecture in CLASSES:
            original = architecture == QWEN3_ASR and is_aligner(checkpoint.config)
            return QWEN3_ALIGNER if original else CLASSES[architecture]
    raise ConfigError(
        f"{checkpoint.directory}: its architecture ({architectures or 'unknown'}) is none of "
        + ", ".join(ADAPTERS)
    )


def _needs_host(layer: Any) -> bool:
    """Whether a decoder layer is more than tensor work.

    Experts may be looped over, and weights that lie elsewhere are fetched.
    """
    looping = hasattr(layer.mlp, "experts") and (
        layer.mlp.experts.config._experts_implementation == "eager"
    )
    return looping or hasattr(layer, "_hf_hook")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's progress bar and its report of a load off standard error."""
    bar, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _check(report: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Raise ConfigError where weights are missing: the library would draw them at random."""
    if missing := sorted(report["missing_keys"]):
        raise ConfigError(f"{checkpoint.directory}: no weights for {', '.join(missing[:3])} …")
    for name, shape, wanted in sorted(report["mismatched_keys"]):
        raise ConfigError(
            f"{checkpoint.directory}: {name} has shape {list(shape)}, "
            f"the configuration says {list(wanted)}"
        )


def _device(module: nn.Module) -> torch.device:
    """Where a module computes: where its weights are, unless they are moved there for it."""
    hook = getattr(module, "_hf_hook", None)
    device = getattr(hook, "execution_device", None)
    return next(module.parameters()).device if device is None else torch.device(device)
