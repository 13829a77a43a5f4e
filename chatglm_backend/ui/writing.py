"""What the Chat page's script is told of its rows and its box: versions, answers to edit, what leaves or comes back."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from html import escape
from itertools import groupby

from chatglm_backend.core import Message
from chatglm_backend.sentences import Texts
from chatglm_backend.store.records import Calling, Versions

_WORDS = ("before", "after", "which", "edit", "continue")


def rows(texts: Texts, turns: Sequence[Message], versions: Versions) -> str:
    """For each row of the conversation, which may hold several turns of one side, what can be done with it.

    ``versions`` may know of an answer that is only about to come.
    """
    roles = [turn.role for turn in turns] + ["assistant"] * (len(versions) > len(turns))
    found = []
    for mine, group in groupby(range(len(roles)), lambda i: roles[i] == "assistant"):
        places = list(group)
        row: dict[str, object] = {}
        for at in places:
            if versions and versions[at][1] > 1:
                row = {"at": at, "which": versions[at][0], "of": versions[at][1]}
        last = turns[places[-1]] if mine and places[-1] < len(turns) else None
        if last is not None and not isinstance(last, Calling):
            row |= {"answer": places[-1], "text": last.content}
        found.append(row)
    words = "".join(f' data-{name}="{escape(texts(f"chat.version.{name}"))}"' for name in _WORDS)
    return f'<div data-rows="{escape(json.dumps(found, ensure_ascii=False))}"{words}></div>'


def boxed(taken: str, put: str) -> str:
    """The question of the answer ``taken`` leaves the message box, in which ``put`` goes before what is typed."""
    told = json.dumps({"taken": taken, "put": put, "number": secrets.token_hex(8)}, ensure_ascii=False)
    return f'<div data-boxed="{escape(told)}"></div>'


def read_edit(source: str) -> tuple[int, str]:
    """Which answer is to go on from which text, as the page's script writes it; nothing for anything else."""
    try:
        body = json.loads(source)
        return int(body["answer"]), str(body["text"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return 0, ""
