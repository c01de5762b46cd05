"""One speech recogniser in a process of its own, over files in turn; JSON on standard output.

    python benchmarks/systems.py qwa|transformers|openai-whisper [--language CODE] FILE...

All have the weights embedded here. `qwa` is this package through its Python face. `transformers`
and `openai-whisper` are the library and the original: float32, greedy, no timestamps, no second
try, one file after the other, of which they hear the first 30 s. The language is detected where
none is given. `load` is how many seconds imports and loading took, `answer` how many the files.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

System = Callable[[Sequence[Path], str | None], Iterator[tuple[Path, str]]]
"""Loads when it is called with files and their language; answers when it is iterated."""

# Parameter names of the Hugging Face layout to those of openai/whisper, in this order.
OPENAI_NAMES = (
    (r"^model\.", ""),
    (r"\.layers\.", ".blocks."),
    (r"encoder_attn_layer_norm", "cross_attn_ln"),
    (r"encoder_attn", "cross_attn"),
    (r"self_attn_layer_norm", "attn_ln"),
    (r"self_attn", "attn"),
    (r"q_proj", "query"),
    (r"k_proj", "key"),
    (r"v_proj", "value"),
    (r"out_proj", "out"),
    (r"fc1", "mlp.0"),
    (r"fc2", "mlp.2"),
    (r"final_layer_norm", "mlp_ln"),
    (r"^encoder\.layer_norm", "encoder.ln_post"),
    (r"^decoder\.layer_norm", "decoder.ln"),
    (r"embed_tokens", "token_embedding"),
    (r"embed_positions\.weight", "positional_embedding"),
)


def qwa(paths: Sequence[Path], language: str | None) -> Iterator[tuple[Path, str]]:
    """This package."""
    from qwen_audio_cli.api import Qwa
    from qwen_audio_cli.audio.sources import expand_sources
    from qwen_audio_cli.options import Options
    from qwen_audio_cli.records import Record

    records = Qwa().prepare("transcribe", Options(language=language))(expand_sources(paths))

    def answer() -> Iterator[tuple[Path, str]]:
        for record in records:
            if not isinstance(record, Record):
                sys.exit(str(record))
            yield Path(record.file), record.text or ""

    return answer()


def transformers_whisper(paths: Sequence[Path], language: str | None) -> Iterator[tuple[Path, str]]:
    """transformers' implementation."""
    import soundfile
    import torch
    import transformers

    from qwen_audio_cli.families.checkpoint import Checkpoint
    from qwen_audio_cli.models import WEIGHTS

    transformers.logging.set_verbosity_error()
    checkpoint = Checkpoint(WEIGHTS / "whisper-base")
    config = transformers.WhisperConfig.from_pretrained(checkpoint.directory)
    model = transformers.WhisperForConditionalGeneration(config)
    state = {name: tensor.float() for name, tensor in checkpoint.tensors()}
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    model.load_state_dict(state)
    model.generation_config = transformers.GenerationConfig.from_pretrained(checkpoint.directory)
    model.eval()
    tokenizer = transformers.WhisperTokenizerFast(
        tokenizer_file=str(checkpoint.directory / "tokenizer.json")
    )
    extract = transformers.WhisperFeatureExtractor()

    @torch.inference_mode()
    def hear(path: Path) -> str:
        samples, rate = soundfile.read(path, dtype="float32")
        features = extract(samples, sampling_rate=rate, return_tensors="pt").input_features
        tokens = model.generate(features, language=language, task="transcribe")
        return str(tokenizer.decode(tokens[0], skip_special_tokens=True))

    return ((path, hear(path)) for path in paths)


def openai_whisper(paths: Sequence[Path], language: str | None) -> Iterator[tuple[Path, str]]:
    """The original implementation."""
    import soundfile
    import whisper

    from qwen_audio_cli.families.checkpoint import Checkpoint
    from qwen_audio_cli.models import WEIGHTS

    checkpoint = Checkpoint(WEIGHTS / "whisper-base")
    config = checkpoint.config
    state = {}
    for name, tensor in checkpoint.tensors():
        for pattern, theirs in OPENAI_NAMES:
            name = re.sub(pattern, theirs, name)
        state[name] = tensor.float()
    dimensions = whisper.ModelDimensions(
        n_mels=config["num_mel_bins"],
        n_audio_ctx=config["max_source_positions"],
        n_audio_state=config["d_model"],
        n_audio_head=config["encoder_attention_heads"],
        n_audio_layer=config["encoder_layers"],
        n_vocab=config["vocab_size"],
        n_text_ctx=config["max_target_positions"],
        n_text_state=config["d_model"],
        n_text_head=config["decoder_attention_heads"],
        n_text_layer=config["decoder_layers"],
    )
    model = whisper.model.Whisper(dimensions)
    model.load_state_dict(state)
    model.eval()
    options = whisper.DecodingOptions(language=language, without_timestamps=True, fp16=False)

    def hear(path: Path) -> str:
        samples, _ = soundfile.read(path, dtype="float32")
        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(samples), dimensions.n_mels)
        return str(whisper.decode(model, mel, options).text)

    return ((path, hear(path)) for path in paths)


SYSTEMS: dict[str, System] = {
    "qwa": qwa,
    "transformers": transformers_whisper,
    "openai-whisper": openai_whisper,
}


def main() -> None:
    """Load one system, answer, and tell what it took."""
    begun = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--language", metavar="CODE")
    options = parser.parse_args()
    answers = SYSTEMS[options.system](options.files, options.language)
    loaded = time.perf_counter()
    texts = {str(path): text.strip() for path, text in answers}
    answered = time.perf_counter()
    report = {"load": loaded - begun, "answer": answered - loaded, "texts": texts}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
