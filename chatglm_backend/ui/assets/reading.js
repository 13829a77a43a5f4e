// Reading along: copying, scrolling, what screen readers hear, where the focus goes, what was typed.
(() => {
  // A copied answer is what the model wrote: our escapes and our mark are for the screen only. A page that is
  // opened over plain http has no clipboard, so an older way stands in for it.
  const clean = (text) => String(text).replaceAll("&#0000060;", "<")
    .replace(/\s*<details class="cg-card cg-sources">[\s\S]*?<\/details>/g, "")
    .replace(/^<div class="cg-docs">[\s\S]*?<\/div>\s*/, "")
    .replace(/\n\n<span class="cg-cut">[^<]*<\/span>\s*$/, "");
  const copyOldWay = (text) => {
    const holder = document.createElement("textarea");
    const before = document.activeElement;
    holder.value = text;
    holder.style.cssText = "position:fixed;top:0;left:-9999px";
    (document.querySelector("dialog[open]") || document.body).append(holder);
    holder.select();
    const done = document.execCommand("copy");
    holder.remove();
    if (before && before.focus) before.focus();
    return done ? Promise.resolve() : Promise.reject(new Error("copy"));
  };
  if (navigator.clipboard) {
    const write = navigator.clipboard.writeText.bind(navigator.clipboard);
    navigator.clipboard.writeText = (text) => write(clean(text)).catch(() => copyOldWay(clean(text)));
  } else {
    Object.defineProperty(navigator, "clipboard", {
      configurable: true, value: { writeText: (text) => copyOldWay(clean(text)) },
    });
  }

  // The newest words stay in sight until the reader scrolls up, and again once they are back at the end.
  let following = true;
  let lastTop = 0;
  const log = () => document.querySelector("#cg-chat [role=log]");
  const atEnd = (area) => area.scrollHeight - area.scrollTop - area.clientHeight < 40;
  const follow = () => {
    const area = log();
    if (!area || !following) return;
    area.scrollTop = area.scrollHeight;
    lastTop = area.scrollTop;
  };
  document.addEventListener("scroll", (event) => {
    const area = event.target;
    if (area !== log()) return;
    if (atEnd(area)) following = true;
    else if (area.scrollTop < lastTop) following = false;
    lastTop = area.scrollTop;
  }, true);
  const away = (event) => {
    const area = log();
    if (area && event.target.closest && event.target.closest("#cg-chat") && event.deltaY < 0
      && area.scrollHeight > area.clientHeight) following = false;
  };
  document.addEventListener("wheel", away, { capture: true, passive: true });
  let watchedChat = null;
  let drawn = 0;
  const observer = new MutationObserver(() => {
    if (!drawn) drawn = requestAnimationFrame(() => { drawn = 0; follow(); });
  });

  // The conversation gives way where the box is taller than its one line: what stands between them stays in sight.
  const LINE = 61; // the height with one line of text and nothing else
  const taller = new ResizeObserver(([{ target }]) => {
    const height = target.offsetHeight;
    if (!height) return; // another page is open
    document.documentElement.style.setProperty("--cg-taller", `${Math.max(0, height - LINE)}px`);
    follow();
  });
  let watchedBox = null;
  setInterval(() => {
    const note = document.querySelector(".cg-brief");
    const height = note && note.offsetHeight;
    document.documentElement.style.setProperty("--cg-notice", `${height ? height + 12 : 0}px`);
    const composer = document.getElementById("cg-chat-composer");
    if (!composer || composer === watchedBox) return;
    watchedBox = composer;
    taller.disconnect();
    taller.observe(composer);
  }, 500);

  // On a phone the answer stands below what was typed: it comes into sight as it begins, and stays there while what
  // stands above it comes and goes, until the visitor moves the page.
  let showing = false;
  const showAnswer = () => {
    const answer = showing && document.getElementById("cg-output");
    if (!answer || !answer.offsetHeight) return;
    const { top } = answer.getBoundingClientRect();
    if (top < 0 || top > innerHeight - 120) answer.scrollIntoView({ block: "start" });
  };
  ["wheel", "touchmove", "mousedown", "keydown"].forEach((name) => document.addEventListener(name, (event) => {
    if (event.key !== "Enter") showing = false;
  }, { capture: true, passive: true }));

  // The focus returns to the box, except on touch screens, where a keyboard would jump up.
  const coarse = matchMedia("(pointer: coarse)");
  const box = (id) => document.querySelector(`#${id} textarea`);
  document.addEventListener("click", (event) => {
    const pressed = event.target.closest && event.target.closest("button");
    if (!pressed) return;
    const inChat = /^cg-chat-(send|stop|clear|go-on)$/.test(pressed.id) || pressed.closest("#cg-chat .message-buttons");
    if (/^cg-chat-(send|go-on)$/.test(pressed.id)) following = true;
    if (pressed.id === "cg-generate") { showing = true; showAnswer(); }
    const target = /^cg-(generate|stop|clear)$/.test(pressed.id) ? "cg-prompt" : inChat ? "cg-chat-box" : "";
    if (!target || coarse.matches) return;
    setTimeout(() => {
      const active = document.activeElement;
      const editing = active && active.closest("#cg-chat textarea, dialog");
      if (box(target) && !editing && !document.querySelector("#cg-chat textarea")) {
        box(target).focus({ preventScroll: true });
      }
    }, 60);
  });

  // Screen readers hear whole sentences, and what happens, once each; the figures beside them tick silently.
  const voice = document.createElement("div");
  voice.className = "cg-heard";
  voice.setAttribute("aria-live", "polite");
  const say = (text) => {
    if (!text) return;
    const line = document.createElement("p");
    line.textContent = text;
    voice.append(line);
    while (voice.children.length > 3) voice.firstChild.remove();
  };
  const ENDS = /[。！？；.!?;:：\n][\s"”』」)]*/g;
  const newText = (text, from, finished) => {
    if (finished) return text.length;
    let end = from;
    ENDS.lastIndex = from;
    for (let found; (found = ENDS.exec(text));) end = found.index + found[0].length;
    return end;
  };
  const heard = { "cg-chat-status": { phase: "", read: 0, at: 0 }, "cg-answer-status": { phase: "", read: 0, at: 0 } };
  const written = (id) => {
    if (id === "cg-answer-status") return (box("cg-output") || { value: "" }).value;
    const answers = document.querySelectorAll("#cg-chat .bot.message");
    return answers.length ? answers[answers.length - 1].textContent.trimEnd() : "";
  };
  const listen = (id, state) => {
    const status = document.querySelector(`#${id} .cg-status, #${id} [role=alert]`);
    if (!status || !status.dataset.phase || status.offsetParent === null) return;
    const phase = status.dataset.phase;
    const now = Date.now();
    if (phase !== state.phase && phase !== "writing" && phase !== "done") {
      if (state.phase || phase !== "idle") say(status.textContent);
      state.read = 0;
    }
    const ended = phase === "done" && state.phase !== "done" && state.phase !== "";
    if ((phase === "writing" && now - state.at > 1500) || ended) {
      const text = written(id);
      const end = newText(text, state.read, ended);
      say(text.slice(state.read, end).trim());
      state.read = end;
      state.at = now;
    }
    if (ended) { say(status.textContent); state.read = 0; }
    if (ended && id === "cg-answer-status") setTimeout(() => { showing = false; }, 2000); // its figures are drawn by then
    state.phase = phase;
  };

  // What was typed, and the open page, survive a reload, a lost connection and a change of language.
  const BOXES = ["cg-prompt", "cg-chat-box", "cg-compare-prompt", "cg-schema"];
  const tabs = () => [...document.querySelectorAll("#cg-tabs > .tab-wrapper [role=tab]")];
  let kept = {};
  try {
    kept = JSON.parse(sessionStorage.getItem("chatglm_typed") || "{}") || {};
    sessionStorage.removeItem("chatglm_typed");
  } catch { /* private window */ }
  addEventListener("pagehide", () => {
    const typed = { ...kept };
    BOXES.forEach((id) => { if (box(id) && (box(id).value || !kept[id])) typed[id] = box(id).value; });
    typed.tab = tabs().findIndex((tab) => tab.getAttribute("aria-selected") === "true");
    try { sessionStorage.setItem("chatglm_typed", JSON.stringify(typed)); } catch { /* private window */ }
  });
  // A page that is still being built may empty its boxes once more, so they are filled until the visitor acts.
  const filled = new Set();
  const acts = () => filled.forEach((id) => { delete kept[id]; });
  ["keydown", "pointerdown", "click", "input"].forEach((name) => document.addEventListener(name, (event) => {
    if (event.isTrusted) acts();
  }, true));
  const restore = () => {
    if (kept.tab > 0 && tabs()[kept.tab]) { tabs()[kept.tab].click(); delete kept.tab; }
    BOXES.filter((id) => kept[id] && box(id)).forEach((id) => {
      filled.add(id);
      if (box(id).value) return;
      box(id).value = kept[id];
      box(id).dispatchEvent(new Event("input", { bubbles: true }));
    });
  };

  setInterval(() => {
    if (!voice.isConnected && document.body) document.body.append(voice);
    const area = log();
    if (area && area.getAttribute("aria-live") !== "off") area.setAttribute("aria-live", "off");
    const chat = document.getElementById("cg-chat");
    if (chat && chat !== watchedChat) {
      watchedChat = chat;
      observer.disconnect();
      observer.observe(chat, { childList: true, subtree: true, characterData: true });
      follow();
    }
    document.querySelectorAll("#cg-chat [aria-label*='&#0000060;']").forEach((one) => {
      one.setAttribute("aria-label", clean(one.getAttribute("aria-label")));
    });
    restore();
    showAnswer();
    Object.entries(heard).forEach(([id, state]) => listen(id, state));
  }, 400);
})();
