//! Responses scored by hand: what is read from them, and whether it passes.

use super::*;
use crate::SandboxConfig;
use crate::judge::Judge;
use crate::tasks::find;

/// Judges each response by the tests of one task.
fn check(task: &str, tests: &str, rows: &[(&str, bool)]) {
    let task = find(task).unwrap();
    let judge =
        Judge::open([&task].into_iter(), &SandboxConfig { seconds: 3, ..SandboxConfig::default() }).unwrap();
    let expected = task.expected(tests).unwrap();
    for (response, right) in rows {
        let verdict = judge.verdict(&task, Some(&expected), response).unwrap();
        assert_eq!(verdict.correct, Some(*right), "{response:?}: {verdict:?}");
        assert_eq!(verdict.failure.is_none(), *right, "{response:?}: {verdict:?}");
    }
}

#[test]
fn completions_of_a_function() {
    let tests = "from typing import List\n\n\ndef halve(x):\n    return x / 2\n\n\ndef mean(xs: List[float]) -> float:\n    \"\"\" Mean of xs.\n    >>> mean([1, 3])\n    2.0\n    \"\"\"\n\n@answer@\n\n\
                 def check(candidate):\n    assert candidate([1, 3]) == 2.0\n    assert candidate([]) == 0.0\ncheck(mean)";
    let whole = "def mean(xs: List[float]) -> float:\n    if not xs:\n        return 0.0\n    return sum(xs) / len(xs)\n";
    let body = "    if not xs:\n        return 0.0\n    return sum(xs) / len(xs)\n";
    let fenced = |info: &str, code: &str| {
        format!("Here it is:\n\n```{info}\n{code}```\n\nIt divides the sum by the count.")
    };
    let rows = [
        (fenced("python", whole), true),
        (fenced("Python", whole), true),
        (fenced("py", whole), true),
        (fenced("python3", whole), true),
        (fenced("", whole), true),
        (fenced("python", &whole.replace('\n', "\r\n")), true),
        (format!("~~~python\n{whole}~~~"), true),
        (format!("````python\n{whole}````"), true),
        // Cut off before its fence is closed, and in the middle of a line.
        (format!("```python\n{whole}"), true),
        ("```python\ndef mean(xs: List[float]) -> float:\n    if not xs:\n        return 0.0\n    return sum(xs) / le".into(), false),
        // Bodies: as they go on, without their indentation, with that of the first line lost.
        (body.to_owned(), true),
        (format!("{body}\n\ndef other():\n    return mean(1)\n\nprint(mean([2]))"), true),
        (fenced("python", body), true),
        (fenced("python", "if not xs:\n    return 0.0\nreturn sum(xs) / len(xs)\n"), true),
        ("```python\nreturn sum(xs) / len(xs) if xs else 0.0\n```".into(), true),
        (fenced("python", "if not xs:\n    return 0.0\nelse:\n    return sum(xs) / len(xs)\n"), true),
        (fenced("python", "total = sum(\n    xs)\nif xs:\n    return total / len(xs)\nelse:\n    return 0.0\n"), true),
        // Without a fence.
        (whole.to_owned(), true),
        (format!("Sure! This is my function.\n\n{whole}\nIt returns 0.0 for no numbers."), true),
        (format!(" Here is the function:\n\n{whole}"), true),
        // Around the answer: other languages, helpers, demonstrations, reasoning.
        (format!("```bash\npip install numpy\n```\nThen:\n```python\n{whole}```"), true),
        (format!("```text\nmean([1, 3])\n```\n```\n{whole}```\n```python\nprint(mean([1, 3]) == 7)\nassert False\n```"), true),
        (fenced("python", &format!("import math\nfrom statistics import fmean\n\n{whole}\nif __name__ == '__main__':\n    print(mean(input()))\n")), true),
        (format!("<think>\n```python\ndef mean(xs):\n    return 1\n```\nno</think>\n{}", fenced("python", whole)), true),
        (format!("1. Define it:\n   ```python\n{}   ```\n", whole.lines().map(|line| format!("   {line}\n")).collect::<String>()), true),
        (fenced("python", "from __future__ import annotations\n\nclass Adder:\n    def add(self, xs):\n        return sum(xs)\n\ndef mean(xs):\n    return Adder().add(xs) / len(xs) if xs else halve(0)\n"), true),
        (fenced("python", "mean = lambda xs: sum(xs) / len(xs) if xs else 0.0\n"), true),
        (fenced("python", "from __future__ import annotations\nfrom dataclasses import dataclass\n\n@dataclass\nclass Mean:\n    value: float\n\ndef mean(xs):\n    return Mean(sum(xs) / len(xs) if xs else 0.0).value\n"), true),
        (fenced("python", "def mean(xs):\n    sys\n    return sum(xs) / len(xs) if xs else 0.0\n"), false),
        // Wrong, and never right by accident.
        (fenced("python", "def mean(xs):\n    return sum(xs) / len(xs)\n"), false),
        (fenced("python", "def average(xs):\n    return 2.0\n"), false),
        (fenced("python", "def mean(xs):\n    exit(0)\n"), false),
        (fenced("python", "import os\nos._exit(0)\n"), false),
        (fenced("python", "def mean(xs):\n    while True: pass\n"), false),
        (fenced("python", "raise SystemExit\ndef mean(xs): pass\n"), false),
        (fenced("javascript", "const mean = xs => 0;\n"), false),
        (String::new(), false),
        ("I cannot help with that.".into(), false),
        ("```python\n```".into(), false),
        ("    pass\n".into(), false),
    ];
    let rows: Vec<(&str, bool)> = rows.iter().map(|(text, right)| (text.as_str(), *right)).collect();
    check("humaneval", tests, &rows);
}

#[test]
fn functions_from_a_sentence() {
    let tests = "@answer@\n\n\nassert add(1, 2) == 3\nassert add(-1, 1) == 0\nassert add('a', 'b') == 'ab'";
    let rows = [
        ("```python\ndef add(a, b):\n    return a + b\n```", true),
        ("```python\r\ndef add(a, b):\r\n\treturn a + b\r\n```", true),
        ("def add(a, b):\n    return a + b", true),
        ("def add(a, b):\n    return a + b\n\nThis function adds two values.", true),
        ("[BEGIN]\ndef add(a, b):\n    return a + b\n[DONE]\nYou are an expert", true),
        ("[BEGIN]\ndef add(a, b):\n    return a + b", true),
        ("```python\n[BEGIN]\n```\n```python\ndef add(a, b):\n    return a + b\n```", true),
        ("Here you are:\n```\ndef add(a, b): return a + b\nassert add(1, 2) == 3\n```", true),
        (
            "```python\ndef add(a, b):\n    \"\"\"Adds.\n\n    >>> add(1, 2)\n    3\n    \"\"\"\n    return a + b\n```",
            true,
        ),
        (">>> def add(a, b):\n...     return a + b\n...\n>>> add(1, 2)\n3", false),
        ("```python\n>>> def add(a, b):\n...     return a + b\n...\n>>> add(1, 2)\n3\n```", true),
        ("```python\nadd = lambda a, b: a + b\n```", true),
        ("```python\nimport operator\nadd = operator.add\n```", true),
        (
            "```python\ndef add(*args):\n    out = args[0]\n    for x in args[1:]:\n        out = out + x\n    return out\n\nprint(add(1, 2))\n```",
            true,
        ),
        (
            "First try:\n```python\ndef add(a, b):\n    return a - b\n```\nBetter:\n```python\ndef add(a, b):\n    return a + b\n```",
            false,
        ),
        ("```python\ndef add(a, b):\n    return a - b\n```", false),
        ("```python\ndef add(a, b):\nreturn a + b\n```", false),
        ("```python\ndef Add(a, b):\n    return a + b\n```", false),
        ("```python\ndef add(a, b):\n    return input()\n```", false),
        ("```python\ndef add(a, b):\n    return (a + b\n```", false),
        ("```python\ndef add(a, b):\n    return a + b\n'''\n```", false),
        ("add is `a + b`", false),
        ("The function is called add.", false),
        ("```sql\nSELECT 1\n```", false),
    ];
    check("mbpp", tests, &rows);
}

#[test]
fn extracted_code_equals_the_code_in_the_response() {
    let rows = [
        ("```python\nx = 1\n```", Some("x = 1")),
        ("```python\nx = 1\n```\n```python\ndef f(): pass\n```", Some("def f(): pass")),
        ("```\n\n```", None),
        ("import os\nos.getcwd()\n\nThat is all.", Some("import os\nos.getcwd()")),
        ("from what I know, no", None),
        ("    return 1\nx", Some("    return 1")),
        (" Here it is:\n\ndef f():\n    return 1", Some("def f():\n    return 1")),
        (
            "```\nif n:\n    return 1\nelse:\n    return 2\n```",
            Some("    if n:\n        return 1\n    else:\n        return 2"),
        ),
        ("```\nn = 1\n    return n\n```", Some("    n = 1\n    return n")),
        ("```\nif n:\n    def f():\n        return 1\n```", Some("if n:\n    def f():\n        return 1")),
        ("```json\n{}\n```", None),
    ];
    for (response, expected) in rows {
        assert_eq!(extract(response).as_deref(), expected, "{response:?}");
    }
}
