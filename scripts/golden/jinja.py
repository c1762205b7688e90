"""Writes into tests/golden/jinja.json what Jinja2, set up as transformers does for chat templates, makes of its snippets.

    python scripts/golden/jinja.py tests/golden/jinja.json

The file has {"variables": given to every snippet, "rows": [[source, text]]}, with null for a text where Jinja2 fails; the
texts are computed anew. To add a snippet, add a row with null. Run with transformers 5.23.0 and Jinja2 3.1.6.
"""

import json
import sys

from transformers.utils.chat_template_utils import _compile_jinja_template


def render(source, variables):
    """The text, or None where Jinja2 fails. Templates may change what they are given."""
    try:
        text = _compile_jinja_template(source).render(**json.loads(json.dumps(variables)))
        text.encode("utf-8")
    except Exception:
        return None
    if " at 0x" in text:
        sys.exit(f"{source}: an address of memory differs in each run")
    return text


def main(path):
    with open(path, encoding="utf-8") as file:
        golden = json.load(file)
    variables = golden["variables"]
    rows = [[source, render(source, variables)] for source, _ in golden["rows"]]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"variables": ' + json.dumps(variables, ensure_ascii=False) + ',\n"rows": [\n' + lines + "\n]}\n")


if __name__ == "__main__":
    main(sys.argv[1])
