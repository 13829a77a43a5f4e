"""Stop strings in streamed text.

Works on characters, so the result does not depend on how the text was cut into pieces.
Knows nothing of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopFilter:
    """Passes text on until one of the stop strings is complete; nothing of a stop string is ever passed on.

    The stop string that is complete first wins; of several that end at the same character, the longest.
    Text that may be the beginning of a stop string is held back until that is decided.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(dict.fromkeys(stops))
        self._failures = tuple(_failure_table(stop) for stop in self._stops)
        self._states = [0] * len(self._stops)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """The text that is certain now. After a stop string (see ``stopped``) nothing more comes."""
        if self.stopped:
            return ""
        if not self._stops:
            return text
        buffer = self._held + text
        for offset, char in enumerate(text, start=len(self._held) + 1):
            longest = self._advance(char)
            if longest:
                self.stopped = True
                self._held = ""
                return buffer[: offset - longest]
        keep = len(buffer) - max(self._states)
        self._held = buffer[keep:]
        return buffer[:keep]

    def flush(self) -> str:
        """What was held back, once it is known that no more text comes."""
        held, self._held = self._held, ""
        self._states = [0] * len(self._stops)
        return held

    def _advance(self, char: str) -> int:
        """Move every automaton by one character; the length of the longest stop string that is complete, or 0."""
        longest = 0
        for number, stop in enumerate(self._stops):
            state, failure = self._states[number], self._failures[number]
            while state and stop[state] != char:
                state = failure[state - 1]
            if stop[state] == char:
                state += 1
            if state == len(stop):
                longest = max(longest, state)
                state = failure[state - 1]
            self._states[number] = state
        return longest


def _failure_table(pattern: str) -> list[int]:
    """Per position, the length of the longest proper prefix that is also a suffix there (Knuth, Morris, Pratt)."""
    table = [0] * len(pattern)
    length = 0
    for position in range(1, len(pattern)):
        while length and pattern[position] != pattern[length]:
            length = table[length - 1]
        if pattern[position] == pattern[length]:
            length += 1
        table[position] = length
    return table
