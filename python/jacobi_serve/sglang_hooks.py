"""The parts of SGLang that `jacobi_serve.sglang` needs, and a check that a given SGLang has them.

The check reads source and imports nothing, so the same function works for an installed package before it is loaded, and
for a wheel on a machine without CUDA (`scripts/check_sglang_plugin.py`). A version other than the one read is refused too,
since signatures do not show the order of the rows, or which process handles a result when.
"""

import ast
import importlib.metadata
import importlib.util
import os
import re
import zipfile
from pathlib import Path

# The release that the plug-in was written against.
READ_VERSION = "0.5.23"

# With the value 1, another version passes if every name and signature fits.
ANY_VERSION = "JACOBI_SERVE_ANY_VERSION"

_INFO = "srt/speculative/spec_info.py"
_REGISTRY = "srt/speculative/spec_registry.py"
_WORKER = "srt/speculative/ngram_worker.py"
_BATCH = "srt/managers/schedule_batch.py"

# (file, function, its parameters without self or cls): called, overridden, or called back by SGLang.
SIGNATURES = (
    (_INFO, "SpeculativeAlgorithm.register", "name, *, supports_overlap, validate_server_args, spec_class"),
    (
        _INFO,
        "SpeculativeAlgorithm.create_future_map",
        "device, req_to_token_pool, needs_cpu_seq_lens, needs_confidence_relay",
    ),
    (_INFO, "SpeculativeAlgorithm.carries_draft_hidden_states", ""),
    (_INFO, "SpeculativeAlgorithm.need_topk", ""),
    (_REGISTRY, "CustomSpecAlgo.__init__", "name, factory, *, supports_overlap, validate_server_args"),
    (_REGISTRY, "CustomSpecAlgo.is_ngram", ""),
    (_REGISTRY, "CustomSpecAlgo.has_draft_kv", ""),
    (_REGISTRY, "CustomSpecAlgo.handle_server_args", "server_args"),
    (_REGISTRY, "CustomSpecAlgo.create_worker", "server_args"),
    (_WORKER, "NGRAMWorker.__init__", "server_args, gpu_id, nccl_port, target_worker"),
    (_WORKER, "NGRAMWorker.clear_cache_pool", ""),
    (_WORKER, "NGRAMWorker._prepare_draft_tokens", "batch"),
    (_WORKER, "NGRAMWorker._update_ngram_corpus", "batch"),
    (_WORKER, "NGRAMWorker.forward_batch_generation", "batch, on_publish, pp_proxy_tensors"),
    (_BATCH, "ScheduleBatch.grammar_needs_sync", ""),
    ("srt/model_executor/forward_batch_info.py", "ForwardMode.is_decode", ""),
    ("srt/plugins/__init__.py", "load_plugins", ""),
)

# (file, class, attributes): read on its objects.
ATTRIBUTES = (
    (_WORKER, "NGRAMWorker", ("draft_token_num", "enable_overlap")),
    (_BATCH, "ScheduleBatch", ("reqs", "forward_mode", "spec_info")),
    (_BATCH, "Req", ("rid", "origin_input_ids_unpadded", "output_ids")),
    ("srt/speculative/ngram_info.py", "NgramVerifyInput", ("accept_tokens", "accept_lens")),
    ("srt/managers/utils.py", "GenerationBatchResult", ("logits_output",)),
    ("srt/layers/logits_processor.py", "LogitsProcessorOutput", ("next_token_logits",)),
    ("srt/arg_groups/fields/device.py", "Device", ("device",)),
    ("srt/arg_groups/fields/disagg.py", "Disagg", ("disaggregation_mode",)),
    ("srt/arg_groups/fields/model.py", "Model", ("model_path",)),
    ("srt/arg_groups/fields/parallel.py", "Parallel", ("tp_size", "pp_size", "attn_dp_size")),
    (
        "srt/arg_groups/fields/schedule.py",
        "Schedule",
        ("max_running_requests", "disable_overlap_schedule", "enable_mixed_chunk"),
    ),
    (
        "srt/arg_groups/fields/spec.py",
        "Spec",
        (
            "speculative_draft_model_path",
            "speculative_num_steps",
            "speculative_eagle_topk",
            "speculative_num_draft_tokens",
            "speculative_use_rejection_sampling",
            "speculative_ngram_min_bfs_breadth",
            "speculative_ngram_max_bfs_breadth",
            "speculative_ngram_capacity",
            "speculative_ngram_external_corpus_path",
        ),
    ),
)

# (file, text): lines with facts that no signature shows. In turn: the entry point group; row 0 of a request is its last
# known token; a draft is (tokens, mask); when results are unread, and where they are; the result contains the target's
# logits; greedy verification takes their argmax.
LINES = (
    ("srt/plugins/__init__.py", 'GENERAL_PLUGINS_GROUP = "sglang.srt.plugins"'),
    ("kernels/jit/csrc/ngram_corpus/result.cpp", "info.token.emplace_back(last_token);"),
    (_WORKER, "req_drafts, mask = self._prepare_draft_tokens(batch)"),
    (_WORKER, "use_prev_tokens = self.enable_overlap and not batch.grammar_needs_sync()"),
    (_WORKER, "self.prev_token_ids[i * stride : i * stride + self.prev_accept_lens[i]]"),
    (_WORKER, "logits_output=logits_output,"),
    ("srt/speculative/eagle_utils.py", "target_predict = torch.argmax(next_token_logits, dim=-1)"),
)

# Methods of SGLang's own algorithms that its scheduler calls and that `CustomSpecAlgo` of that release lacks; our class
# adds them.
ADDED = ("carries_draft_hidden_states", "create_future_map", "need_topk")

# Called only by SpeculativeAlgorithm itself.
_INTERNAL = ("get_platform_worker_cls",)


class Source:
    """The files of an SGLang: an installed or unpacked package, or a wheel."""

    def __init__(self, path):
        path = Path(path)
        self._wheel = zipfile.ZipFile(path) if path.is_file() else None
        self._root = path / "sglang" if (path / "sglang").is_dir() else path
        self._trees = {}
        self.version = _version_in(self.read("_version.py") or "")

    @classmethod
    def installed(cls):
        """The package that `import sglang` would find."""
        spec = importlib.util.find_spec("sglang")
        if spec is None or not spec.submodule_search_locations:
            raise Unfit(["sglang is not installed"], None)
        source = cls(next(iter(spec.submodule_search_locations)))
        try:
            source.version = importlib.metadata.version("sglang")
        except importlib.metadata.PackageNotFoundError:
            pass  # A source tree on PYTHONPATH has no metadata: use its _version.py.
        return source

    def read(self, file):
        """The text of a file of the package; None if there is no such file."""
        try:
            if self._wheel:
                return self._wheel.read(f"sglang/{file}").decode()
            return (self._root / file).read_text(encoding="utf-8")
        except (KeyError, OSError):
            return None

    def tree(self, file):
        """The syntax tree of a file; None if there is no such file."""
        if file not in self._trees:
            text = self.read(file)
            self._trees[file] = None if text is None else ast.parse(text)
        return self._trees[file]


class Unfit(RuntimeError):
    """This SGLang is not the one that the plug-in was written against."""

    def __init__(self, misfits, version):
        found = f"SGLang {version or 'of unknown version'}"
        head = f"jacobi-serve does not fit {found}: it was written against SGLang {READ_VERSION}"
        super().__init__("; ".join([head, *misfits]))


def misfits(source):
    """The differences of `source` from the tables, a line each; empty if all fits."""
    found = []
    if source.version != READ_VERSION and os.environ.get(ANY_VERSION) != "1":
        found.append(f"set {ANY_VERSION}=1 to go by names and signatures alone")
    for file, function, expected in SIGNATURES:
        node = _find(source.tree(file), function)
        actual = None if node is None else parameters(node)
        if actual != expected:
            found.append(f"{file}: {function}({expected}) is {'absent' if actual is None else f'({actual})'}")
    for file, name, attributes in ATTRIBUTES:
        there = _attributes(_find(source.tree(file), name))
        found += [f"{file}: {name}.{attribute} is absent" for attribute in attributes if attribute not in there]
    for file, line in LINES:
        if line not in (source.read(file) or ""):
            found.append(f"{file}: `{line}` is absent")
    return found + _unanswered(source)


def _unanswered(source):
    """Methods of SGLang's own algorithms that our class lacks."""
    own, custom = _methods(source, _INFO, "SpeculativeAlgorithm"), _methods(source, _REGISTRY, "CustomSpecAlgo")
    missing = own - custom - set(ADDED) - set(_INTERNAL)
    return [f"{_INFO}: SpeculativeAlgorithm.{name} is new" for name in sorted(missing)]


def _methods(source, file, name):
    node = _find(source.tree(file), name)
    functions = [item for item in getattr(node, "body", []) if isinstance(item, ast.FunctionDef)]
    return {item.name for item in functions if not item.name.startswith("_") and not item.decorator_list}


def _find(tree, dotted):
    """The class or function `dotted` of a module; None if there is none."""
    for name in dotted.split("."):
        named = (ast.ClassDef, ast.FunctionDef)
        body = getattr(tree, "body", [])
        tree = next((item for item in body if isinstance(item, named) and item.name == name), None)
    return tree


def parameters(function):
    """The parameters of a function in a syntax tree, in the notation of the tables: names and `*`, no defaults."""
    of = function.args
    names = [arg.arg for arg in of.posonlyargs + of.args if arg.arg not in ("self", "cls")]
    names += [f"*{of.vararg.arg}"] if of.vararg else ["*"] if of.kwonlyargs else []
    names += [arg.arg for arg in of.kwonlyargs]
    names += [f"**{of.kwarg.arg}"] if of.kwarg else []
    return ", ".join(names)


def _attributes(node):
    """Fields that a class declares, and attributes that its methods set on `self`."""
    found = set()
    for item in ast.walk(node) if node else ():
        targets = item.targets if isinstance(item, ast.Assign) else [getattr(item, "target", None)]
        for target in targets:
            for part in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(part, ast.Attribute) and getattr(part.value, "id", None) == "self":
                    found.add(part.attr)
    fields = [item.target for item in getattr(node, "body", []) if isinstance(item, ast.AnnAssign)]
    return found | {target.id for target in fields if isinstance(target, ast.Name)}


def _version_in(text):
    found = re.search(r"^__version__ = (?:version = )?['\"]([^'\"]+)['\"]$", text, re.MULTILINE)
    return found.group(1) if found else None
