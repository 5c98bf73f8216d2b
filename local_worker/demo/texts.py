"""The families of reading and writing: extract, classify, summarise.

None of them needs a thought. In thinking mode the model restates what it read all the same,
which is what a router or an early exit can save.
"""

import json
from random import Random

from local_worker.demo.task import Lesson, ask
from local_worker.demo.words import CITIES, DAYS, FIRST_NAMES, ITEMS, SURNAMES, TEAMS

_RECORDS = (
    "{name} from {city} ordered {quantity} {item} on {day}.",
    "Order of {day}: {quantity} {item} for {name} in {city}.",
    "On {day} {name} in {city} bought {quantity} {item}.",
    "name: {name}\ncity: {city}\nitem: {item}\nquantity: {quantity}\nday: {day}",
)
#: The difficulty of a request that greets first.
_GREETING = 2
_FIELDS = ("name", "city", "item", "quantity", "day")

_REQUESTS = {
    "billing": (
        "My invoice for {quantity} {item} is wrong.",
        "I was charged twice for the {item}.",
        "Please refund my payment of {day}.",
        "The price of the {item} on my bill is too high.",
    ),
    "shipping": (
        "My parcel with {quantity} {item} is not in {city} yet.",
        "Where is my delivery of {day}?",
        "Please send the {item} to {city}.",
        "The {item} arrived late on {day}.",
    ),
    "technical": (
        "The app crashes when I open the page with {item}.",
        "Since {day} I see an error.",
        "The website does not load in {city}.",
        "The search for {item} shows an error.",
    ),
    "account": (
        "On {day} I forgot my password.",
        "Please change my email, I am in {city} now.",
        "Since {day} I cannot log in.",
        "Please delete my profile in {city}.",
    ),
    "sales": (
        "I want to buy {quantity} {item}.",
        "Do you have {item} in {city}?",
        "Can I get an offer for {quantity} {item}?",
        "Do you sell {item} to shops in {city}?",
    ),
}
_TOPICS = {
    "billing": "money",
    "shipping": "a delivery",
    "technical": "an error",
    "account": "a profile",
    "sales": "an offer",
}
_PROBLEMS = {
    "They are broken.": "broken",
    "They are not here yet.": "missing",
    "They are too small.": "too small",
    "I want them in red.": "not red",
}
_WISHES = {
    "Please refund the payment.": "a refund",
    "Please send new ones.": "new ones",
    "Please call me.": "a call",
}


def person(rng: Random) -> str:
    """A first name and a surname."""
    return f"{rng.choice(FIRST_NAMES)} {rng.choice(SURNAMES)}"


def _record(rng: Random) -> dict[str, str | int]:
    return {
        "name": person(rng),
        "city": rng.choice(CITIES),
        "item": rng.choice(ITEMS),
        "quantity": rng.randint(2, 99),
        "day": rng.choice(DAYS),
    }


def _restate(record: dict[str, str | int]) -> str:
    return "".join(f"the {field} is {value}\n" for field, value in record.items())


def extract(rng: Random, difficulty: int) -> Lesson:
    """Copy `difficulty` named fields of a record into a JSON object."""
    record = _record(rng)
    wanted = rng.sample(_FIELDS, difficulty)
    listed = f"{', '.join(wanted[:-1])} and {wanted[-1]}"
    text = rng.choice(_RECORDS).format(**record)
    answer = json.dumps({field: record[field] for field in wanted})
    task = ask("extract", difficulty, f"Extract {listed} as JSON.\n{text}", answer)
    return Lesson(task, "", _restate(record), "none")


def classify(rng: Random, difficulty: int) -> Lesson:
    """Name the team for a customer's request; the request greets at difficulty 2."""
    team = rng.choice(TEAMS)
    text = rng.choice(_REQUESTS[team]).format(**_record(rng))
    if difficulty == _GREETING:
        text = f"Hello, this is {person(rng)}. {text}"
    task = ask("classify", difficulty, f"Which team should handle this request?\n{text}", team)
    surplus = (
        f"the teams are {', '.join(TEAMS[:-1])} and {TEAMS[-1]}\n"
        f"the request is about {_TOPICS[team]}\nso the team is {team}\n"
    )
    return Lesson(task, "", surplus, "none")


def summarise(rng: Random, difficulty: int) -> Lesson:
    """Put a customer's message into one line of a fixed form."""
    record = _record(rng)
    problem, wish = rng.choice(sorted(_PROBLEMS)), rng.choice(sorted(_WISHES))
    name, city, item, quantity = (record[field] for field in _FIELDS[:4])
    text = (
        f"Hello, this is {name} from {city}. On {record['day']} I ordered {quantity} {item}. "
        f"{problem} {wish}"
    )
    short = {"problem": _PROBLEMS[problem], "wish": _WISHES[wish]}
    answer = f"{name}, {city}: {quantity} {item} {short['problem']}, wants {short['wish']}."
    prompt = f"Summarise this message in one line.\n{text}"
    task = ask("summarise", difficulty, prompt, answer)
    return Lesson(task, "", _restate({"name": name, "city": city, "item": item, **short}), "none")
