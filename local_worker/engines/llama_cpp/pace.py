"""How many prompt tokens a step may compute. Pure.

A step takes as long as its slowest part: with 512 prompt tokens in it, the next token of everybody
who streams comes seconds later. Where nobody streams, whoever comes next waits for the step's end,
and of ten prompts computed together nobody has a first token before all ten are done. So a step is
no larger than it takes to compute each token as fast as in larger ones: that is a hundred tokens
for dense weights on a processor, and many more where experts or a device want to be filled. What
steps cost is learnt from the steps themselves, since it depends on model, machine, neighbours and
context.
"""

from __future__ import annotations

from local_worker.engines.llama_cpp.filling import AS_CHEAP, LEAST_TOKENS, Beside, Filling, choose
from local_worker.engines.process.average import LEARNING, OUTLIER, mixed

DEFAULT_SLOWDOWN = 2.0
"""Of a decode step, where nobody says what the streams need."""

UNNOTICED = 0.008
"""Seconds of a step that nobody who streams takes notice of, where nobody says what they need: a
model of a few million parameters would compute a prompt in twenty steps of 1 ms."""

LATE = 1.1
"""What a step may take of a target that is nobody's word, where it is known what it takes."""

SMALLEST_STEP = 128
"""Prompt tokens of a step in which nobody decodes; larger ones are twice that, and so on."""

TRY_AGAIN, RARELY = 8, 32
"""Steps after which one of another size is tried, and where others wait for their first tokens."""

LOOK, LOOK_AGAIN = 8, 128
"""Steps with prompts and streams in a row, after which the streams are computed alone for once:
where no step of about so many is known, and in any case. Under load, there are always prompts."""

ALIKE = 1.5
"""Numbers of sequences that are not further apart take times in proportion."""

NEARLY_LEAST = 12
"""Tokens that are computed instead of the least, where they fill up the kernels' rows."""

USUAL_PRICE = 0.35
"""Of one more row in a step on a processor, before any was seen, as a share of a token's."""


class Pace:
    """Learns what steps cost.

    Args:
        target: seconds that a step with streams in it should take at most; None leaves it to
            `DEFAULT_SLOWDOWN`, the prompts that wait and `UNNOTICED`, 0 sets no limit.
    """

    def __init__(self, target: float | None = None) -> None:
        self._target = target
        self._decode: dict[int, float] = {}  # seconds of a step, by the sequences in it
        self._alone: dict[int, float] = {}  # of a prompt token where nobody decodes, by step size
        self._latest: float | None = None  # of those
        self._steps = 0  # likewise
        self._fixed: float | None = None  # of a chunk beside streams, whatever its length
        self._mixed = 0  # steps of both kinds, since one of streams alone
        self._filling = Filling()
        self._price: dict[int, float] = {}  # of one more row beside so many sequences

    def observe(
        self, decoding: int, prompt_tokens: int, seconds: float, rows: int | None = None
    ) -> None:
        """A step has been computed.

        Args:
            decoding: sequences in it that were past their prompt.
            prompt_tokens: of the others.
            seconds: that it took.
            rows: of those past their prompt; None is one for each.
        """
        self._mixed = self._mixed + 1 if prompt_tokens and decoding else 0
        if not prompt_tokens:
            self._decode[decoding] = mixed(self._decode.get(decoding), seconds, outlier=OUTLIER)
        elif prompt_tokens >= LEAST_TOKENS:
            if decoding:
                streams = self.decode_seconds(decoding) or 0.0
                self._filling.observe(rows or decoding, prompt_tokens, seconds, streams)
                self._observe_beside(streams, prompt_tokens, seconds)
            else:
                cost, size = seconds / prompt_tokens, _size(prompt_tokens)
                self._steps += 1
                self._alone[size] = mixed(self._alone.get(size), cost, outlier=OUTLIER)
                self._latest = mixed(self._latest, cost, outlier=OUTLIER)

    def laid_out(self, *, separate: bool) -> None:
        """The cells have another layout: whether each sequence has its own. Steps differ, too."""
        self._filling.change(separate=separate)
        self._decode.clear()
        self._fixed = None

    def observe_more(self, decoding: int, more: int, seconds: float) -> None:
        """A step without prompts has computed more than one token of some sequences.

        Args:
            decoding: sequences in it.
            more: tokens beyond one for each.
            seconds: that it took.
        """
        plain = self.decode_seconds(decoding)
        if plain:
            price = (seconds - plain) / more / (plain / decoding)
            known = self._price.get(decoding)
            self._price[decoding] = mixed(known, max(price, 0.02), outlier=OUTLIER)

    def price(self, decoding: int) -> float:
        """What one more row takes, of what a token takes in a step of so many sequences.

        Where no step of about so many had more, it is what steps of more sequences took.
        """
        decoding = max(1, decoding)  # there may be none, of which nobody asks for a guess
        near = min(self._price, key=lambda n: abs(n - decoding), default=None)
        if near is not None and _alike(near, decoding):
            return self._price[near]
        rising = self._rise(decoding)
        if rising is not None:
            return rising
        return USUAL_PRICE if near is None else self._price[near]

    def _rise(self, decoding: int) -> float | None:
        """What a sequence more adds to a step, likewise; None before two sizes of it were seen."""
        sizes, seconds = sorted(self._decode), self.decode_seconds(decoding)
        at = min(max(1, sum(size <= decoding for size in sizes)), len(sizes) - 1)
        if at < 1 or not seconds:
            return None
        below, above = sizes[at - 1], sizes[at]
        more = (self._decode[above] - self._decode[below]) / (above - below)
        return max(more / (seconds / decoding), 0.02)

    def _observe_beside(self, streams: float, prompt_tokens: int, seconds: float) -> None:
        """A chunk costs something of its own: where cells are separate, another pass over weights.

        Else a small one would look dear, and the next one would be smaller still.
        """
        extra = max(seconds - streams, seconds / 4)
        if self._latest is None:
            self._latest = extra / prompt_tokens
        fixed = extra - self._latest * prompt_tokens
        known = fixed if self._fixed is None else self._fixed
        self._fixed = known + LEARNING * (min(fixed, known + OUTLIER * extra) - known)

    def prompt_tokens(self, beside: Beside, most: int) -> int:
        """How many prompt tokens the next step may compute.

        Where nobody says what the streams need, they wait the longer the more others have not even
        begun: a few streams that keep many prompts waiting make poor use of the machine.

        Args:
            beside: what is computed in it anyway, and who waits.
            most: however fast.

        Returns:
            A number of tokens; 0 where the streams are to be computed alone, once.
        """
        if not beside.decoding:
            return self._alone_tokens(most, others=beside.prompts > 1)
        if self._target == 0:
            return most
        if self._has_to_look(beside.decoding):
            return 0
        decode = self.decode_seconds(beside.decoding)
        if decode is None or self._latest is None:
            return min(most, 4 * LEAST_TOKENS)  # nothing is known yet: find out gently
        waits = DEFAULT_SLOWDOWN + (beside.prompts - 1) / beside.decoding
        target = self._target or max(waits * decode, UNNOTICED)
        latest = self._target or LATE * target
        tokens = int((target - decode - (self._fixed or 0.0)) / self._latest)
        streams, costs = self._streams(beside, decode), dict[int, float | None]()
        for count in self._filling.counts(beside.rows, most):
            seconds = self._filling.seconds(beside.rows, count, decode)
            if seconds is None and count <= tokens:
                costs[count] = None
            elif seconds is not None and seconds <= latest:
                # What streams take is an estimate, which may be more than the step took.
                costs[count] = max(seconds - streams, 0.0) / count
        if costs:
            return choose(costs, beside.pending)
        # The prompt has to get on: where a few tokens more fill up the rows, they are cheaper.
        filled = self._filling.counts(beside.rows, min(most, NEARLY_LEAST))
        return max(min(tokens, most), *filled[:1], min(LEAST_TOKENS, most))

    def _has_to_look(self, decoding: int) -> bool:
        """Whether to find out what the streams take alone."""
        if self._mixed < LOOK:
            return False
        known = any(_alike(n, decoding) for n in self._decode)
        return not known or self._mixed >= LOOK_AGAIN

    def _streams(self, beside: Beside, decode: float) -> float:
        """What of a step with prompts in it is the streams', in seconds.

        A stream's token counts as what it will take once the prompts are done and all decode
        together: while they are computed, there are fewer in a step.
        """
        together = beside.decoding + beside.prompts
        price = (self.decode_seconds(together) or 0.0) / together
        return min(beside.decoding * price, decode)

    def _alone_tokens(self, most: int, *, others: bool) -> int:
        """The smallest step as good as any; now and then another one, to see whether it still is.

        The tokens of such a step are computed like any others: it costs next to nothing, unless
        `others` wait for their first tokens.
        """
        sizes = [SMALLEST_STEP]
        while 2 * sizes[-1] <= most:
            sizes.append(2 * sizes[-1])
        known = [size for size in sizes if size in self._alone]
        unknown = [size for size in sizes if size not in self._alone]
        again, turn = divmod(self._steps, RARELY if others else TRY_AGAIN)
        if not known:
            size = sizes[0]
        elif not turn or (unknown and not others):
            size = unknown[0] if unknown else sizes[again % len(sizes)]
        else:
            best = min(self._alone[size] for size in known)
            size = next(size for size in known if self._alone[size] <= AS_CHEAP * best)
        return min(size, most)

    def costs(self, decoding: int) -> tuple[float | None, float | None]:
        """Seconds of a prompt's token, and of an output's in a step of so many sequences."""
        decode = self.decode_seconds(decoding) if decoding else None
        return self._latest, None if decode is None else decode / decoding

    def decode_seconds(self, decoding: int) -> float | None:
        """What a step of so many sequences and nothing else takes; None before any was seen.

        Between two sizes that were seen it is on the line between them; below the smallest one it
        is as slow as that, and above the largest slower in proportion.
        """
        below = max((n for n in self._decode if n <= decoding), default=None)
        above = min((n for n in self._decode if n >= decoding), default=None)
        if below is None:
            return None if above is None else self._decode[above]
        if above is None:
            return self._decode[below] * decoding / below
        if above == below:
            return self._decode[below]
        share = (decoding - below) / (above - below)
        return self._decode[below] + share * (self._decode[above] - self._decode[below])


def _alike(n: int, decoding: int) -> bool:
    return max(n, decoding) <= ALIKE * min(n, decoding)


def _size(prompt_tokens: int) -> int:
    """Of a step; one that is three quarters full is as good as full."""
    size = SMALLEST_STEP
    while 4 * prompt_tokens >= 3 * 2 * size:
        size *= 2
    return size
