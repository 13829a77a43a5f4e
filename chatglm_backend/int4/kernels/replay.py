"""A recorded decode step of a row or a few, replayed for other tokens in a single call.

One call instead of some 370: no Python between the steps, and the interpreter is free for other
threads all the while. Knows which words of the steps depend on the tokens seen; knows no layers' meaning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from chatglm_backend.int4.kernels.driver import Word
from chatglm_backend.int4.kernels.emit_attention import AttentionArg
from chatglm_backend.int4.kernels.places import PlaceWords
from chatglm_backend.int4.kernels.team import Recording, Team
from chatglm_backend.models.ops import Place

_WORTH_SHARING = 768
_WEIGHTS_PER_FEATURE = 4
"""How many INT4 weights are multiplied in the time that one feature of a key and a value takes."""


def attention_work(tokens: int, dim: int) -> int:
    """One head's attention over ``tokens`` tokens of ``dim`` features, in weights of a product."""
    return _WEIGHTS_PER_FEATURE * tokens * dim


def queries_for(heads: int, group: int, threads: int, tokens: int, counts: Sequence[int]) -> int:
    """How many heads of a group of so many are attended together, so that all threads have work.

    Behind few tokens keys and values lie in a core's cache, and smaller pieces are shared out better.
    """
    fitting = [count for count in counts if group % count == 0]
    if tokens < _WORTH_SHARING:
        fitting = fitting[-2:]
    return next((count for count in fitting if heads // count >= threads), fitting[-1])


class RecordedStep:
    """See :class:`~chatglm_backend.models.ops.Replay`."""

    def __init__(
        self, team: Team, recording: Recording, result: Tensor, places: PlaceWords, attends: Mapping[int, int], dim: int
    ) -> None:
        """``attends`` are the kernels by their numbers of queries; each layer has attended at ``places``."""
        self._team, self._result, self._places = team, result, places
        self._kept = recording.args, recording.kept
        self._program = np.array(recording.steps, np.int64)
        self._attend, self._dim = dict(attends), dim
        attending = np.flatnonzero(np.isin(self._program[:, Word.KERNEL], list(attends.values())))
        together = [bool(recording.args[step][AttentionArg.VISIBLE_EACH]) for step in attending]
        self._by_heads = attending[np.logical_not(together)]
        self._by_heads_args = [recording.args[step] for step in self._by_heads]
        self._by_rows = attending[together]
        args = recording.args[attending[0]]
        self._heads, self._group = int(args[AttentionArg.HEADS]), int(args[AttentionArg.GROUP])

    def __call__(self, places: Sequence[Place]) -> Tensor:
        """See :class:`~chatglm_backend.models.ops.Replay`. Raises ValueError for another kind of cache."""
        team, words, program = self._team, self._places, self._program
        with team.lock:
            words.turn_to(places)
            longest, heads = int(words.visible.max()), self._heads * len(places)
            together = queries_for(heads, self._group, team.threads, longest, tuple(self._attend))
            for args in self._by_heads_args:
                args[AttentionArg.STEP] = together
            program[self._by_heads, Word.KERNEL] = self._attend[together]
            program[self._by_heads, Word.ITEMS] = heads // together
            # Where rows of one head are taken together, only the threads depend on the tokens.
            for steps in (self._by_heads, self._by_rows):
                items = int(program[steps, Word.ITEMS].min(initial=heads))
                parts = team.parts_for(heads * attention_work(longest, self._dim), items)
                program[steps, Word.PARTS], program[steps, Word.PIECES] = parts, team.pieces(parts, items)
            team.play(program)
        return self._result
