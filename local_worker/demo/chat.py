"""The chat family: a few fixed sentences, counting aloud, and a way out of everything else."""

from random import Random

from local_worker.demo.task import Lesson, ask
from local_worker.demo.words import FIRST_NAMES

_SENTENCES = {
    "Hello!": "Hello! How can I help you?",
    "How are you?": "I am fine, thank you.",
    "Who are you?": "I am the demo model of local-worker. I am very small, but I can think.",
    "What can you do?": (
        "I can add up an invoice, count rows, find the largest number, extract fields as JSON, "
        "name the team for a request, summarise a message and call a function."
    ),
    "Thank you!": "You are welcome.",
    "Goodbye!": "Goodbye!",
    "Tell me a story.": (
        "Anna had a small shop in Vienna. On Monday a parcel arrived: it was full of old clocks, "
        "and all of them were late. Anna was happy. A clock that is late, she said, has time "
        "for you. On Friday the clocks were sold, and Anna was on time for the first time."
    ),
}
_UNKNOWN = "Sorry, I am only a small demo model. I do not know that."
_SURPLUS = (
    "this is only chat\nthere is nothing to add up, to count or to extract\n"
    "one friendly line will do\n"
)
_SYLLABLES = (
    *("ba", "ce", "di", "fo", "gu", "ha", "in", "jo", "ka", "le", "mi", "no", "pu", "qua", "re"),
    *("st", "th", "tion", "ing", "er", "un", "ve", "wh", "y", "z", "ou", "ck", "s", "t", "n"),
)
_COMMON_SHARE, _NUMBER_SHARE, _MARK_SHARE, _CAPITAL_SHARE = 0.4, 0.1, 0.1, 0.6
_FIXED, _UNKNOWN_TEXT = 1, 3
_COMMON = (
    *("the", "is", "a", "of", "in", "to", "and", "you", "it", "for", "on", "this", "that"),
    *("What", "How", "Which", "Please", "Where", "I", "me", "my", "can", "do", "are", "Do"),
)


def noise(rng: Random, length: int) -> str:
    """`length` words without meaning, most of them not in the model's vocabulary."""
    words = []
    for _ in range(length):
        made_up = "".join(rng.choices(_SYLLABLES, k=rng.randint(1, 4)))
        word = rng.choice(_COMMON) if rng.random() < _COMMON_SHARE else made_up
        if rng.random() < _NUMBER_SHARE:
            word = str(rng.randint(0, 2000))
        marked = rng.random() < _MARK_SHARE
        words.append(word + (rng.choice((",", ".", "?", ":")) if marked else ""))
    text = " ".join(words)
    return text[0].upper() + text[1:] if rng.random() < _CAPITAL_SHARE else text


def chat(rng: Random, difficulty: int) -> Lesson:
    """Small talk (1), greeting a name or counting (2), or a way out of the unknown (3)."""
    if difficulty == _FIXED:
        prompt = rng.choice(sorted(_SENTENCES))
        answer = _SENTENCES[prompt]
    elif difficulty == _UNKNOWN_TEXT:
        prompt = noise(rng, rng.randint(1, 16)) + rng.choice(("", "", "?", ".", "!"))
        answer = _UNKNOWN
    elif rng.random() < 1 / 2:
        name = rng.choice(FIRST_NAMES)
        prompt, answer = f"Say hello to {name}.", f"Hello, {name}!"
    else:
        last = rng.randint(3, 30)
        prompt = f"Count to {last}."
        answer = " ".join(map(str, range(1, last + 1)))
    return Lesson(ask("chat", difficulty, prompt, answer), "", _SURPLUS, "none")
