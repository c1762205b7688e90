"""Templated arithmetic word problems: the training text of the default model.

Every family draws its numbers, then phrases a question in one of several wordings and solves it step by step in the
manner of GSM8K: the last line of a solution is `#### ANSWER`. All numbers are positive integers up to LARGEST, so
that a model of about a million parameters can compute them, and a solution is a function of its question, so that
greedy decoding has one right text. Drills are bare sums, differences, products and quotients: they teach a
small model to copy and to compute with less text.
"""

import re
from dataclasses import dataclass
from random import Random

FEMALE = ["Anna", "Beth", "Cara", "Dana", "Ella", "Fay", "Gina", "Hana", "Ida", "Jane", "Kate", "Lily", "Mia", "Nora",
          "Olga", "Rosa"]
MALE = ["Adam", "Ben", "Carl", "Dan", "Eric", "Finn", "Gus", "Hugo", "Ivan", "Jack", "Karl", "Leo", "Max", "Nick",
        "Omar", "Paul"]
THINGS = ["apples", "books", "cards", "coins", "cookies", "eggs", "flowers", "marbles", "muffins", "nuts", "oranges",
          "pears", "pencils", "plums", "shells", "stamps", "stickers", "stones", "tickets", "toys"]
CONTAINERS = ["bags", "boxes", "baskets", "packs", "jars", "trays"]
WARES = ["books", "caps", "cups", "hats", "lamps", "pens", "plates", "scarves", "shirts", "toys"]


# The largest number in a problem or its solution. The facts of arithmetic up to here are few enough that a thousand
# problems cover most of them, so that training on a thousand does not forget the others.
LARGEST = 40


@dataclass(frozen=True)
class Problem:
    """A question with its solution; `key` is its family and numbers, which separate the splits."""

    key: tuple
    prompt: str
    response: str
    answer: int


class Cast:
    """The people and things of one problem."""

    def __init__(self, rng: Random):
        people = rng.sample([(n, "She", "her") for n in FEMALE] + [(n, "He", "his") for n in MALE], 2)
        (self.a, self.He, self.his), (self.b, self.She, self.her) = people
        self.he, self.she = self.He.lower(), self.She.lower()
        self.things = rng.choice(THINGS)
        self.containers = rng.choice(CONTAINERS)
        self.wares = rng.choice(WARES)


def buys_containers(rng, c):
    k, m = rng.randint(2, 9), rng.randint(2, 9)
    total = k * m
    n = rng.randint(3, min(40, 99 - total))
    result = n + total
    questions = [
        f"{c.a} has {n} {c.things}. {c.He} buys {k} {c.containers} with {m} {c.things} in each. "
        f"How many {c.things} does {c.a} have now?",
        f"There are {k} {c.containers} with {m} {c.things} each on the table, and {c.a} already has {n} {c.things}. "
        f"If {c.he} takes all of them, how many {c.things} does {c.a} have?",
    ]
    solution = (f"The {k} {c.containers} hold {k} * {m} = {total} {c.things}. "
                f"With the {n} {c.things} from before, {c.a} has {n} + {total} = {result} {c.things}.")
    return (n, k, m), questions, [solution] * 2, result


def picks_and_gives(rng, c):
    n, m = rng.randint(5, 49), rng.randint(5, 49)
    total = n + m
    k = rng.randint(3, total - 3)
    result = total - k
    questions = [
        f"{c.a} picks {n} {c.things} in the morning and {m} {c.things} in the afternoon. "
        f"{c.He} gives {k} {c.things} to {c.b}. How many {c.things} does {c.a} have left?",
        f"On Monday {c.a} finds {n} {c.things}. On Tuesday {c.he} finds {m} more, but then loses {k} of them. "
        f"How many {c.things} does {c.a} have in the end?",
    ]
    solutions = [
        f"In total {c.a} picks {n} + {m} = {total} {c.things}. "
        f"After giving {k} {c.things} to {c.b}, {c.he} has {total} - {k} = {result} {c.things} left.",
        f"On both days {c.a} finds {n} + {m} = {total} {c.things}. "
        f"After losing {k} {c.things}, {c.he} has {total} - {k} = {result} {c.things}.",
    ]
    return (n, m, k), questions, solutions, result


def more_than(rng, c):
    n = rng.randint(3, 45)
    k = rng.randint(2, min(40, 98 - 2 * n))
    other = n + k
    result = n + other
    questions = [
        f"{c.a} has {n} {c.things}. {c.b} has {k} more {c.things} than {c.a}. "
        f"How many {c.things} do they have together?",
        f"{c.b} collects {k} more {c.things} than {c.a}, who collects {n} {c.things}. "
        f"How many {c.things} do {c.a} and {c.b} collect in all?",
    ]
    solution = (f"{c.b} has {n} + {k} = {other} {c.things}. "
                f"Together {c.a} and {c.b} have {n} + {other} = {result} {c.things}.")
    return (n, k), questions, [solution] * 2, result


def times_as_many(rng, c):
    word, k = rng.choice([("twice", 2), ("three times", 3), ("four times", 4), ("five times", 5)])
    n, m = rng.randint(2, 9), rng.randint(2, 40)
    other = k * n
    result = other + m
    questions = [
        f"{c.a} has {n} {c.things}. {c.b} has {word} as many {c.things} as {c.a}, and then finds {m} more. "
        f"How many {c.things} does {c.b} have?",
        f"Last week {c.a} sold {n} {c.things}. This week {c.he} sold {word} as many {c.things}, and {c.b} sold {m}. "
        f"How many {c.things} were sold this week?",
    ]
    solutions = [
        f"At first {c.b} has {k} * {n} = {other} {c.things}. "
        f"After finding {m} more, {c.she} has {other} + {m} = {result} {c.things}.",
        f"This week {c.a} sold {k} * {n} = {other} {c.things}. "
        f"With the {m} {c.things} of {c.b}, that makes {other} + {m} = {result} {c.things}.",
    ]
    return (n, k, m), questions, solutions, result


def money_left(rng, c):
    k, price = rng.randint(2, 9), rng.randint(2, 9)
    cost = k * price
    n = rng.randint(cost + 2, 99)
    result = n - cost
    questions = [
        f"{c.a} has {n} dollars. {c.He} buys {k} {c.wares} that cost {price} dollars each. "
        f"How many dollars does {c.a} have left?",
        f"At the market {c.wares} cost {price} dollars each. {c.a} buys {k} of them and pays with {n} dollars. "
        f"How many dollars does {c.he} get back?",
    ]
    solutions = [
        f"The {k} {c.wares} cost {k} * {price} = {cost} dollars. "
        f"{c.a} has {n} - {cost} = {result} dollars left.",
        f"For {k} {c.wares} {c.a} pays {k} * {price} = {cost} dollars. "
        f"{c.He} gets back {n} - {cost} = {result} dollars.",
    ]
    return (n, k, price), questions, solutions, result


def packs_into(rng, c):
    boxes, size, eaten = rng.randint(2, 9), rng.randint(3, 9), rng.randint(2, 15)
    rest = boxes * size
    n = rest + eaten
    questions = [
        f"{c.a} has {n} {c.things}. {c.He} keeps {eaten} {c.things} and packs the rest into {c.containers} "
        f"of {size}. How many {c.containers} does {c.a} fill?",
        f"A shop gets {n} {c.things}, but {eaten} of them are broken. The good {c.things} are sold in {c.containers} "
        f"of {size}. How many {c.containers} can the shop sell?",
    ]
    solutions = [
        f"After keeping {eaten} {c.things}, {c.a} has {n} - {eaten} = {rest} {c.things} to pack. "
        f"They fill {rest} / {size} = {boxes} {c.containers}.",
        f"The shop has {n} - {eaten} = {rest} good {c.things}. "
        f"They fill {rest} / {size} = {boxes} {c.containers}.",
    ]
    return (n, eaten, size), questions, solutions, boxes


def wages(rng, c):
    hours = rng.randint(3, 9)
    rate, first = rng.randint(2, 9), rng.randint(1, hours - 1)
    second = hours - first
    result = rate * hours
    questions = [
        f"{c.a} earns {rate} dollars an hour. {c.He} works {first} hours on Monday and {second} hours on Tuesday. "
        f"How many dollars does {c.a} earn?",
        f"{c.a} paints {first} doors in the morning and {second} doors in the afternoon. "
        f"{c.He} is paid {rate} dollars for each door. How many dollars does {c.he} get?",
    ]
    solutions = [
        f"In total {c.a} works {first} + {second} = {hours} hours. "
        f"At {rate} dollars an hour {c.he} earns {rate} * {hours} = {result} dollars.",
        f"In total {c.a} paints {first} + {second} = {hours} doors. "
        f"At {rate} dollars a door {c.he} gets {rate} * {hours} = {result} dollars.",
    ]
    return (rate, first, second), questions, solutions, result


def pages_left(rng, c):
    per_day, days = rng.randint(2, 9), rng.randint(2, 9)
    read = per_day * days
    n = rng.randint(read + 2, 99)
    result = n - read
    questions = [
        f"A book has {n} pages. {c.a} reads {per_day} pages a day for {days} days. "
        f"How many pages are left to read?",
        f"{c.a} wants to save {n} dollars. {c.He} puts {per_day} dollars a week into a jar for {days} weeks. "
        f"How many dollars does {c.he} still need?",
    ]
    solutions = [
        f"In {days} days {c.a} reads {days} * {per_day} = {read} pages. "
        f"There are {n} - {read} = {result} pages left to read.",
        f"In {days} weeks {c.a} saves {days} * {per_day} = {read} dollars. "
        f"{c.He} still needs {n} - {read} = {result} dollars.",
    ]
    return (n, per_day, days), questions, solutions, result


def seats(rng, c):
    rows, width = rng.randint(2, 9), rng.randint(3, 9)
    total = rows * width
    taken = rng.randint(3, total - 2)
    result = total - taken
    questions = [
        f"A hall has {rows} rows with {width} seats in each row. {taken} seats are taken. How many seats are free?",
        f"A garden has {rows} rows of {width} trees. The wind breaks {taken} trees. How many trees still stand?",
    ]
    solutions = [
        f"The hall has {rows} * {width} = {total} seats. "
        f"Since {taken} seats are taken, {total} - {taken} = {result} seats are free.",
        f"The garden has {rows} * {width} = {total} trees. "
        f"Since {taken} trees are broken, {total} - {taken} = {result} trees still stand.",
    ]
    return (rows, width, taken), questions, solutions, result


def ages(rng, c):
    n, years = rng.randint(10, 60), rng.randint(2, 30)
    less = rng.randint(2, n - 3)
    other = n - less
    result = other + years
    questions = [
        f"{c.a} is {n} years old. {c.b} is {less} years younger than {c.a}. "
        f"How old will {c.b} be in {years} years?",
        f"{c.b} is {less} years younger than {c.a}, who is {n} now. In {years} years, how old will {c.b} be?",
    ]
    solution = (f"Now {c.b} is {n} - {less} = {other} years old. "
                f"In {years} years {c.she} will be {other} + {years} = {result} years old.")
    return (n, less, years), questions, [solution] * 2, result


def bus(rng, c):
    n = rng.randint(15, 60)
    off = rng.randint(2, n - 3)
    on = rng.randint(2, 30)
    stay = n - off
    result = stay + on
    questions = [
        f"There are {n} people on a bus. At the next stop {off} people get off and {on} people get on. "
        f"How many people are on the bus now?",
        f"A lake has {n} ducks. In the evening {off} ducks fly away, and at night {on} ducks arrive. "
        f"How many ducks are on the lake?",
    ]
    solutions = [
        f"After {off} people get off, there are {n} - {off} = {stay} people on the bus. "
        f"After {on} people get on, there are {stay} + {on} = {result} people.",
        f"After {off} ducks fly away, there are {n} - {off} = {stay} ducks on the lake. "
        f"After {on} ducks arrive, there are {stay} + {on} = {result} ducks.",
    ]
    return (n, off, on), questions, solutions, result


def half(rng, c):
    part, m = rng.randint(4, 49), rng.randint(3, 40)
    n = 2 * part
    result = part + m
    questions = [
        f"{c.a} has {n} {c.things}. {c.He} gives half of them to {c.b} and then gets {m} {c.things} from {c.his} "
        f"teacher. How many {c.things} does {c.a} have now?",
        f"{c.b} had {m} {c.things}. Then {c.a}, who had {n} {c.things}, gave {c.b} half of them. "
        f"How many {c.things} does {c.b} have now?",
    ]
    solutions = [
        f"Half of the {c.things} is {n} / 2 = {part}, so {c.a} keeps {part} {c.things}. "
        f"With {m} more {c.he} has {part} + {m} = {result} {c.things}.",
        f"Half of the {c.things} is {n} / 2 = {part}, so {c.b} gets {part} {c.things}. "
        f"With {m} more {c.she} has {part} + {m} = {result} {c.things}.",
    ]
    return (n, m), questions, solutions, result


def share(rng, c):
    friends, each = rng.randint(2, 9), rng.randint(3, 9)
    total = friends * each
    n = rng.randint(2, total - 2)
    m = total - n
    questions = [
        f"{c.a} has {n} {c.things} and {c.b} has {m}. They share all {c.things} equally among {friends} friends. "
        f"How many {c.things} does each friend get?",
        f"{c.a} puts {n} red and {m} green {c.things} into {friends} {c.containers}, the same number in each. "
        f"How many {c.things} are in each of the {c.containers}?",
    ]
    solutions = [
        f"Together they have {n} + {m} = {total} {c.things}. "
        f"Each friend gets {total} / {friends} = {each} {c.things}.",
        f"In total there are {n} + {m} = {total} {c.things}. "
        f"So {total} / {friends} = {each} {c.things} are in each.",
    ]
    return (n, m, friends), questions, solutions, each


def discount(rng, c):
    k, price = rng.randint(2, 9), rng.randint(3, 9)
    cut = rng.randint(2, 30)
    old = price + cut
    result = k * price
    questions = [
        f"The price of {c.wares} falls from {old} dollars by {cut} dollars. {c.a} buys {k} {c.wares}. "
        f"How many dollars does {c.he} pay?",
        f"{c.a} buys {k} {c.wares}. Each was {old} dollars, but today each is {cut} dollars cheaper. "
        f"How many dollars does {c.a} spend?",
    ]
    solutions = [
        f"The new price is {old} - {cut} = {price} dollars. "
        f"For {k} {c.wares} {c.a} pays {k} * {price} = {result} dollars.",
        f"Each now costs {old} - {cut} = {price} dollars. "
        f"For {k} {c.wares} {c.a} spends {k} * {price} = {result} dollars.",
    ]
    return (k, old, cut), questions, solutions, result


FAMILIES = [buys_containers, picks_and_gives, more_than, times_as_many, money_left, packs_into, wages, pages_left, seats,
            ages, bus, half, share, discount]


def draw(rng: Random) -> Problem:
    """Draws one word problem; equal states of `rng` give equal problems."""
    while True:
        family = rng.choice(FAMILIES)
        numbers, questions, solutions, answer = family(rng, Cast(rng))
        wording = rng.randrange(len(questions))
        prompt, response = questions[wording], f"{solutions[wording]}\n#### {answer}"
        if all(int(number) <= LARGEST for number in re.findall(r"\d+", prompt + response)):
            return Problem((family.__name__, *numbers), prompt, response, answer)


def expression(rng):
    """A bare expression and its value. Small numbers are more frequent, since larger sums need their tables."""
    operation = rng.choice("++--*/")
    bound = rng.choice([9, 18, LARGEST])
    if operation == "+":
        total = rng.randint(2, bound)
        left = rng.randint(1, total - 1)
        return f"{left} + {total - left}", total
    if operation == "-":
        left = rng.randint(2, bound)
        right = rng.randint(1, left - 1)
        return f"{left} - {right}", left - right
    left = rng.randint(2, 9)
    right = rng.randint(2, min(9, LARGEST // left))
    if operation == "*":
        return f"{left} * {right}", left * right
    return f"{left * right} / {right}", left


def drill(rng: Random) -> Problem:
    """Draws a few bare expressions for somebody; the answer is the value of the last one."""
    name = rng.choice(FEMALE + MALE)
    sums = [expression(rng) for _ in range(rng.randint(3, 5))]
    prompt = f"Compute for {name}: " + ", ".join(text for text, _ in sums) + "."
    solution = f"For {name}: " + ", ".join(f"{text} = {value}" for text, value in sums)
    answer = sums[-1][1]
    return Problem(("drill", *(text for text, _ in sums)), prompt, f"{solution}.\n#### {answer}", answer)
