"""The batched core: requests in, answers out. It knows no audio files, tasks, records or sinks."""
