#!/usr/bin/env python3
"""Writes tests/golden/conversations.json: rows with tool calls, tools, reasoning, nulls and parts, as transformers renders them.

Made with: transformers 5.23.0, jinja2 3.1.6. The template of Qwen2.5 is that of tests/golden/chat_templates.json.
Usage: conversations.py
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"

# Writes whatever a message has, in its order.
EVERYTHING = "{% if tools is not none %}{{ tools | tojson }}\n{% endif %}{% for m in messages %}{{ m | tojson }}\n{% endfor %}"

# Reasoning, calls and parts, as current templates write them.
THINKING = """\
{%- if tools %}{% for tool in tools %}<tool>{{ tool.function.name }}: {{ tool.function.parameters | tojson }}</tool>{% endfor %}{% endif %}
{%- for m in messages %}
{%- if m.content is string %}{% set text = m.content %}
{%- elif m.content %}{% set ns = namespace(text='') %}{% for part in m.content %}{% if part.type == 'text' and 'image' not in part %}{% set ns.text = ns.text + part.text %}{% endif %}{% endfor %}{% set text = ns.text %}
{%- else %}{% set text = '' %}{% endif %}
{{- '<' + m.role + '>' }}
{%- if m.reasoning_content is defined %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}
{{- text }}
{%- for call in m.tool_calls or [] %}{{ '<call>' + call.function.name + ' ' }}{% if call.function.arguments is string %}{{ call.function.arguments }}{% else %}{{ call.function.arguments | tojson }}{% endif %}</call>{% endfor %}
{%- if m.tool_call_id is defined %}{{ '<id>' + m.tool_call_id + '</id>' }}{% endif %}
{%- if m.name is defined %}{{ '<name>' + m.name + '</name>' }}{% endif %}
{{- '</' + m.role + '>' }}
{%- endfor %}
{%- if add_generation_prompt %}<assistant>{% endif %}"""


def call(arguments, **more):
    return {"id": "call00001", "type": "function", "function": {"name": "get_time", "arguments": arguments}, **more}


ASK = {"role": "user", "content": "What time is it in Oslo?"}
RESULT = {"role": "tool", "tool_call_id": "call00001", "name": "get_time", "content": '{"time": "09:30"}'}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "The time in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "enum": None}}, "required": ["city"]},
    },
}
ROWS = [
    {"messages": [ASK, {"role": "assistant", "content": "", "tool_calls": [call({"city": "Oslo"})]}, RESULT]},
    {"messages": [ASK, {"role": "assistant", "content": None, "tool_calls": [call('{"city": "Oslo"}')]}, RESULT], "tools": [TOOL]},
    {"messages": [ASK, {"role": "assistant", "tool_calls": [call({"city": "Oslo", "day": None})]}, RESULT]},
    # As Arrow fills the fields of other turns.
    {
        "messages": [
            {**ASK, "tool_calls": None, "tool_call_id": None, "name": None, "weight": None},
            {"role": "assistant", "content": None, "tool_calls": [call({"city": "Oslo"}, index=None)], "tool_call_id": None, "name": None, "weight": 0.0},
            {**RESULT, "tool_calls": None, "weight": None},
        ],
        "tools": [],
    },
    {"messages": [{"role": "system", "content": "Be brief."}, ASK], "tools": [TOOL, TOOL]},
] + [
    {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", key: "two and two", "content": "4"}, {"role": "user", "content": "3+3?"}]}
    for key in ("reasoning_content", "reasoning", "thinking")
] + [
    {
        "messages": [
            {"role": "user", "content": "2+2?", "reasoning_content": None},
            {"role": "assistant", "content": "4", "thinking": "a", "reasoning": "b", "reasoning_content": None},
            {"role": "user", "content": "3+3?", "train": False},
        ]
    },
    {"messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "text", "text": " there"}]}]},
]


def main():
    qwen = next(t for t in json.loads((GOLDEN / "chat_templates.json").read_text())["templates"] if t["name"] == "Qwen2.5")
    templates = {"everything": EVERYTHING, "thinking": THINKING, "Qwen2.5": qwen["template"]}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a")))

    def render(template, row):
        has_parts = any(isinstance(message.get("content"), list) for message in row["messages"])
        if has_parts and template != THINKING:
            return None  # The others do not read parts: ours joins them.
        return tokenizer.apply_chat_template(
            row["messages"], tools=row.get("tools"), chat_template=template, add_generation_prompt=True, tokenize=False
        )

    golden = {
        "rows": ROWS,
        "templates": [
            {"name": name, "template": template, "expected": [render(template, row) for row in ROWS]}
            for name, template in templates.items()
        ],
    }
    (GOLDEN / "conversations.json").write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
