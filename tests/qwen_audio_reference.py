"""Qwen-Audio put together from transformers' own Qwen2 modules: what the native one must equal.

The original's code does not run on transformers 5. Its arithmetic is that of `Qwen2AudioEncoder`
and `Qwen2Model` with the weights below, given two things that these do not do by themselves: the
mel is zero behind the clip's last pair of frames, and begin and end of audio have own vectors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen2AudioEncoderConfig, Qwen2Config, Qwen2Model, WhisperFeatureExtractor
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder


class Reference:
    """A checkpoint of the 2023 layout; `begin` is the id of `<audio>`, `pad` of what follows it."""

    def __init__(self, directory: Path, begin: int, pad: int) -> None:
        self.config: dict[str, Any] = json.loads((directory / "config.json").read_text())
        self.tokens = (begin, pad, begin + 1)
        self.weights: dict[str, Tensor] = {}
        for shard in sorted(directory.glob("*.safetensors")):
            self.weights |= load_file(shard)
        self.extractor = WhisperFeatureExtractor(feature_size=80)
        self.encoder = self._encoder()
        self.decoder = self._decoder()

    def rows(self, samples: NDArray[np.float32]) -> Tensor:
        """The rows of a clip, its begin and end vector around them."""
        samples = np.pad(samples, (0, max(0, 480 - len(samples))))[:480_000]
        frames = len(samples) // 160
        heard = (frames - 1) // 2 + 1
        mel = self.extractor(samples, sampling_rate=16_000, return_tensors="pt").input_features
        mel[..., 2 * heard :] = 0.0
        mask = torch.zeros(1, 1, 1500, 1500)
        mask[..., heard:] = -torch.inf
        hidden = self.encoder(mel, attention_mask=mask).last_hidden_state[0]
        weights = self.weights
        rows = torch.nn.functional.linear(
            hidden[: (heard - 2) // 2 + 1],
            weights["transformer.audio.proj.weight"],
            weights["transformer.audio.proj.bias"],
        )
        around = weights["transformer.audio.audio_bos_eos_token.weight"]
        return torch.cat([around[:1], rows, around[1:]])

    def scores(self, ids: Sequence[int], clips: Sequence[NDArray[np.float32]]) -> Tensor:
        """Scores [ids, vocabulary] behind each of `ids`."""
        tokens = torch.tensor([ids])
        x = self.decoder.embed_tokens(tokens)
        if clips:
            heard = torch.cat([self.rows(clip) for clip in clips])
            x[torch.isin(tokens, torch.tensor(self.tokens))] = heard
        hidden = self.decoder(inputs_embeds=x, use_cache=False).last_hidden_state[0]
        head = self.weights.get("lm_head.weight", self.weights["transformer.wte.weight"])
        return hidden @ head.T

    def greedy(
        self, ids: Sequence[int], clips: Sequence[NDArray[np.float32]], count: int, stop: int
    ) -> list[int]:
        """`count` likeliest tokens without a cache, `stop` never the first of them."""
        said: list[int] = []
        while len(said) < count:
            scores = self.scores([*ids, *said], clips)[-1]
            if not said:
                scores[stop] = -torch.inf
            token = int(scores.argmax())
            if token == stop:
                break
            said.append(token)
        return said

    def _encoder(self) -> Qwen2AudioEncoder:
        audio = self.config["audio"]
        module = Qwen2AudioEncoder(
            Qwen2AudioEncoderConfig(
                num_mel_bins=audio["n_mels"],
                d_model=audio["n_state"],
                encoder_layers=audio["n_layer"],
                encoder_attention_heads=audio["n_head"],
                encoder_ffn_dim=4 * audio["n_state"],
                max_source_positions=audio["n_ctx"],
                attn_implementation="eager",
            )
        )
        renames = [
            ("transformer.audio.", ""),
            ("blocks.", "layers."),
            ("positional_embedding", "embed_positions.weight"),
            ("attn.query", "self_attn.q_proj"),
            ("attn.key", "self_attn.k_proj"),
            ("attn.value", "self_attn.v_proj"),
            ("attn.out", "self_attn.out_proj"),
            ("attn_ln", "self_attn_layer_norm"),
            ("mlp_ln", "final_layer_norm"),
            ("mlp.0", "fc1"),
            ("mlp.2", "fc2"),
            ("ln_post", "layer_norm"),
        ]
        state = {}
        for name, tensor in self.weights.items():
            if name.startswith("transformer.audio.") and not ("proj" in name or "bos_eos" in name):
                for theirs, native in renames:
                    name = name.replace(theirs, native)
                state[name] = tensor
        module.load_state_dict(state, strict=True)
        return module.eval()

    def _decoder(self) -> Qwen2Model:
        config = self.config
        heads, width = config["num_attention_heads"], config["kv_channels"]
        key_heads = config.get("num_key_value_heads", heads)
        module = Qwen2Model(
            Qwen2Config(
                vocab_size=config["vocab_size"],
                hidden_size=config["hidden_size"],
                num_hidden_layers=config["num_hidden_layers"],
                num_attention_heads=heads,
                num_key_value_heads=key_heads,
                intermediate_size=config["intermediate_size"] // 2,
                rms_norm_eps=config["layer_norm_epsilon"],
                rope_parameters={
                    "rope_type": "default",
                    "rope_theta": config["rotary_emb_base"],
                },
                attn_implementation="eager",
            )
        )
        state = {}
        for name, tensor in self.weights.items():
            name = name.removeprefix("transformer.")
            if name.startswith(("audio.", "lm_head")):
                continue
            name = name.replace("wte", "embed_tokens").replace("ln_f", "norm")
            name = name.replace("h.", "layers.", 1).replace("ln_1", "input_layernorm")
            name = name.replace("ln_2", "post_attention_layernorm").replace(
                "mlp.w2", "mlp.gate_proj"
            )
            name = name.replace("mlp.w1", "mlp.up_proj").replace("mlp.c_proj", "mlp.down_proj")
            name = name.replace("attn.c_proj", "self_attn.o_proj")
            if "c_attn" in name:
                parts = tensor.split([heads * width, key_heads * width, key_heads * width])
                for letter, part in zip("qkv", parts, strict=True):
                    state[name.replace("attn.c_attn", f"self_attn.{letter}_proj")] = part
            else:
                state[name] = tensor
        module.load_state_dict(state, strict=True)
        return module.eval()
