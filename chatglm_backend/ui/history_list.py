"""The list of conversations as HTML, and what its buttons ask for. Pure functions, no components."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from html import escape

from chatglm_backend.errors import HistoryError
from chatglm_backend.sentences import Texts
from chatglm_backend.store.folder import shown_path
from chatglm_backend.store.prompts import MOST_CHARACTERS, SavedPrompt
from chatglm_backend.store.records import Place, Summary
from chatglm_backend.ui.history import Command, History
from chatglm_backend.ui.html import paragraph

_MAX_TEXT = MOST_CHARACTERS + 1
_LISTED = 200


def read_command(source: str) -> Command:
    """A command as the page's script writes it; anything else is nothing."""
    try:
        body = json.loads(source)
        return Command(str(body["action"]), str(body.get("id", ""))[:64], str(body.get("text", ""))[:_MAX_TEXT])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Command()


def conversation_list(
    t: Texts,
    history: History,
    visitor: str | None,
    search: str,
    place: Place | None,
    problem: HistoryError | None = None,
) -> str:
    """The visitor's list, the open one marked; says why where there is none."""
    if not history.enabled:
        return paragraph(t("history.off"), "cg-note")
    found: Sequence[Summary] = ()
    saved: Sequence[SavedPrompt] = ()
    if visitor is not None:
        try:
            found = history.store.list(visitor, search, _LISTED + 1)
            saved = history.store.prompts.list(visitor)
        except HistoryError as error:
            problem = problem or error
    problem = problem or history.problem
    current = None if place is None else place.conversation_id
    rows = "".join(_row(t, one, one.id == current) for one in found[:_LISTED])
    empty = paragraph(t("history.nothing_found" if search.strip() else "history.empty"), "cg-note")
    said = "" if problem is None else paragraph(t.say(problem), "cg-alert", "alert")
    body = f'<ul class="cg-list" aria-label="{escape(t("history.title"))}">{rows}</ul>' if rows else empty
    if len(found) > _LISTED:
        body += paragraph(t("history.more", count=_LISTED), "cg-note")
    where = paragraph(t("history.where", path=shown_path(history.folder)), "cg-note")
    return said + body + _saved(t, saved) + _tools(t, current, bool(found or search.strip())) + where


def _row(t: Texts, one: Summary, current: bool) -> str:  # noqa: FBT001
    title = one.title or t("history.untitled")
    shown = escape(title)
    when = datetime.fromtimestamp(one.updated).astimezone().strftime("%Y-%m-%d %H:%M")
    rename, delete = (escape(t(f"history.{action}_named", title=title)) for action in ("rename", "delete"))
    ask_title, ask_delete = (escape(t(f"history.{action}_ask")) for action in ("rename", "delete"))
    mark = ' aria-current="true"' if current else ""
    return (
        f'<li class="cg-row"{mark}><button type="button" class="cg-open" data-history="open" data-id="{one.id}">'
        f"<span>{shown}</span><small>{when}</small></button>"
        f'<button type="button" class="cg-mini" data-history="rename" data-id="{one.id}" data-ask="{ask_title}" '
        f'data-was="{shown}" aria-label="{rename}" title="{rename}">✎</button>'
        f'<button type="button" class="cg-mini" data-history="delete" data-id="{one.id}" data-confirm="{ask_delete}" '
        f'aria-label="{delete}" title="{delete}">✕</button></li>'
    )


def _saved(t: Texts, prompts: Sequence[SavedPrompt]) -> str:
    """The visitor's own prompts: a click puts one into the message box; what is in the box can be saved as another."""
    replace = escape(t("prompts.replace_ask", name="{name}"))
    rows = ""
    for one in prompts:
        name, delete = escape(one.name), escape(t("history.delete_named", title=one.name))
        rows += (
            f'<li class="cg-row"><button type="button" class="cg-open" data-id="{name}" '
            f'data-insert="{escape(one.text)}">'
            f'<span>{name}</span></button><button type="button" class="cg-mini" data-history="delete_prompt" '
            f'data-id="{name}" data-confirm="{escape(t("prompts.delete_ask"))}" aria-label="{delete}" '
            f'title="{delete}">✕</button></li>'
        )
    body = f'<ul class="cg-list" aria-label="{escape(t("prompts.title"))}">{rows}</ul>' if rows else ""
    return (
        f'<details class="cg-saved"><summary>{escape(t("prompts.title"))} ({len(prompts)})</summary>{body}'
        f'<button type="button" class="cg-link" data-save-prompt="{escape(t("prompts.save_ask"))}" '
        f'data-empty="{escape(t("prompts.empty_box"))}" data-replace-ask="{replace}" '
        f'data-replace="{escape(t("prompts.replace"))}">{escape(t("prompts.save"))}</button></details>'
    )


def _tools(t: Texts, current: str | None, some: bool) -> str:  # noqa: FBT001
    """What can be done with the open conversation, and with all where there are ``some``."""
    one, all_, delete, own = "", "", "", f"language={t.language}"
    if current is not None:
        one = "".join(
            f'<a class="cg-link" href="./history/export?id={current}&amp;form={form}&amp;{own}" download>'
            f"{escape(t(key))}</a>"
            for form, key in (("md", "history.export_markdown"), ("json", "history.export_json"))
        )
    if some:
        all_ = f'<a class="cg-link" href="./history/export?{own}" download>{escape(t("history.export_all"))}</a>'
        delete = (
            f'<button type="button" class="cg-link" data-history="delete_all" '
            f'data-confirm="{escape(t("history.delete_all_ask"))}">{escape(t("history.delete_all"))}</button>'
        )
    too_large, failed = (escape(t(f"history.import_{name}")) for name in ("too_large", "failed"))
    return (
        f'<div class="cg-history-tools" data-failed="{escape(t("history.export_failed"))}">{one}{all_}'
        f'<label class="cg-link"><input type="file" accept="application/json,.json" '
        f'data-import="./history/import?{own}" data-too-large="{too_large}" '
        f'data-failed="{failed}">{escape(t("history.import"))}</label>{delete}</div>'
        '<p class="cg-note" id="cg-history-said" role="status"></p>'
    )
