"""Jacobi decoding in serving engines: the draft of the next pass is what the last pass predicted.

`draft` and `settings` are independent of any engine; `vllm` and `sglang` connect them to one.
"""
