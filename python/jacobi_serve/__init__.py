"""Jacobi decoding in serving engines: the draft of the next pass is what the last pass predicted.

`draft` and `settings` know no engine; `vllm` and `sglang` each fit them to one.
"""
