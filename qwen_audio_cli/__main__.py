"""`python -m qwen_audio_cli` is `qwa`."""

from .cli import main

main()
