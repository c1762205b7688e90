"""How to draft: the server's settings, else `jacobi.json` beside the model, else defaults. Independent of any engine."""

import json
from dataclasses import dataclass, fields
from pathlib import Path

FILE = "jacobi.json"
SCHEMA = "jacobi-tune/1"


@dataclass(frozen=True)
class Settings:
    """Settings of the draft window. The number of draft tokens is the engine's own setting."""

    window: str = "sliding"  # "sliding": fresh tokens replace accepted ones; "block": a block at a time
    block_size: int | None = None  # tokens of a block, for window "block"; by default as many as the engine verifies
    max_blocks: int = 1  # most blocks in flight, for window "block"
    spawn_ratio: float = 0.85  # share of the newest block that must be settled before the next is started
    # Fresh tokens: "random", drawn from the text, "ngram", continuations of n-grams in it, or "vocabulary", any tokens.
    filler: str = "random"
    pool_size: int = 0  # above 0: rejected tails are kept and fill the window before the filler
    seed: int = 0  # of the fillers: changes speed, never text

    def __post_init__(self):
        for field, allowed in (("window", ("sliding", "block")), ("filler", ("random", "ngram", "vocabulary"))):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} is {getattr(self, field)!r}; it must be one of {', '.join(allowed)}")
        for field, least in (("block_size", 1), ("max_blocks", 1), ("pool_size", 0), ("seed", 0)):
            value = getattr(self, field)
            if field == "block_size" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{field} is {value!r}; it must be a whole number, at least {least}")
        ratio = self.spawn_ratio
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
            raise ValueError(f"spawn_ratio is {ratio!r}; it must be between 0 and 1")


def from_table(table):
    """Settings from a dictionary, such as that of `additional_config={"jacobi": table}`.

    Raises ValueError for unknown settings and values out of range.
    """
    if not isinstance(table, dict):
        raise ValueError(f"the jacobi settings are {table!r}; they must be a table")
    known = [field.name for field in fields(Settings)]
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise ValueError(f"unknown jacobi setting {', '.join(unknown)}; known are {', '.join(known)}")
    return Settings(**table)


def from_file(path):
    """Settings from a `jacobi.json`, and the decoder it names. Raises ValueError with the path if it is broken."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            found = content.get("schema") if isinstance(content, dict) else None
            raise ValueError(f"its schema is {json.dumps(found)}, not {json.dumps(SCHEMA)}")
        return _from_decoder(content.get("decoder"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}; delete the file, or write it again with `jacobi tune`") from error


def _from_decoder(decoder):
    """Settings from a decoder that was tuned for our own engine: window, filler and block sizes. The length of a sliding
    window is the engine's setting. A pool is not used: it is for branches beside the window, and in a chain it was
    measured to cost passes."""
    if not isinstance(decoder, dict) or not isinstance(decoder.get("name"), str):
        raise ValueError("its decoder has no name")
    name = decoder["name"]
    if name == "ar":
        return Settings(), name
    if name not in ("jacobi", "multi_block"):
        raise ValueError(f"its decoder is {name!r}; ar, jacobi and multi_block are known")
    # Both decoders default to blocks, and defaults are not written.
    window = decoder.get("window", "blocks")
    table = {"window": "block" if window == "blocks" else window}
    carried = ["filler"]
    if window == "blocks":
        carried += ["block_size", "max_blocks", "spawn_ratio"]
    table |= {key: decoder[key] for key in carried if key in decoder}
    return Settings(**table), name


def find(model, revision=None):
    """The `jacobi.json` of a model or adapter, a directory or ORG/NAME of the hub; None if it has none."""
    path = Path(model)
    if path.exists():
        return path / FILE if (path / FILE).is_file() else None
    try:
        # An engine that loads models by name has this library.
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(str(model), FILE, revision=revision))
    except Exception:  # not installed, offline or no such file: there is none
        return None


def load(explicit, model, revision=None):
    """The settings of a model, and a line for the log with their source and what to expect.

    `explicit`: a table of settings, or None to read the file. Raises ValueError if either is broken.
    """
    if (Path(model) / "adapter_config.json").is_file():
        raise ValueError(
            f"{model} is an adapter: engines load its base model, and vLLM drafts with it by the class "
            "jacobi_serve.vllm_adapter.AdapterProposer; `jacobi decode --adapter` decodes with it"
        )
    if explicit is not None:
        return from_table(explicit), "settings as given"
    path = find(model, revision)
    if path is None:
        return Settings(), (
            f"{model} has no {FILE}: default settings. Outputs stay those of the model; one that was not trained by "
            "jacobi gets hardly more than 1 token per step and may be slower than without drafts"
        )
    settings, name = from_file(path)
    return settings, f"settings of {path}, tuned for the decoder {name}"


def from_adapter_table(table):
    """The settings in a table for drafts by an adapter, which have filler and seed alone. Raises ValueError if it is broken."""
    found = from_table(table)
    if unused := sorted(set(table) - {"filler", "seed"}):
        raise ValueError(f"jacobi setting {', '.join(unused)} is not one of drafts by an adapter; filler and seed are")
    return found


def from_adapter(adapter):
    """The settings of a draft adapter. Without a `jacobi.json` its filler is the whole vocabulary, as that of any adapter made
    for UNO (arXiv 2609.04010). Raises ValueError if the file is broken."""
    path = find(adapter)
    return Settings(filler="vocabulary") if path is None else from_file(path)[0]
