"""Writes tests/golden/jinja.json: what Jinja2, set up as transformers does for chat templates, makes of snippets.

    python scripts/golden/jinja.py tests/golden/jinja.json

`variables` are given to every snippet; each of `rows` is [source, text], with null for a text where Jinja2 fails.
Run with transformers 5.23.0 and Jinja2 3.1.6.
"""

import json
import sys

from transformers.utils.chat_template_utils import _compile_jinja_template

VARIABLES = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi\nyo", "n": 3},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {"x": 1.0, "y": [True, None]}}]},
        {"role": "user", "content": "<b>é\u00a0🙂</b> 'q' \"d\""},
    ],
    "tools": None,
    "tool": {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": ["integer", "null"]}}, "items": 7},
    "numbers": [3, 1, 2.5, -4, 0],
    "words": ["b", "A", "c", "B"],
    "people": [{"name": "Al", "age": 3, "tag": {"k": "x"}}, {"name": "bo", "age": 1, "tag": {"k": "y"}}, {"name": "Cy", "age": 3, "tag": {"k": "x"}}],
    "big": 12345678901234567890,
    "empty": "",
    "flag": False,
    "bos_token": "<s>",
}

# Each line is an expression.
EXPRESSIONS = r"""
none is iterable
'abc' is iterable
7 is iterable
{} is iterable
undefined_thing is iterable
range(2) is iterable
(words | map('upper')) is iterable
'abc' is sequence
{} is sequence
[] is sequence
(1, 2) is sequence
range(3) is sequence
7 is sequence
none is sequence
undefined_thing is sequence
{}.items() is sequence
(words | map('upper')) is sequence
{} is mapping
[] is mapping
namespace(a=1) is mapping
true is number
1.5 is number
'1' is number
true is integer
1 is integer
1.0 is integer
1.0 is float
true is boolean
none is none
flag is false
flag is true
0 is false
'x' is string
('x' | safe) is string
'a' is lower
'A1' is upper
'1' is upper
3 is odd
4 is even
-3 is odd
9 is divisibleby 3
9 is divisibleby(4)
9 is not divisibleby(4)
3 is eq 3
3 is equalto 3.0
3 is ne 4
3 is gt 2
3 is ge 3
3 is lt 2
3 is le 3
3 is greaterthan 1
3 is lessthan 1
2 is in [1, 2]
'b' is in 'abc'
1 is sameas true
true is sameas true
none is sameas none
range is callable
undefined_thing is callable
7 is callable
messages[0].get is callable
'upper' is filter
'nope' is filter
'odd' is test
undefined_thing is defined
undefined_thing is undefined
messages[0].nope is defined
messages[0]['role'] is defined
messages[0].items is defined
'<' | escape is escaped
'a' is nope
7 | nope
x.y.z
undefined_thing
undefined_thing.attr
undefined_thing['key']
undefined_thing[0]
undefined_thing()
undefined_thing + 1
1 + undefined_thing
'x' + undefined_thing
undefined_thing ~ 'x'
undefined_thing | length
undefined_thing | upper
undefined_thing | trim
undefined_thing | join(',')
undefined_thing | list
undefined_thing | first
undefined_thing | last
undefined_thing | int
undefined_thing | float
undefined_thing | abs
undefined_thing | string
undefined_thing | default('d')
undefined_thing | d
undefined_thing | tojson
undefined_thing | items | list
undefined_thing | sort
undefined_thing | reverse | list
undefined_thing | replace('a', 'b')
undefined_thing | map('upper') | list
undefined_thing | selectattr('a') | list
undefined_thing | dictsort
undefined_thing == undefined_other
undefined_thing == none
undefined_thing != none
undefined_thing < 1
undefined_thing > undefined_other
'x' in undefined_thing
undefined_thing in [1]
undefined_thing in 'abc'
not undefined_thing
undefined_thing and 1
undefined_thing or 'or'
[undefined_thing]
-undefined_thing
undefined_thing[1:]
undefined_thing % 2
'%s' % undefined_thing
none.attr
none['key']
none.attr.deep
none | length
none | upper
none | string
none | trim
none | join
none | list
none | int
none | default('d')
none | default('d', true)
none | tojson
none ~ 'x'
none + 1
messages[2].content
messages[2].content + 'x'
messages[2].content | length
'' | default('d')
'' | default('d', true)
'' | default('d', boolean=true)
'a\nb'
'a\tb'
'a\\nb'
'\x41\u00e9\U0001F642'
'\101\12\0'
'\400'
'\a\b\f\v'
'\d \w \. \/ \- \e'
"it\'s \"q\""
'it\'s'
"\N{BULLET}"
'\N{LATIN SMALL LETTER E WITH ACUTE}\N{EM DASH}'
'\N{bullet}'
'\N{NOPE}'
'\N'
'\x4'
'\u12'
'\ud83d'
'é🙂'
'a' 'b' "c"
'a' ~ 'b' 'c'
'a' "b" + 'c'
'x' * 3
3 * 'x'
'x' * -1
'x' * 1.5
[1] * 2
(1,) * 2
[1] + [2]
(1,) + (2,)
[1] + (2,)
'a' + 1
1 + 'a'
1 + 1.0
true + true
true + 1.5
7 / 2
8 / 2
7 // 2
-7 // 2
7 // -2
7.5 // 2
-7.5 // 2
7 % 3
-7 % 3
7 % -3
7.5 % 2
-7.5 % 2
2 ** 10
2 ** -1
2 ** 0.5
2 ** 3 ** 2
-2 ** 2
0 ** 0
10 ** 30
1 / 0
1 // 0
1 % 0
1.0 / 0
1 - 2 - 3
2 + 3 * 4
(2 + 3) * 4
1 ~ 2 + 3
1 + 2 ~ 3
10 - 2 ~ 1
1_000
0x1F
0b101
0o17
007
00
1.5
2.0
1e20
1e16
1e15
123456789012345680.0
1e-7
1e-4
0.0001
0.00001
1.5e300
1e-300
1.0e5
0.1 + 0.2
-0.0
1e400
-1e400
1e400 - 1e400
3.14159265358979
100000.0 * 10
1 / 3
big
big + 1
[1, 'a', none, true, 1.5, 2.0, 1e20]
[1e-7, 1e16, -0.0]
(1, 2)
(1,)
()
1, 2
[]
{}
{'a': 1, 'b': [1, (2,)], 3: none, 1.5: true, none: 'x'}
{'a': 1, 'a': 2}
{1: 'a', true: 'b', 1.0: 'c'}
{[1]: 2}
['it\'s', "say \"x\"", 'both \' and "', 'a\\b', 'tab\t', '\x07', 'é🙂', '\u200b', '\xad']
messages[1]
tool
words | safe
['<' | safe]
range(3)
range(1, 10, 3)
range(5, 0, -2) | list
range(3)[1]
range(10)[2:5]
range(10)[::3] | list
range(200000)
range('a')
{'a': 1}.items()
{'a': 1}.keys()
{'a': 1}.values()
{'a': 1}.items() | list
{'a': 1}.items() | first
{'a': 1}.items()[0]
{'a': 1}.keys() | join
{'a': 1}.get('a')
{'a': 1}.get('b')
{'a': 1}.get('b', 2)
{'a': 1}.copy()
{'a': 1}.pop('a')
{'a': 1}.update({})
{'items': 1}.items
{'items': 1}['items']
tool.items is callable
tool['items']
tool.properties.a.type
tool.nope
tool.nope.deeper
tool['nope'] is defined
tool['keys'] is callable
'keys' in tool
'type' in tool
'nope' not in tool
[1, 2].append(3)
[1, 2].index(2)
[1, 2, 2].count(2)
[1, 2].index(5)
(1, 2).count(1)
words[0]
words[-1]
words[9]
words['x']
words.0
words[1.0]
words[true]
words[1:]
words[:2]
words[::-1]
words[-2:]
words[1:3]
words[::2]
words[::0]
words[:'a']
'hello'[1]
'hello'[-1]
'hello'[1:3]
'hello'[::-1]
'hello'[9]
'hello'[9:]
'héé🙂llo'[1:4]
tools[1:]
big[1:]
tool[1:]
messages[:-1] | length
messages[1:][0].role
'a' < 'b'
'a' < 'B'
'x' < 1
1 < 'x'
none < 1
[1, 2] < [1, 3]
[1, 2] < [1]
(1, 2) < (1, 3)
[1] < (2,)
{} < {}
true < 2
1 < 2 < 3
1 < 3 < 2
3 > 2 == 2
1 == 1.0
1 == true
'1' == 1
[1] == [1.0]
(1,) == [1]
{'a': 1} == {'a': 1.0}
none == false
'a' != 'b'
1 in [1, 2]
1 not in [1, 2]
'a' in 'abc'
1 in 'abc'
none in 'abc'
1 in 7
'a' in {'a': 1}
[1] in {'a': 1}
(1, 2) in [(1, 2)]
not 1 == 2
not true and false
1 or 2
0 or ''
1 and 2
'' and 2
none or 'x'
'a' if flag else 'b'
'a' if flag
'a' if true
'a' if false else 'b' if false else 'c'
('a' if flag) is defined
not not 1
+3
+true
-true
-'a'
--3
-3 | abs
-3.5 | abs
'-3' | abs
true | abs
'%s' % 'q'
'%s-%d' % ('q', 3)
'%s %s' % ('a',)
'%s' % ('a', 'b')
'%s' % [1, 'a']
'%s' % (1,)
'%s' % none
'%s' % 1.0
'%s' % 1e16
'%r' % 'a\n'
'%a' % 'é'
'%d' % 3.7
'%d' % '3'
'%d' % true
'%i' % -3
'%5d|%-5d|%05d|%+d|% d' % (3, 3, 3, 3, 3)
'%5s|%-5s|%.2s' % ('abc', 'abc', 'abc')
'%f|%.2f|%10.3f|%-10.1f|%+.1f' % (1.5, 1.005, 3.14159, 2.0, 2.0)
'%.0f|%.0f' % (0.5, 1.5)
'%e|%E|%.2e' % (12345.678, 0.00012, 1e100)
'%g|%g|%g|%g|%G' % (1e-5, 123456789.0, 0.1, 100000.0, 1e-10)
'%x|%X|%#x|%o|%#o' % (255, 255, 255, 8, 8)
'%c%c' % ('a', 98)
'%%'
'%%' % ()
'100%' % ()
'100%%' % 3
'%z' % 3
'%(a)s-%(b)d' % {'a': 1, 'b': 2}
'%(a)s' % {'b': 2}
'%(a)s' % 3
'%*d' % (5, 3)
'%.*f' % (2, 3.14159)
'%.3d' % 7
'%s' % {'a': 1}
'%s and %s' | format('x', 'y')
'%(a)s' | format(a=1)
'%s' | format
'{}-{}'.format(1, 'a')
'{0}{1}{0}'.format('a', 'b')
'{a} {b:>5}|{b:<5}|{b:^5}|'.format(a=1, b='x')
'{:*^9}'.format('mid')
'{:05d} {:,} {:_}'.format(42, 1234567, 1234567)
'{:.2f} {:8.3f} {:e} {:g} {:%}'.format(1.005, 3.14159, 12345.6789, 0.00001, 0.25)
'{:.1%}'.format(0.1234)
'{:x} {:#x} {:b} {:#o} {:X}'.format(255, 255, 5, 8, 255)
'{:+d} {: d} {:-d}'.format(3, 3, 3)
'{!r} {!s}'.format('a', 'a')
'{0.role} {0[content]}'.format(messages[0])
'{0[1]}'.format(words)
'{{}}'.format()
'{'.format()
'{}'.format()
'{a}'.format(b=1)
'{:{w}}|'.format('x', w=4)
'{:d}'.format('x')
'{:s}'.format(3)
'{:>5}'.format(true)
'{:>8}'.format(1.5)
'{:>8}'.format(none)
'{}'.format(none)
'{}'.format(1.0)
'{:.3}'.format(1234.5)
'{:.3}'.format('abcdef')
'{:c}'.format(65)
'{a}'.format_map({'a': 1})
'{:010.2f}|{:<010d}|{:=+6d}'.format(3.14159, 42, 42)
'a.b.c'.rsplit('.', 1)
'a.b.c'.split('.')
'a.b.c'.split('.', 1)
'a.b.c'.split('.', maxsplit=1)
' a  b '.split()
' a  b  c '.split(none, 1)
' a  b  c '.rsplit(none, 1)
' a  b  c '.rsplit(maxsplit=1)
'a'.split('')
''.split()
''.split(',')
'abc'.split('x')
'a-b-c'.partition('-')
'a-b-c'.rpartition('-')
'abc'.partition('-')
'abc'.rpartition('-')
'xy'.removeprefix('x')
'xy'.removesuffix('y')
'xy'.removeprefix('y')
'ab'.center(6)
'ab'.center(7)
'abc'.center(6)
'abc'.center(7, '*')
'ab'.ljust(4) ~ '|'
'ab'.rjust(4, '.')
'-42'.zfill(6)
'42'.zfill(4)
'abc'.zfill(2)
'a\tb'.expandtabs()
'a\tb'.expandtabs(4)
'hello world'.title()
"they're bill's".title()
'hELLO wORLD'.capitalize()
'hELLO'.swapcase()
'Straße'.casefold()
'Straße'.upper()
'ÀÉ'.lower()
'abcabc'.find('c')
'abcabc'.rfind('c')
'abcabc'.find('x')
'abcabc'.index('c')
'abcabc'.index('x')
'abcabc'.rindex('c')
'abcabc'.find('c', 3)
'abcabc'.find('a', 1, 3)
'éé🙂x'.find('x')
'abcabc'.count('bc')
'aaaa'.count('aa')
'abc'.count('')
'abcabc'.replace('b', 'X')
'abcabc'.replace('b', 'X', 1)
'abc'.replace('', '-')
'abc'.replace('', '-', 2)
'abc'.replace('b', 1)
'  a '.strip() ~ '|'
'  a '.lstrip() ~ '|'
'  a '.rstrip() ~ '|'
'xxaxx'.strip('x')
'xyaxy'.strip('yx')
'xxaxx'.lstrip('x')
'a\n\n'.rstrip('\n')
'\x1c a\u00a0'.strip()
'abc'.startswith('ab')
'abc'.startswith(('x', 'a'))
'abc'.startswith(['a'])
'abc'.startswith('b', 1)
'abc'.endswith('c')
'abc'.endswith('b', 0, 2)
'abc'.endswith(1)
'a\nb\r\nc\x0bd\u2028e'.splitlines()
'a\nb\n'.splitlines(true)
''.splitlines()
'\n'.splitlines()
', '.join(['a', 'b'])
', '.join(words)
', '.join([1, 2])
''.join('abc')
', '.join({'a': 1, 'b': 2})
'abc'.isalpha()
'ab1'.isalnum()
'12'.isdigit()
'12'.isdecimal()
'½'.isnumeric()
'½'.isdigit()
'²'.isdigit()
''.isalpha()
' \t'.isspace()
'Ab C'.istitle()
'Ab'.istitle()
'ab'.islower()
'AB'.isupper()
'1'.islower()
'a1'.isidentifier()
'1a'.isidentifier()
'abc'.isascii()
'é'.isascii()
'a\n'.isprintable()
'abc'.nope()
'abc'.nope is defined
'abc'.upper
'abc'.__class__
messages.__len__
(5).bit_length()
(2.0).is_integer()
'a b' | wordcount
'a-b c_d é' | wordcount
'a' | center(5)
'a' | center
'abcdefgh' | truncate(5)
'abcdefghijklmnop' | truncate(5)
'hello big world out there' | truncate(12)
'hello big world out there' | truncate(12, true)
'hello big world out there' | truncate(12, false, '…')
'hello big world' | truncate(12, leeway=0)
'hello world' | truncate(length=9, end='', leeway=0)
'hello' | truncate(2)
'hello world' | title
"they're bill's-own (x) [y]" | title
'hELLO' | capitalize
'aBc' | upper
'aBc' | lower
'  a ' | trim ~ '|'
'xax' | trim('x')
'abc' | length
'héé🙂' | length
tool | length
7 | length
'abc' | list
'abc' | reverse
words | reverse | list
words | reverse
range(3) | reverse | list
'abc' | first
'abc' | last
[] | first
[] | first is defined
[] | last
tool | first
words | join
words | join(', ')
[1, 2.0, none, true] | join('-')
people | join(', ', attribute='name')
people | join(attribute='age')
7 | join
'abc' | join('-')
words | sort
words | sort(reverse=true)
words | sort(case_sensitive=true)
numbers | sort
[1, 'a'] | sort
people | sort(attribute='age') | map(attribute='name') | list
people | sort(attribute='age,name', reverse=true) | map(attribute='name') | list
people | sort(attribute='tag.k') | map(attribute='name') | list
people | map(attribute='name') | list
people | map(attribute='nope') | list
people | map(attribute='nope', default='d') | list
people | map(attribute='tag.k') | list
words | map('upper') | list
words | map('replace', 'b', 'x') | join
numbers | map('string') | list
words | map
words | map('nope') | list
messages | map(attribute='role') | join(',')
messages | selectattr('role', 'equalto', 'user') | list | length
messages | selectattr('role', '==', 'user') | map(attribute='content') | list
messages | selectattr('tool_calls') | list | length
messages | selectattr('tool_calls', 'defined') | list | length
messages | rejectattr('role', 'eq', 'user') | map(attribute='role') | list
messages | rejectattr('role', 'in', ['user', 'system']) | map(attribute='role') | list
messages | selectattr('content', 'none') | list | length
numbers | select | list
numbers | select('odd') | list
numbers | select('gt', 1) | list
numbers | select('>', 1) | list
numbers | select('divisibleby', 2) | list
numbers | reject('lt', 1) | list
words | select('in', ['b', 'c']) | list
words | select('nope') | list
words | select('upper')
(words | select('upper')) | length
(words | select('upper')) | first
numbers | sum
[0.1, 0.2] | sum
people | sum(attribute='age')
[[1], [2]] | sum(start=[])
['a'] | sum
numbers | max
numbers | min
words | max
words | min(case_sensitive=true)
people | max(attribute='age')
[] | max
words | unique | list
words | unique(case_sensitive=true) | list
people | unique(attribute='age') | map(attribute='name') | list
people | groupby('age')
people | groupby('tag.k') | map(attribute='grouper') | list
people | groupby('nope', default='z') | length
(people | groupby('age'))[0].list | length
(people | groupby('age') | first).grouper
words | groupby('x')
[1, 2, 3, 4, 5] | batch(2) | list
[1, 2, 3, 4, 5] | batch(2, 'x') | list
[1, 2, 3, 4, 5] | slice(2) | list
[1, 2, 3, 4, 5] | slice(3, 'x') | list
{'b': 1, 'A': 2} | dictsort
{'b': 1, 'A': 2} | dictsort(true)
{'b': 1, 'A': 2} | dictsort(by='value')
{'b': 1, 'A': 2} | dictsort(false, 'value', true)
{'b': 1, 'A': 2} | dictsort(by='x')
tool | items | list
tool.properties | items | map('first') | list
7 | items
'a\nb\n\nc' | indent
'a\nb\n\nc' | indent(2)
'a\nb\n\nc' | indent(2, true)
'a\nb\n\nc' | indent(2, first=true, blank=true)
'a\nb' | indent('> ')
'a\nb\n' | indent(2) ~ '|'
'a' | replace('a', 'b')
'aaa' | replace('a', 'b', 2)
'aaa' | replace('a', 'b', count=1)
123 | replace(2, 'x')
'a' | replace('a')
42.55 | round
42.55 | round(1)
2.5 | round
3.5 | round
42 | round
42 | round(2)
1234 | round(-2)
1250 | round(-2)
1350 | round(-2)
42.5 | round(0, 'ceil')
42.5 | round(method='floor')
42.123 | round(2, 'ceil')
-0.4 | round
'a' | round
42.5 | round | int
'42' | int
'42.7' | int
' 42 ' | int
'1_000' | int
'x' | int
'x' | int(7)
'x' | int(default=none)
'0x1f' | int(base=16)
'ff' | int(0, 16)
'101' | int(0, 2)
42.9 | int
-42.9 | int
true | int
'inf' | int
[] | int
'1.5' | float
'1e3' | float
'x' | float
'x' | float(2)
'inf' | float
'nan' | float
3 | float
none | float
3 | string
3.0 | string
[1, 'a'] | string
'abc' | string
true | string ~ 'x'
words | list
tool | list
5 | list
'<a href="x">\'&' | escape
'<' | e
'<' | e ~ '<'
('<' | e) + '<'
'<' + ('<' | safe)
('<' | safe) + '<'
'<' | safe
'<' | e | e
'<' | e | forceescape
('<' | safe).upper()
('<a>' | safe) | upper
'<p>a <b>b</b>\n c</p>' | striptags
'a b/é?&=' | urlencode
{'a': 'b c', 'd': '/'} | urlencode
[('a', 1)] | urlencode
{'class': 'x', 'id': none, 'n': 3, 'q': '"'} | xmlattr
{'a': 1} | xmlattr(false)
{'a b': 1} | xmlattr
1 | filesizeformat
100 | filesizeformat
13000 | filesizeformat
4100000 | filesizeformat
13000 | filesizeformat(true)
1e30 | filesizeformat
{'b': 1, 'a': [1, 2]} | pprint
'x' | pprint
messages[0] | attr('get') is callable
messages[0] | attr('role')
'abc' | attr('upper') is callable
[1,2] | tojson(separators=(',', ':'))
{'b':1,'a':2} | tojson(sort_keys=true)
{'b':1,'a':[1,{}, []]} | tojson(indent=2)
{'b':1,'a':[1,2]} | tojson(indent=4, sort_keys=true)
{'b':1} | tojson(indent='\t')
[1] | tojson(indent=0)
[1, 2] | tojson(indent=2, separators=(', ', ' = '))
'é🙂' | tojson
'é🙂' | tojson(ensure_ascii=true)
'é' | tojson(true)
'"\\/\n\r\t\x08\x0c\x01\x7f<>&\'\u2028' | tojson
[1, 1.0, 1e20, 1e-7, -0.0, none, true, false] | tojson
1e400 | tojson
{1: 'a', none: 'b', true: 'c', 1.5: 'd'} | tojson
{(1, 2): 'a'} | tojson
(1, 2) | tojson
tool | tojson
messages[2] | tojson
messages | tojson
big | tojson
range(3) | tojson
{}.items() | tojson
namespace(a=1) | tojson
(words | map('upper')) | tojson
('<' | safe) | tojson
'a' | tojson | safe
'[' + ('a' | tojson | safe) + ']'
{'b': 1, 2: 1} | tojson(sort_keys=true)
'x' | tojson(nope=1)
cycler('a','b').next()
cycler('a','b').current
cycler()
joiner(',')()
joiner()() ~ '|'
dict(a=1, b=2)
dict({'a': 1}, b=2)
dict([('a', 1)])
dict()
namespace(a=1).a
namespace(a=1).b
namespace(a=1)
namespace({'a': 1}, b=2).b
namespace(_a=1)
raise_exception('no')
strftime_now('%I:%M %p') | length
strftime_now('%-d %B %Y') | length > 5
strftime_now('%j') | length
strftime_now('%Y-%m-%d') | length
strftime_now('%f') | length
strftime_now('%Z%z|%%|%n')
strftime_now('%c') | length
strftime_now('%x %X') | length
strftime_now('%H') | int < 24
strftime_now('%Q%')
strftime_now('100')
strftime_now()
nope('x')
messages | nope
messages[0]['content'].split('.')[0].strip() | upper
messages[1].content.split('\n')[-1]
(messages | last).role
(messages | selectattr('role', 'equalto', 'user') | list)[-1].content
messages[-1]['content'][:4] ~ '|' ~ messages[-1]['content'] | length
*[1]
[1, 2,]
{'a': 1,}
(1, 2,)
[1 2]
{'a' 1}
1 +
(1
1)
'a
a b
{{ 1 }}
a.
a[
a[]
a[1, 2]
dict(*[[('a', 1)]])
dict(**{'a': 1})
dict(a=1, **{'b': 2})
range(*[1, 3]) | list
dict(**1)
namespace(a=1, 2)
loop
varargs
lipsum is defined
true
True
none
None
False
messages is string
messages is iterable and messages is not mapping
messages[0] is mapping and 'role' in messages[0]
'a' is string and 'b'
7 is number is true
x is not defined
'é' > 'z'
'🙂' > '\uffff'
'a' ~ 1.0 ~ none ~ true ~ [1.0, 'x']
bos_token + 'x'
""".strip("\n").split("\n")

TEMPLATES = [
    # Whitespace: trim_blocks, lstrip_blocks, signs, comments, raw, line ends, the end of the template.
    "a\n  {% if true %}\nb\n  {% endif %}\nc\n",
    "a\n  {%+ if true %}\nb\n{%- endif %}\nc\n\n",
    "a  {{- 'b' -}}  \n c",
    "a {%- if true -%} b {%- endif -%} c",
    "a\n  {# note #}\nb",
    "a\n  {#- note -#}\n  b",
    "a {# note #} b {#+ x +#}\nc",
    "  {% if true %}x{% endif %}  \n",
    "x  {% if true %}\n  y{% endif +%}\nz",
    "{% raw %}{{ x }}{% if %}{% endraw %}\nz",
    "  {%- raw -%}  {{ x }}  {%- endraw -%}  z",
    "{% raw %}\n  a\n  {% endraw %}\nb",
    "a\r\nb\rc\n\n",
    "a\n",
    "a\n\n\n",
    "{{ 'a\r\nb\rc' }}",
    "<{{ 'a\\\nb' }}>",
    "<{{ 'a\\\r\nb' }}>",
    "{{\n 'a'\n ~ \n'b' }}",
    "{%\nif true\n%}x{%\nendif\n%}",
    "{{ '}}' }}{{ '%}' }}{{ \"{{\" }}",
    "{{ {'a': {'b': 1}}.a.b }}{{ {'a': {}}}}",
    "{ { x } } {x} {%% }",
    "{{ 1 }}\n{{ 2 }}\n",
    "\t {% set x = 1 %} \t{{ x }}",
    "a\u00a0{%- if true %} b{% endif %}",
    # Statements.
    "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }} {% endfor %}",
    "{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined }}>{{ loop.nextitem.role }} {% endfor %}",
    "{% for m in messages %}{{ loop.previtem.role }}{% endfor %}",
    "{% for m in messages %}{{ loop.cycle('a', 'b') }}{{ loop.changed(m.role) }}{% endfor %}",
    "{% for x in [] %}a{% else %}none{% endfor %}",
    "{% for x in undefined_thing %}a{% else %}none{% endfor %}",
    "{% for x in none %}a{% endfor %}",
    "{% for x in 5 %}a{% endfor %}",
    "{% for c in 'abc' %}{{ c }}-{% endfor %}",
    "{% for k in tool %}{{ k }},{% endfor %}",
    "{% for k, v in tool.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in tool | dictsort %}{{ k }};{% endfor %}",
    "{% for k, v in [(1, 2), (3, 4)] %}{{ k + v }};{% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}",
    "{% for a, b in [1] %}{{ a }}{% endfor %}",
    "{% for x in 1, 2, 3 %}{{ x }}{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ loop.index }}/{{ loop.length }}{{ loop.last }} {% endfor %}",
    "{% for m in messages if m.role == 'nope' %}x{% else %}none{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for x in [1, 2, 3, 4] if ns.n < 2 %}{% set ns.n = ns.n + 1 %}{{ x }}{% endfor %}",
    "{% for x in [1, 2, 3] %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in [1, 2, 3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% else %}e{% endfor %}",
    "{% break %}",
    "{% for x in [1, [2, [3]]] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}@{{ loop.depth }}{% endif %}{% endfor %}",
    "{% for x in [1] %}{{ loop([2]) }}{% endfor %}",
    "{% for x in [1, 2] %}{% for y in [1, 2] %}{{ loop.index }}{{ x }}{{ y }} {% endfor %}{{ loop.index }};{% endfor %}",
    "{% for x in [1, 2] %}{% set o = loop %}{% for y in [1] %}{{ o.index }}{% endfor %}{% endfor %}",
    "{% for x in [1] %}{{ loop }}{% endfor %}",
    "{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = 5 %}{{ x }}{% endfor %}{{ x }}",
    "{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}",
    "{% set x, y = 1, 2 %}{{ x }}{{ y }}",
    "{% set (x, y) = [1, 2] %}{{ x }}{{ y }}",
    "{% set x = 1, 2 %}{{ x }}",
    "{% set x, y = 1 %}",
    "{% set x %}a{{ 1 }}b{% endset %}{{ x }}",
    "{% set x | upper | replace('A', 'z') %}a{{ 'b' }}{% endset %}{{ x }}",
    "{% set y = 1 %}{% set x %}{% set y = 2 %}{{ y }}{% endset %}{{ x }}{{ y }}",
    "{% set ns = namespace(a=1, b=[]) %}{% for i in [1, 2] %}{% set ns.a = ns.a + i %}{% set ns.b = ns.b + [i] %}{% endfor %}{{ ns.a }}{{ ns.b }}",
    "{% set ns = namespace() %}{% set ns.x = 1 %}{{ ns.x }}{{ ns.y }}|{{ ns['x'] }}",
    "{% set ns = namespace() %}{% set ns._x = 1 %}",
    "{% set x = {} %}{% set x.y = 1 %}",
    "{% set messages.x = 1 %}",
    "{% set true = 1 %}",
    "{% set loop = 1 %}{{ loop }}",
    "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }}",
    "{% set a = 5 %}{% with a = 1, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}",
    "{% with %}{% set z = 1 %}{{ z }}{% endwith %}{{ z }}",
    "{% if undefined_thing %}a{% elif 0 %}b{% elif 'x' %}c{% else %}d{% endif %}",
    "{% if 1, 2 %}a{% endif %}",
    "{% if tools is iterable and tools | length > 0 %}t{% endif %}x",
    "{% if undefined_thing.attr %}a{% endif %}",
    "{% if messages[0].nope %}a{% else %}b{% endif %}",
    "{% macro f(a, b=2, c='x' ~ a) %}{{ a }}{{ b }}{{ c }};{% endmacro %}{{ f(1) }}{{ f(1, 3) }}{{ f(b=1, a=2) }}{{ f() }}",
    "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}",
    "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, a=2) }}",
    "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(z=2) }}",
    "{% macro f(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, 3, z=4) }}",
    "{% macro f(a) %}{{ a is defined }}{{ a }}{% endmacro %}{{ f() }}{{ f(none) }}",
    "{% macro f(x) %}{% if x %}{{ x[0] }}{{ f(x[1:]) }}{% endif %}{% endmacro %}{{ f('abc') }}",
    "{% macro f() %}{{ y }}{% endmacro %}{% set y = 1 %}{{ f() }}{% set y = 2 %}{{ f() }}",
    "{% macro f() %}{% set y = 3 %}{{ y }}{% endmacro %}{{ f() }}{{ y }}",
    "{% for i in [1, 2] %}{% macro f() %}{{ i }}{% endmacro %}{{ f() }}{% endfor %}",
    "{% macro f() %}  a\n{% endmacro %}[{{ f() | trim }}]{{ f() | length }}{{ f }}{{ f.name }}",
    "{% macro f(a, b) %}x{% endmacro %}{{ f is callable }}{{ 'a' + f(1, 2) }}",
    "{% macro f(a=1, b) %}{% endmacro %}",
    "{% macro f() %}<{{ caller() }}>{% endmacro %}{% call f() %}in{{ 1 }}{% endcall %}",
    "{% macro f() %}<{{ caller('a', 2) }}>{% endmacro %}{% call(x, y=3) f() %}{{ x }}{{ y }}{% endcall %}",
    "{% macro f() %}{{ caller() }}{% endmacro %}{{ f() }}",
    "{% macro f() %}x{% endmacro %}{% call f() %}y{% endcall %}",
    "{% macro f(caller=none) %}{{ caller is none }}{% endmacro %}{{ f() }}",
    "{% macro f(a) %}{{ a }}{{ caller() }}{% endmacro %}{% for m in messages[:2] %}{% call f(m.role) %}{{ m.content }}{{ loop.index }}{% endcall %}{% endfor %}",
    "{% call 7 %}{% endcall %}",
    "{% filter upper %}a{{ 'b' }}{% endfilter %}",
    "{% filter replace('a', 'b') | upper %}aXa{% endfilter %}",
    "{% filter trim %}  {% set q = 1 %}{{ q }} {% endfilter %}{{ q }}",
    "{% filter nope %}a{% endfilter %}",
    "{% generation %}a{{ 1 }}{% endgeneration %}b",
    "a\n  {%- generation %}\n  x\n  {%- endgeneration %}\nb",
    "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "{% for m in messages %}{% generation %}{{ loop.index }}{{ m.role }}{% endgeneration %}{% endfor %}",
    "{% for m in messages %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
    "{% print 'a', 1 %}",
    "{% block a %}x{{ messages | length }}{% endblock %}y",
    "{% set x = 1 %}{% block a %}{{ x }}{% set x = 2 %}{% endblock a %}{{ x }}",
    "{% for i in [1] %}{% block a %}{{ i }}{% endblock %}{% endfor %}",
    "{% for i in [1] %}{% block a scoped %}{{ i }}{% endblock %}{% endfor %}",
    "{% autoescape false %}{{ '<' }}{% endautoescape %}",
    "{% include 'x' %}",
    "{% if false %}{% include 'x' %}{% endif %}a",
    "{% import 'x' as y %}",
    "{% from 'x' import y %}",
    "{% extends 'x' %}",
    "{% do 1 %}",
    "{% nope %}",
    "{% if true %}",
    "{% endif %}",
    "{% for x in y %}{% endif %}",
    "{% if x | nope %}a{% endif %}b",
    "{% if false %}{{ x | nope }}{{ x is nope }}{% endif %}b",
    "{{ (x | nope) if false else 'b' }}",
    "{{ x | nope if true else 'b' }}",
    "{% if true: %}a{% endif %}",
    "{% for x in [1]: %}{{ x }}{% endfor %}",
    "{{ }}",
    "{% %}",
    "{{ 1",
    "{% if 1",
    "{# open",
    "{% raw %}open",
    "{{ raise_exception('Conversation roles must alternate') }}",
    "{% if false %}{{ raise_exception('x') }}{% endif %}ok",
    "{% set c = cycler('a', 'b', 'c') %}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.next() }}{{ c.reset() }}{{ c.next() }}",
    "{% set j = joiner('; ') %}{% for x in words %}{{ j() }}{{ x }}{% endfor %}",
    "{% set g = words | map('upper') %}{{ g | list }}{{ g | list }}",
    "{% set g = words | map('upper') %}{% for x in g %}{{ x }}{% endfor %}{{ g | first is defined }}",
    "{% set x = messages %}{% set messages = messages[1:] %}{{ x | length }}{{ messages | length }}",
    "{% set messages = messages[1:] if messages[0].role == 'system' else messages %}{{ messages[0].role }}",
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 1) %}{{ raise_exception('bad') }}{% endif %}{{ message.role }}{% endfor %}",
    "{%- for m in messages %}\n    {{- '<|im_start|>' + m.role + '\\n' }}\n    {%- if m.content is string %}\n        {{- m.content | trim }}\n    {%- endif %}\n    {%- if m.tool_calls %}\n        {%- for call in m.tool_calls %}\n            {{- '\\n{\"name\": \"' ~ call.name ~ '\", \"arguments\": ' ~ call.arguments | tojson ~ '}' }}\n        {%- endfor %}\n    {%- endif %}\n    {{- '<|im_end|>\\n' }}\n{%- endfor %}\n",
    "{% set content %}\n  x\n{% endset %}[{{ content }}]",
    "{% set x = dict(a=1) %}{{ x.a }}{{ dict(x, b=2) }}",
    "{% set items = [] %}{% for m in messages %}{% set _ = items.append(m) %}{% endfor %}",
    "{% set _ = messages[0].update({'a': 1}) %}",
    "{% set x = 'a' if true %}{{ x }}",
    "{% set x = [] + [1] %}{% set x = x + [2] %}{{ x }}",
    "{{ 'a' }}{# c #}\n{{ 'b' }}",
    "{% macro r(v, d=0) %}{% if v is mapping %}{% for k, x in v.items() %}{{ '  ' * d }}{{ k }}:{{ r(x, d + 1) }}\n{% endfor %}{% else %}{{ v }}{% endif %}{% endmacro %}{{ r(tool) }}",
    "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}b{% endmacro %}{{ a() }}",
    "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
]


def main(path):
    rows = []
    for source in ["<{{ " + e + " }}>" for e in EXPRESSIONS] + TEMPLATES:
        try:
            text = _compile_jinja_template(source).render(**json.loads(json.dumps(VARIABLES)))
            text.encode("utf-8")
        except Exception:
            text = None
        if text is None or " at 0x" not in text:  # an address of memory differs in each run
            rows.append([source, text])
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"variables": ' + json.dumps(VARIABLES, ensure_ascii=False) + ',\n"rows": [\n' + lines + "\n]}\n")


if __name__ == "__main__":
    main(sys.argv[1])
