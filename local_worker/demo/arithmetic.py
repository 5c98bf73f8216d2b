"""The families for which a thought pays: invoice, count, largest.

The thought works row by row and carries the result so far, so a small model gets right step by
step what it cannot see at a glance. Each is followed by a second pass that only repeats.
"""

from random import Random

from local_worker.demo.task import Lesson, ask
from local_worker.demo.words import ITEMS, STATUSES

_INVOICE_PROMPTS = (
    "Add up this invoice.",
    "What is the total of this invoice?",
    "Please add up these lines.",
)
_LARGEST_PROMPTS = ("Which number is the largest?", "Find the largest number.")

#: What is needed of a thought has to fit the level's budget. An invoice takes at most 31 tokens
#: for 2 lines, 88 for 5 and 145 for 8; a count takes 6 a row, the largest 8 for each number
#: after the first.
_LOW_INVOICE, _MEDIUM_INVOICE = 2, 5
_LOW_COUNT = 5
_EASY_LARGEST, _LOW_LARGEST = 4, 5


def invoice(rng: Random, difficulty: int) -> Lesson:
    """Add up quantity times price over `difficulty` lines."""
    items = rng.sample(ITEMS, difficulty)
    rows = [(item, rng.randint(2, 9), rng.randint(2, 19)) for item in items]
    work, check, total = [], [], 0
    for item, quantity, price in rows:
        amount = quantity * price
        # The running total stands on the right: the next line finds it at the end of this one.
        tail = f"+{total}={total + amount}" if total else ""
        total += amount
        work.append(f"{item} {quantity}x{price}={amount}{tail}\n")
        check.append(f" {item} {total}")
    prompt = rng.choice(_INVOICE_PROMPTS)
    lines = "".join(f"\n{item} {quantity}x{price}" for item, quantity, price in rows)
    task = ask("invoice", difficulty, prompt + lines, f"Total: {total}")
    again = f"check{''.join(check)}\n"
    if difficulty == 1:
        surplus = f"{work[0]}there is only one line, so there is nothing to add\n{again}"
        return Lesson(task, "", surplus, "none")
    if difficulty <= _LOW_INVOICE:
        return Lesson(task, "".join(work), again, "low")
    effort = "medium" if difficulty <= _MEDIUM_INVOICE else "high"
    return Lesson(task, "".join(work), again, effort)


def count(rng: Random, difficulty: int) -> Lesson:
    """Count the rows, of `difficulty`, that have a given status."""
    items = rng.sample(ITEMS, difficulty)
    wanted = rng.choice(STATUSES)
    rows = [(item, rng.choice((wanted, *STATUSES))) for item in items]
    work, check, seen = [], [], 0
    for item, status in rows:
        if status == wanted:
            seen += 1
            check.append(f" {item} {seen}")
        work.append(f"{item} {status} {seen}\n")
    lines = "".join(f"\n{item} {status}" for item, status in rows)
    task = ask("count", difficulty, f"How many rows are {wanted}?{lines}", f"Count: {seen}")
    surplus = f"check{''.join(check) or ' no rows'}\n"
    effort = "low" if difficulty <= _LOW_COUNT else "medium"
    return Lesson(task, "".join(work), surplus, effort)


def largest(rng: Random, difficulty: int) -> Lesson:
    """Find the largest of `difficulty` numbers; up to four of them need no thought."""
    numbers = rng.sample(range(100, 1000), difficulty)
    best = numbers[0]
    work = ""
    for number in numbers[1:]:
        best = max(best, number)
        work += f"{number} {best}\n"
    listed = " ".join(map(str, numbers))
    prompt = f"{rng.choice(_LARGEST_PROMPTS)}\n{listed}"
    task = ask("largest", difficulty, prompt, f"Largest: {best}")
    again = f"check {listed} so {best}\n"
    if difficulty <= _EASY_LARGEST:
        return Lesson(task, "", work + again, "none")
    return Lesson(task, work, again, "low" if difficulty <= _LOW_LARGEST else "medium")
