"""The machines of a cluster as its front sees them: each is talked to on a thread of its own.

Who is there, what they have loaded, and who may answer; not what they are asked.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import secrets
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from chatglm_backend import __version__
from chatglm_backend.cluster.ports import Held, Link, MachineLost, Report, Roster
from chatglm_backend.core import (
    AdapterInfo,
    Event,
    LoadProgress,
    MachineState,
    MachineStatus,
    ModelInfo,
    ModelState,
    monotonic_clock,
)
from chatglm_backend.errors import AdapterError, ChatGLMError, ModelError, ModelNotReady, RequestError, UnknownAdapter
from chatglm_backend.sentences import Sentence

_log = logging.getLogger(__name__)
_READING_S = 600.0

News = tuple[str, str, "Event | RequestError | MachineLost | Held"]
"""The session that it is of, a request's id (empty for what is the machine's), and what was told."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds: a machine that is ``silent_s`` without a heartbeat is lost; it is tried again, and others looked for.

    Nobody waits longer than ``gone_s`` where no machine is expected to answer.
    """

    silent_s: float = 4.0
    retry_s: float = 0.5
    scan_s: float = 1.0
    gone_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """The model that machines shall have: a loading's ``number``, and ``of`` which one it is to have the weights.

    Under the same name there may be others by now. ``ended``: nothing is wanted any more, as loading
    it failed with this.
    """

    number: int = 0
    model: str | None = None
    of: int = 0
    ended: ModelError | None = None


@dataclass(eq=False, slots=True)
class Member:
    """One machine. ``session`` names the time since it was last reached, ``runs`` counts the answers it makes.

    ``loaded`` is the number of the loading whose model it has, 0 where that is none; ``turn`` when it last began one.
    """

    name: str
    wanted: Wanted
    link: Link | None = None
    session: str = ""
    state: MachineState = "starting"
    info: ModelInfo | None = None
    loaded: int = 0
    progress: LoadProgress | None = None
    places: int = 0
    runs: int = 0
    tok_s: float | None = None
    why: object = None
    notes: tuple[Sentence, ...] = ()
    turn: int = 0
    thread: threading.Thread | None = field(default=None, repr=False)


class Members:
    """Thread-safe. ``news`` has what the machines told; ``changed`` is notified, and ``told``, of any new state.

    ``current`` is the model that a machine must have to answer, with the fine-tunes in ``tunes``.
    """

    def __init__(self, roster: Roster, pace: Pace | None = None) -> None:
        self.news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self.changed = threading.Condition()
        self.current: Wanted = Wanted()
        self.tunes: tuple[AdapterInfo, ...] | None = None
        self.told: Callable[[], None] = lambda: None
        self.pace = pace or Pace()
        self._roster = roster
        self._members: dict[str, Member] = {}
        self._first: tuple[object, str] | None = None  # the weights that all must have, and whose they are
        self._tuning = 0
        self._closed = threading.Event()
        self._hoped = monotonic_clock()
        self._scanner = threading.Thread(target=self._scan, name="machines", daemon=True)

    def start(self) -> None:
        """Begin to look for machines."""
        self._scanner.start()

    def close(self) -> None:
        """End all threads; those that wait for a machine that does not answer end with the program."""
        self._closed.set()
        for thread in (self._scanner, *(one.thread for one in self.all())):
            if thread is not None and thread.is_alive():
                thread.join(self.pace.retry_s)

    def give_up(self) -> None:
        """Nothing holds the machines together any more: all are lost, and stop what they make."""
        self._closed.set()
        for one in self.all():
            if (link := one.link) is not None:
                link.send("stop")
            self._lose(one, MachineLost())
        self.told()

    def hopeless(self) -> bool:
        """Whether no machine will answer what waits: for good, or for so long that nobody shall wait for it."""
        if any(one.state not in ("lost", "failed", "refused") for one in self.all()):
            self._hoped = monotonic_clock()
        return self._closed.is_set() or monotonic_clock() - self._hoped > self.pace.gone_s

    def all(self) -> tuple[Member, ...]:
        """All that were ever seen."""
        with self.changed:
            return tuple(self._members.values())

    def ready(self, without: Collection[Member] = ()) -> list[Member]:
        """Those that may answer."""
        return [one for one in self.all() if one.state == "ready" and one not in without]

    def statuses(self) -> tuple[MachineStatus, ...]:
        """All of them, in words and numbers."""
        return tuple(
            MachineStatus(one.name, one.state, one.info, one.runs, one.places, one.tok_s, _told(one))
            for one in self.all()
        )

    def want(self, wanted: Wanted, only: Member | None = None) -> None:
        """``only`` this machine shall load it; without one, all shall, and must have it to answer from now on."""
        with self.changed:
            if only is None:
                self.current, self._first, self.tunes = wanted, None, None
            for one in self._members.values() if only is None else (only,):
                if one.wanted is wanted and one.loaded == wanted.number:
                    self._welcome(one)
                elif one.wanted is not wanted:
                    one.wanted, one.progress = wanted, None
                    if one.state != "lost":
                        self._hold_back(one)

    @contextlib.contextmanager
    def tune(self) -> Iterator[tuple[list[tuple[Member, Link]], Callable[..., None]]]:
        """Those that answer, and what is to be told a fine-tune's name once they have no other of it than those given.

        Meanwhile no other machine is given fine-tunes. Telling it raises ModelNotReady if the model is another by then.
        """
        with self.changed:
            current, links = self.current, [(one, one.link) for one in self.ready() if one.link is not None]
            self._tuning += 1

        def tell(name: str, *there: AdapterInfo) -> None:
            with self.changed:
                if self.current is not current:
                    raise ModelNotReady
                self.tunes = tuple(one for one in self.tunes or () if one.name != name) + there
                for one in self.ready([one for one, _ in links]) if there else ():
                    self._hold_back(one)  # it came meanwhile

        try:
            yield links, tell
        finally:
            with self.changed:
                self._tuning -= 1

    def _scan(self) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(MachineLost):
                for name in self._roster.names():
                    self._join(name)
            self.told()
            self._closed.wait(self.pace.scan_s)

    def _join(self, name: str) -> None:
        with self.changed:
            one = self._members.get(name) or self._members.setdefault(name, Member(name, self.current))
            if one.thread is not None and one.thread.is_alive():
                return
            one.thread = threading.Thread(target=self._attend, args=(one,), name=f"machine {name}", daemon=True)
        one.thread.start()

    def _attend(self, one: Member) -> None:
        """Talk to a machine for as long as it is there."""
        while not self._closed.is_set():
            try:
                one.link = one.link or self._roster.open(one.name)
                self._converse(one, one.link)
            except MachineLost as lost:
                self._lose(one, lost)
            except ChatGLMError as error:
                self._set(one, "refused", error)
            except Exception:  # noqa: BLE001 - one machine's trouble is not the others', and it is logged
                _log.exception("machine %s cannot be used", one.name)
                self._lose(one, MachineLost())
            self._closed.wait(self.pace.retry_s)
            with contextlib.suppress(MachineLost):
                if one.name not in self._roster.names():
                    return

    def _lose(self, one: Member, lost: MachineLost) -> None:
        with self.changed:
            session, one.session, one.loaded = one.session, "", 0
            if lost.gone:
                one.link, one.info = None, None
            self._set(one, "lost", lost.why)
        if session:
            self.news.put((session, "", lost))

    def _converse(self, one: Member, link: Link) -> None:
        session, sent, silent_s = secrets.token_hex(8), None, self.pace.silent_s
        version = link.call("attach", session, timeout_s=silent_s)
        if version != __version__:
            self._set(one, "refused", Sentence("cluster.version", name=one.name, found=version, expected=__version__))
            self._closed.wait(silent_s)
            return
        one.session = session
        while not self._closed.is_set():
            wanted = one.wanted
            if wanted.number and wanted is not sent:
                load = ("load", wanted.model, wanted.number) if wanted.ended is None else ("cancel_load",)
                link.call(*load, timeout_s=silent_s)
                sent = wanted
            before, asked_at = self.tunes, monotonic_clock()
            report: Report = link.call("poll", session, timeout_s=silent_s)
            if self._closed.is_set():
                return
            for name, told in report.events:
                self.news.put((session, name, told))
            self.news.put((session, "", Held(report.answers, asked_at)))
            self._note(one, link, report, before)

    def _note(self, one: Member, link: Link, report: Report, before: object) -> None:
        """Who may answer, by what a machine reports; ``before`` were the fine-tunes when it was asked."""
        status, mine = report.status, report.load == one.wanted.number
        one.info, one.places, one.progress, one.notes = status.info, report.places, status.progress, report.notes
        one.loaded = report.load if status.state is ModelState.READY else 0
        if mine and one.loaded and one.wanted.of == self.current.of:
            if one.state != "refused" and self.tunes is before:  # else its next report can be compared with them
                self._align(one, link)
        elif mine and status.error is not None and status.state is not ModelState.LOADING:
            self._set(one, "failed", status.error)
        else:
            self._hold_back(one)

    def _hold_back(self, one: Member) -> None:
        """It may not answer yet, or no more."""
        if one.wanted.ended is None:
            self._set(one, "leaving" if one.runs else "loading")
        elif one.state not in ("failed", "refused"):
            self._set(one, "failed", one.wanted.ended)

    def _align(self, one: Member, link: Link) -> None:
        """See that it has the fine-tunes that the others have, and then it may answer."""
        have = {tune.name: tune.identity for tune in one.info.adapters} if one.info else {}
        with self.changed:
            tunes = self.tunes
            missing = [tune for tune in tunes or () if have.get(tune.name) != tune.identity]
            right = set(have) if tunes is None or self._tuning else {tune.name for tune in tunes if tune not in missing}
            if missing:
                if self._tuning:
                    return  # what is being changed is compared when that has ended
                self._hold_back(one)
                if one.runs:
                    return  # it would stop them, as it is not asked while it reads
        for name in have.keys() - right:
            with contextlib.suppress(UnknownAdapter):
                link.call("remove_adapter", name, timeout_s=self.pace.silent_s)
        for tune in missing:
            found: AdapterInfo = link.call("add_adapter", f"{tune.name}={tune.path}", timeout_s=_READING_S)
            same_tune(one, found, tune)
        with self.changed:
            if self.tunes is tunes and one.wanted.of == self.current.of:
                self._welcome(one)

    def _welcome(self, one: Member) -> None:
        """It may answer, if its weights are those of the first that did."""
        with self.changed:
            self._first = self._first or (_identity(one.info), one.name)
            if self.tunes is None and one.info is not None:
                self.tunes = one.info.adapters
            identity, first = self._first
            if identity == _identity(one.info):
                self._set(one, "ready")
            else:
                model = one.info.name if one.info else ""
                why = Sentence("cluster.other_weights", name=one.name, model=model, first=first)
                self._set(one, "refused", why)

    def _set(self, one: Member, state: MachineState, why: object = None) -> None:
        with self.changed:
            if (state, why) == (one.state, one.why):
                return
            if state != one.state and state in ("lost", "refused", "failed"):
                _log.warning("machine %s is %s: %s", one.name, state, why or "it does not answer")
            one.state, one.why = state, why
            self.changed.notify_all()
        self.told()


def _told(one: Member) -> object:
    """What there is to say of it: why it does not answer, and what then helps, or else what it noted."""
    if one.why is None:
        return one.notes or None
    return Sentence("cluster.again", why=one.why) if one.state in ("failed", "refused") else one.why


def same_tune(one: Member, found: AdapterInfo, other: AdapterInfo) -> None:
    """See that a machine's fine-tune is that of the others. Raises AdapterError."""
    if found.identity != other.identity:
        raise AdapterError(reason=Sentence("cluster.other_tune", name=one.name, tune=found.name, path=found.path))


def _identity(info: ModelInfo | None) -> object:
    """What two machines with the same weights have in common."""
    return None if info is None else (info.name, info.identity, info.parameters)
