"""One speech recogniser in a process of its own, over files; JSON on standard output.

    python benchmarks/systems.py SYSTEM [--language CODE] [--batch COUNT] FILE...

    qwa                     this package through its Python face
    transformers            the library's Whisper, one file after the other
    transformers-batched    its pipeline, `--batch` windows of 30 s at a time
    faster-whisper          CTranslate2, one file after the other
    faster-whisper-batched  its batched pipeline, `--batch` windows at a time
    openai-whisper          the original, one file after the other

All have the weights embedded here, as the library's own format where they are converted: by
`convert`, to a directory that `--converted` names. All but qwa are greedy and, but for `--compute
int8` of CTranslate2, in float32. Transformers and the original try no answer again. The language is
detected where none is given. `load` is how many seconds imports and loading took, `answer` how many
the files.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

WINDOW_SECONDS = 30
RATE = 16_000
Texts = Iterator[tuple[Path, str]]

System = Callable[[Sequence[Path], argparse.Namespace], Texts]
"""Loads when it is called with files and options; answers when it is iterated."""

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


def qwa(paths: Sequence[Path], options: argparse.Namespace) -> Texts:
    """This package."""
    from qwen_audio_cli.api import Qwa
    from qwen_audio_cli.audio.sources import expand_sources
    from qwen_audio_cli.options import Options
    from qwen_audio_cli.records import Record

    model = Qwa(batch=options.batch, dtype=options.dtype)
    # An empty run loads the model.
    prepared = model.prepare("transcribe", Options(language=options.language))
    for _ in prepared(iter(())):
        pass
    records = prepared(expand_sources(paths))

    def answer() -> Texts:
        for record in records:
            if not isinstance(record, Record):
                sys.exit(str(record))
            yield Path(record.file), record.text or ""

    return answer()


def _transformers() -> tuple[Any, Any, Any]:
    """The library's network, tokenizer and feature extractor."""
    import transformers

    from qwen_audio_cli.families.checkpoint import Checkpoint
    from qwen_audio_cli.models import WEIGHTS

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    checkpoint = Checkpoint(WEIGHTS / "whisper-base")
    config = transformers.WhisperConfig.from_pretrained(checkpoint.directory)
    network = transformers.WhisperForConditionalGeneration(config)
    state = {name: tensor.float() for name, tensor in checkpoint.tensors()}
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    network.load_state_dict(state)
    network.generation_config = transformers.GenerationConfig.from_pretrained(checkpoint.directory)
    network.eval()
    tokenizer = transformers.WhisperTokenizerFast(
        tokenizer_file=str(checkpoint.directory / "tokenizer.json"), pad_token="<|endoftext|>"
    )
    return network, tokenizer, transformers.WhisperFeatureExtractor()


def transformers_whisper(paths: Sequence[Path], options: argparse.Namespace) -> Texts:
    """transformers' implementation; windows of a long file follow each other by its time stamps."""
    import soundfile
    import torch

    network, tokenizer, extract = _transformers()

    @torch.inference_mode()
    def hear(path: Path) -> str:
        samples, rate = soundfile.read(path, dtype="float32")
        long = len(samples) > WINDOW_SECONDS * rate
        inputs = extract(
            samples,
            sampling_rate=rate,
            return_tensors="pt",
            truncation=not long,
            padding="longest" if long else "max_length",
            return_attention_mask=long,
        )
        tokens = network.generate(
            **inputs, language=options.language, task="transcribe", return_timestamps=long
        )
        return str(tokenizer.decode(tokens[0], skip_special_tokens=True))

    return ((path, hear(path)) for path in paths)


def transformers_batched(paths: Sequence[Path], options: argparse.Namespace) -> Texts:
    """transformers' pipeline, which cuts long files into overlapping windows."""
    import soundfile
    import transformers

    network, tokenizer, extract = _transformers()
    recognise = transformers.AutomaticSpeechRecognitionPipeline(
        model=network, tokenizer=tokenizer, feature_extractor=extract, device="cpu"
    )

    def sounds() -> Iterator[dict[str, Any]]:
        for path in paths:
            samples, rate = soundfile.read(path, dtype="float32")
            yield {"raw": samples, "sampling_rate": rate}

    answers = recognise(
        sounds(),
        batch_size=options.batch,
        chunk_length_s=WINDOW_SECONDS,
        generate_kwargs={"language": options.language, "task": "transcribe"},
    )
    return ((path, answer["text"]) for path, answer in zip(paths, answers, strict=True))


def _faster_whisper(options: argparse.Namespace) -> Any:
    from faster_whisper import WhisperModel

    threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
    return WhisperModel(
        str(options.converted), device="cpu", compute_type=options.compute, cpu_threads=threads
    )


def _joined(segments: Iterable[Any]) -> str:
    return " ".join(segment.text.strip() for segment in segments)


def faster_whisper(paths: Sequence[Path], options: argparse.Namespace) -> Texts:
    """CTranslate2 with its Python face."""
    hear = _faster_whisper(options).transcribe
    asked = {"language": options.language, "beam_size": 1}
    return ((path, _joined(hear(str(path), **asked)[0])) for path in paths)


def faster_whisper_batched(paths: Sequence[Path], options: argparse.Namespace) -> Texts:
    """The same; the windows of one file, found by its own voice activity, share batches."""
    from faster_whisper import BatchedInferencePipeline

    hear = BatchedInferencePipeline(_faster_whisper(options)).transcribe
    asked = {"language": options.language, "beam_size": 1, "batch_size": options.batch}
    return ((path, _joined(hear(str(path), **asked)[0])) for path in paths)


def convert(paths: Sequence[Path], options: argparse.Namespace) -> Texts:
    """Write the weights in CTranslate2's format to `--converted`; hears nothing."""
    from ctranslate2.converters import TransformersConverter

    network, tokenizer, extract = _transformers()
    with tempfile.TemporaryDirectory() as folder:
        for part in (network, tokenizer, extract):
            part.save_pretrained(folder)
        copied = ["tokenizer.json", "preprocessor_config.json"]
        converter = TransformersConverter(folder, copy_files=copied)
        converter.convert(str(options.converted), quantization="float32", force=True)
    return iter(())


def openai_whisper(paths: Sequence[Path], options: argparse.Namespace) -> Texts:
    """The original implementation; windows of a long file follow each other by time stamps."""
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
    language = options.language
    asked = whisper.DecodingOptions(language=language, without_timestamps=True, fp16=False)

    def hear(path: Path) -> str:
        samples, _ = soundfile.read(path, dtype="float32")
        if len(samples) > WINDOW_SECONDS * RATE:
            heard = model.transcribe(samples, language=language, temperature=0.0, fp16=False)
            return str(heard["text"])
        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(samples), dimensions.n_mels)
        return str(whisper.decode(model, mel, asked).text)

    return ((path, hear(path)) for path in paths)


SYSTEMS: dict[str, System] = {
    "qwa": qwa,
    "transformers": transformers_whisper,
    "transformers-batched": transformers_batched,
    "faster-whisper": faster_whisper,
    "faster-whisper-batched": faster_whisper_batched,
    "openai-whisper": openai_whisper,
    "convert": convert,
}


def main() -> None:
    """Load one system, answer, and tell what it took."""
    begun = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--language", metavar="CODE")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--dtype", default="auto", help="of qwa")
    parser.add_argument("--compute", default="float32", help="compute type of faster-whisper")
    parser.add_argument("--converted", type=Path, metavar="DIRECTORY")
    options = parser.parse_intermixed_args()
    answers = SYSTEMS[options.system](options.files, options)
    loaded = time.perf_counter()
    texts = {str(path): text.strip() for path, text in answers}
    answered = time.perf_counter()
    report = {"load": loaded - begun, "answer": answered - loaded, "texts": texts}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
