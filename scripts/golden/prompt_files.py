#!/usr/bin/env python3
"""Writes tests/golden/prompt_files/: Parquet files of usual writers, and expected.json with what pyarrow reads in them.

Files: pyarrow.parquet, int96.parquet, codecs.parquet, pandas.parquet, polars.parquet, duckdb.parquet. In expected.json
{file: {column: [value per row]}}: a simple value is the text that Python gives it (`str`; bytes as UTF-8), lists and
objects are such, a map is an object.

Made with: pyarrow 26.0.1, pandas 3.1.1, polars 2.1.0, duckdb 2.0.1.
Usage: prompt_files.py (no arguments)
"""

import datetime
import decimal
import json
import uuid
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

OUTPUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "prompt_files"
D = decimal.Decimal
NOON = 1712664000123456789  # 2024-04-09 12:00:00.123456789 UTC


def pyarrow_types():
    """A column per type of Arrow that Parquet can hold, in three rows, the last null."""
    columns = {
        "bool": pa.array([True, False, None]),
        "int8": pa.array([-128, 127, None], pa.int8()),
        "uint64": pa.array([0, 2**64 - 1, None], pa.uint64()),
        "half": pa.array([0.0999755859375, -2.0, None], pa.float16()),
        "float": pa.array([0.1, 1e20, None], pa.float32()),
        "double": pa.array([1e16, 1e-5, None]),
        "double_large": pa.array([1e15, 0.0001, None]),
        "decimal32": pa.array([D("1.5"), D("-0.1"), None], pa.decimal32(5, 1)),
        "decimal64": pa.array([D("1.50"), D("0"), None], pa.decimal64(12, 2)),
        "decimal128": pa.array([D("1e-10"), D("123"), None], pa.decimal128(20, 10)),
        "decimal256": pa.array([D("1e40"), D("-7"), None], pa.decimal256(60, 3)),
        "whole": pa.array([D("184467440737095516150"), D("2"), None], pa.decimal128(38, 0)),
        "date32": pa.array([19822, -1, None], pa.date32()),
        "date64": pa.array([19822 * 86400000, 0, None], pa.date64()),
        "time32s": pa.array([3723, 0, None], pa.time32("s")),
        "time32": pa.array([3723004, 86399999, None], pa.time32("ms")),
        "time64": pa.array([3723000004, 1, None], pa.time64("us")),
        "time64ns": pa.array([3723000004000, 1001, None], pa.time64("ns")),
        "binary": pa.array([b"abc", "é".encode(), None]),
        "large_binary": pa.array([b"abc", b"", None], pa.large_binary()),
        "binary_view": pa.array([b"abc", b"d", None], pa.binary_view()),
        "fixed": pa.array([b"0123456789abcdef", b"ABCDEFGHIJKLMNOP", None], pa.binary(16)),
        "uuid": pa.array([uuid.UUID(int=5).bytes, uuid.UUID(int=2**127 + 3).bytes, None], pa.uuid()),
        "string_view": pa.array(["a", "b", None], pa.string_view()),
        "large_string": pa.array(["a", "b", None], pa.large_string()),
        "null": pa.nulls(3),
        "dictionary": pa.array(["a", "b", None]).dictionary_encode(),
        "dictionary8": pa.DictionaryArray.from_arrays(pa.array([1, 0, None], pa.uint8()), pa.array(["x", "y"])),
        "dictionary64": pa.DictionaryArray.from_arrays(pa.array([1, 1, None], pa.int64()), pa.array(["x", "y"])),
        "dictionary_int": pa.DictionaryArray.from_arrays(pa.array([1, 0, None]), pa.array([10, 20])),
        "dictionary_binary": pa.array([b"a", b"b", None]).dictionary_encode(),
        "list_view": pa.array([["a"], [], None], pa.list_view(pa.string())),
        "large_list": pa.array([[1], [2, None], None], pa.large_list(pa.int64())),
        "fixed_list": pa.array([["a", "b"], ["c", "d"], None], pa.list_(pa.string(), 2)),
        "map": pa.array([[("k", 1), ("l", None)], [], None], pa.map_(pa.string(), pa.int32())),
        "messages": pa.array(
            [[{"role": "user", "content": "q", "at": datetime.datetime(2024, 4, 9, 12, tzinfo=datetime.timezone.utc)}], [], None],
            pa.list_(pa.struct([
                ("role", pa.dictionary(pa.int8(), pa.string())), ("content", pa.string()), ("at", pa.timestamp("us", "UTC"))])),
        ),
        "nested": pa.StructArray.from_arrays(
            [pa.array([uuid.UUID(int=7).bytes, None, None], pa.uuid()), pa.array([D("2.50"), None, None], pa.decimal128(5, 2)),
             pa.array([[{"t": 5}], None, None], pa.list_(pa.struct([("t", pa.time32("s"))])))], ["u", "d", "l"]),
    }
    for unit, divisor in (("s", 10**9), ("ms", 10**6), ("us", 10**3), ("ns", 1)):
        # Parquet has no seconds: arrow-rs reads them as milliseconds, and of their zone the instant alone.
        for zone in (None, "UTC") if unit == "s" else (None, "UTC", "Europe/Berlin", "-03:30"):
            name = f"stamp_{unit}_{zone}"
            columns[name] = pa.array([NOON // divisor, -1, None], pa.timestamp(unit, zone))
        columns[f"duration_{unit}"] = pa.array([93784567890123456 // divisor, -1, None], pa.duration(unit))
    return pa.table(columns)


def plain(value, data_type):
    if value is None:
        return None
    if pa.types.is_map(data_type):
        return {key: plain(item, data_type.item_type) for key, item in value}
    if isinstance(value, list):
        return [plain(item, data_type.value_type) for item in value]
    if isinstance(value, dict):
        return {name: plain(item, data_type.field(name).type) for name, item in value.items()}
    return value.decode() if isinstance(value, bytes) else str(value)


def duckdb_types(path):
    duckdb.sql(f"""COPY (SELECT * FROM (VALUES
        ('e9b1f440-2190-43e3-a567-5a37b7b69d99'::UUID, 'a'::ENUM('a', 'b'), 1.50::DECIMAL(9, 2), 170141183460469::BIGINT,
         DATE '2024-04-09', TIMESTAMP '2024-04-09 12:00:00.5', TIMESTAMPTZ '2024-04-09 12:00:00+00', TIME '01:02:03',
         'abc'::BLOB, MAP {{'k': 'v'}}, [{{'role': 'user', 'content': 'q'}}], '{{"a": 1}}'::JSON, TIMESTAMP_NS '2024-04-09 12:00:00.000000001'),
        (NULL, 'b', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, [], NULL, NULL))
        AS t(uuid, enum, decimal, bigint, date, stamp, stamp_tz, time, blob, map, messages, json, stamp_ns))
        TO '{path}' (FORMAT parquet)""")


def main():
    OUTPUT.mkdir(parents=True, exist_ok=True)
    pq.write_table(pyarrow_types(), OUTPUT / "pyarrow.parquet", row_group_size=2)
    stamps = pa.table({"stamp": pa.array([NOON, -1, None], pa.timestamp("ns"))})
    pq.write_table(stamps, OUTPUT / "int96.parquet", use_deprecated_int96_timestamps=True, store_schema=False)
    codecs = {"gzip": "gzip", "brotli": "brotli", "lz4": "lz4", "zstd": "zstd", "snappy": "snappy", "none": "none"}
    texts = pa.table({name: pa.array([f"{name} " * 20, name]) for name in codecs})
    pq.write_table(texts, OUTPUT / "codecs.parquet", compression=codecs, use_dictionary=False)
    frame = pd.DataFrame({
        "category": pd.Categorical(["b", "a", None]), "integers": pd.Categorical([3, 1, 3]),
        "when": pd.to_datetime(["2024-04-09", "2024-04-09 12:00:00.25", None], format="ISO8601"), "with_missing": [1, 2, None],
        "nullable": pd.array([2**53 + 1, 2, None], dtype="Int64"), "text": ["x", "y", None],
        "period": pd.to_timedelta(["1 days 02:00:00", "1s", None]),
    })
    frame.to_parquet(OUTPUT / "pandas.parquet", engine="pyarrow")
    pl.DataFrame({
        "categorical": pl.Series(["b", "a", None], dtype=pl.Categorical), "enum": pl.Series(["a", "b", None], dtype=pl.Enum(["a", "b"])),
        "decimal": pl.Series([D("1.50"), D("2.25"), None], dtype=pl.Decimal(10, 2)), "time": [datetime.time(1, 2, 3), None, None],
        "duration": [datetime.timedelta(days=1, seconds=1), None, None], "date": [datetime.date(2024, 4, 9), None, None],
        "array": pl.Series([[1, 2], [3, 4], None], dtype=pl.Array(pl.Int64, 2)), "binary": [b"a", b"b", None],
        "zoned": pl.Series([datetime.datetime(2024, 4, 9, 12), None, None]).dt.replace_time_zone("Europe/Berlin"),
        "messages": [[{"role": "user", "content": "q"}], [], None], "null": [None, None, None],
    }).write_parquet(OUTPUT / "polars.parquet")
    duckdb_types(OUTPUT / "duckdb.parquet")
    expected = {}
    for path in sorted(OUTPUT.glob("*.parquet")):
        table = pq.read_table(path)
        columns = zip(table.schema, table.columns)
        expected[path.name] = {field.name: [plain(value, field.type) for value in column.to_pylist()] for field, column in columns}
    (OUTPUT / "expected.json").write_text(json.dumps(expected, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
