// Versions of a message, and answers to edit. What can be done with each row of the conversation stands beside it, unseen.
(() => {
  const { ask, element } = globalThis.chatglm;
  const told = () => document.querySelector("#cg-chat-rows [data-rows]");
  let source = "";
  let rows = [];
  const read = () => {
    const now = told() ? told().dataset.rows : "[]";
    if (now !== source) { source = now; rows = JSON.parse(now); }
    return told() ? told().dataset : {};
  };

  const pager = (words, row) => {
    const step = (action, sign, end) => element("button", {
      type: "button", className: "cg-mini", textContent: sign, disabled: row.which === end, title: words[action],
    });
    const made = element("div", { className: "cg-versions" }, step("before", "‹", 1),
      element("span", { textContent: `${row.which}/${row.of}` }), step("after", "›", row.of));
    made.setAttribute("role", "group");
    made.setAttribute("aria-label", words.which);
    ["before", "after"].forEach((action, i) => {
      const button = made.querySelectorAll("button")[i];
      button.setAttribute("aria-label", words[action]);
      Object.assign(button.dataset, { history: action, id: row.at });
    });
    return made;
  };

  // Gradio's own parts stay as they are: ours are put behind them, and made anew where they are to say something else.
  const put = (parent, name, key, make) => {
    const old = parent && parent.querySelector(`:scope > .${name}`);
    if (!parent || (old ? old.dataset.key : "") === key) return;
    const held = old && old.contains(document.activeElement) ? document.activeElement.dataset.history : "";
    if (old) old.remove();
    if (!key) return;
    const made = make();
    made.dataset.key = key;
    parent.append(made);
    if (held) (made.querySelector(`[data-history=${held}]:enabled`) || made.querySelector(":enabled")).focus();
  };
  // The list is drawn anew again and again; what was unfolded in it stays so.
  let unfolded = false;
  document.addEventListener("toggle", (event) => {
    if (event.target.matches && event.target.matches(".cg-saved")) unfolded = event.target.open;
  }, true);
  const arrange = () => {
    const words = read();
    const saved = document.querySelector(".cg-saved");
    if (saved && saved.open !== unfolded) saved.open = unfolded;
    document.querySelectorAll("#cg-chat .message-row").forEach((place, i) => {
      const row = rows[i] || {};
      const key = row.of > 1 ? `${row.at} ${row.which}/${row.of}` : "";
      put(place.querySelector(".flex-wrap"), "cg-versions", key, () => pager(words, row));
      const buttons = place.nextElementSibling;
      if (!buttons || !/message-buttons/.test(buttons.className)) return;
      put(buttons.firstElementChild, "cg-edit-answer", row.answer === undefined ? "" : String(i), () => {
        const made = element("button", { type: "button", className: "cg-edit-answer", textContent: "✎", title: words.edit });
        made.setAttribute("aria-label", words.edit);
        return made;
      });
    });
  };
  let waiting = 0;
  const watch = new MutationObserver(() => {
    waiting = waiting || requestAnimationFrame(() => { waiting = 0; arrange(); });
  });
  const begin = setInterval(() => {
    const parts = ["cg-chat", "cg-chat-rows", "cg-history"].map((id) => document.getElementById(id));
    if (parts.includes(null) || !told()) return; // a page is built in pieces
    clearInterval(begin);
    for (const part of parts) {
      watch.observe(part, { childList: true, subtree: true, attributes: true, attributeFilter: ["data-rows"] });
    }
    arrange();
  }, 200);

  document.addEventListener("click", async (event) => {
    const pressed = event.target.closest && event.target.closest(".cg-edit-answer");
    if (!pressed) return;
    const words = read();
    const row = rows[Number(pressed.dataset.key)];
    const text = row && await ask(words.edit, words.continue, row.text, true);
    const channel = document.querySelector("#cg-chat-edited :is(textarea, input)");
    if (!text || !channel) return;
    channel.value = JSON.stringify({ answer: row.answer, text, number: Date.now() });
    channel.dispatchEvent(new Event("input", { bubbles: true }));
  });
})();
// How many tokens are in a box, told by the server once nothing was typed for a moment.
(() => {
  const MOST = 100000;
  const told = new Map();
  const look = async (line) => {
    const box = document.querySelector(`#${line.dataset.box} textarea`);
    if (!box) return;
    const now = box.value;
    const before = told.get(line.dataset.box) || { seen: "", counted: "", stop: null };
    told.set(line.dataset.box, before);
    const still = now === before.seen;
    before.seen = now;
    if (!still || now === before.counted) return;
    before.counted = now;
    if (before.stop) before.stop.abort();
    before.stop = new AbortController();
    let reply = { said: "", over: false };
    if (now.trim()) {
      try {
        const body = { text: now.slice(0, MOST), length: now.length, language: document.documentElement.lang.slice(0, 2) };
        const answer = await fetch("./chat/count", {
          method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal: before.stop.signal,
        });
        if (answer.status === 503) before.counted = null; // something newer goes first, or too many wait: again soon
        if (!answer.ok) return;
        reply = await answer.json();
      } catch { return; }
    }
    if (box.value !== now) return;
    line.textContent = reply.said;
    line.classList.toggle("cg-over", reply.over);
  };
  setInterval(() => document.querySelectorAll(".cg-count").forEach(look), 300);
})();

// What was sent leaves the message box once the server has it; what is typed meanwhile stays, behind what comes back.
(() => {
  const box = () => document.querySelector("#cg-chat-box textarea");
  let sent = "";
  let taken = "";
  let number = "";
  document.addEventListener("click", (event) => {
    if (event.target.closest && event.target.closest("#cg-chat-send") && box()) sent = box().value;
  }, true);
  const change = (text, end) => {
    const was = box().value;
    box().setRangeText(text, 0, end, was.length === end ? "end" : "preserve");
    box().dispatchEvent(new Event("input", { bubbles: true }));
  };
  const look = () => {
    const told = document.querySelector("#cg-chat-boxed [data-boxed]");
    if (!told || !box()) return;
    const now = JSON.parse(told.dataset.boxed);
    if (now.number === number) return;
    number = now.number;
    if (now.taken && now.taken !== taken) {
      taken = now.taken;
      if (sent && box().value.startsWith(sent)) change("", sent.length);
      sent = "";
    }
    if (now.put) change(box().value ? `${now.put}\n\n` : now.put, 0);
  };
  const begin = setInterval(() => {
    const channel = document.getElementById("cg-chat-boxed");
    if (!channel) return;
    clearInterval(begin);
    new MutationObserver(look).observe(channel, { childList: true, subtree: true, attributes: true });
    look();
  }, 200);
})();

// Which answers stood on the page before this tab was loaded anew: the server shows them once more.
(() => {
  const STATUSES = ["cg-chat-status", "cg-answer-status", "cg-compare-status-a", "cg-compare-status-b"];
  let left = {};
  try {
    left = JSON.parse(sessionStorage.getItem("chatglm_left") || "{}") || {};
    sessionStorage.removeItem("chatglm_left");
  } catch { /* private window */ }
  globalThis.chatglm.left = (id) => left[id] || "";
  addEventListener("pagehide", () => {
    const now = {};
    STATUSES.forEach((id) => {
      const named = document.querySelector(`#${id} [data-answer]`);
      now[id] = named ? named.dataset.answer : document.getElementById(id) ? "" : left[id];
    });
    try { sessionStorage.setItem("chatglm_left", JSON.stringify(now)); } catch { /* private window */ }
  });
})();

// Prompts of one's own: put into the message box where the cursor is, or saved from there under a name.
(() => {
  const { ask, command, tellBeside, words } = globalThis.chatglm;
  const box = () => document.querySelector("#cg-chat-box textarea");
  const shortened = (name) => [...name.trim().split(/\s+/).join(" ")].slice(0, 60).join("");
  const isThere = (name) => [...document.querySelectorAll(".cg-saved [data-insert]")].some((one) => one.dataset.id === shortened(name));
  document.addEventListener("click", async (event) => {
    const pressed = event.target.closest && event.target.closest("[data-insert], [data-save-prompt]");
    if (!pressed || !box()) return;
    if (pressed.dataset.insert !== undefined) {
      box().setRangeText(pressed.dataset.insert, box().selectionStart, box().selectionEnd, "end");
      box().dispatchEvent(new Event("input", { bubbles: true }));
      box().focus();
      return;
    }
    const text = box().value;
    const { savePrompt, replace, replaceAsk, empty } = pressed.dataset;
    tellBeside(text.trim() ? "" : empty);
    let name = text.trim().split("\n")[0];
    let action = "";
    while (name && !action) {
      name = await ask(savePrompt, words().save, shortened(name));
      if (!name || !isThere(name)) action = "save_prompt";
      else if (await ask(replaceAsk.replace("{name}", () => shortened(name)), replace) !== null) action = "replace_prompt";
    }
    if (name) command(action, name, text);
  });
})();

// Numbers that were set stay set in this browser: sampling and lengths, on every page. Other numbers are left alone.
(() => {
  const KEY = "chatglm_settings";
  let kept = {};
  try { kept = JSON.parse(localStorage.getItem(KEY) || "{}") || {}; } catch { /* private window */ }
  const own = new Map(); // as the server has them, by the element's id
  const keep = (id, value) => {
    if (!own.has(id)) return;
    if (value === "" || Number(value) === own.get(id)) delete kept[id]; else kept[id] = Number(value);
    try { localStorage.setItem(KEY, JSON.stringify(kept)); } catch { /* private window */ }
  };
  const component = (target) => (target.closest ? target.closest("[id^=cg-]") : null);
  ["input", "change"].forEach((name) => document.addEventListener(name, (event) => {
    const part = event.isTrusted && event.target.matches("input[type=number], input[type=range]") && component(event.target);
    if (part) keep(part.id, event.target.value);
  }, true));
  document.addEventListener("click", (event) => {
    const part = event.target.closest && event.target.closest("button") && component(event.target);
    const input = part && own.has(part.id) && part.querySelector("input[type=number]");
    if (!input) return;
    // Gradio's own reset goes back to what the page began with, which is what was set the last time.
    setTimeout(() => {
      input.value = own.get(part.id);
      ["input", "change", "blur"].forEach((name) => input.dispatchEvent(new Event(name, { bubbles: name !== "blur" })));
      keep(part.id, input.value);
    });
  });
  globalThis.chatglm.settings = (known) => known.map(([id, value, low, high]) => {
    own.set(id, value);
    const shown = document.querySelector(`#${CSS.escape(id)} input[type=number]`);
    if (shown && shown.value !== "" && Number(shown.value) !== value) keep(id, shown.value); // set while the page loaded
    const mine = kept[id];
    if (typeof mine !== "number" || !Number.isFinite(mine)) return value;
    return Math.min(Math.max(mine, low ?? mine), high ?? mine);
  });
})();

// The keys, listed by the button with the question mark, or by that key where nothing is typed.
(() => {
  const { element, words } = globalThis.chatglm;
  const show = () => {
    if (document.querySelector("dialog[open]")) return;
    const title = element("h2", { id: "cg-dialog-title", textContent: words().keysTitle });
    const list = element("dl", { className: "cg-key-list" });
    JSON.parse(words().keys).forEach(([keys, what]) => {
      const names = keys.split(" ").flatMap((key, i) => [...(i ? [" "] : []), element("kbd", { textContent: key })]);
      list.append(element("dt", {}, ...names), element("dd", { textContent: what }));
    });
    const close = element("button", { type: "submit", className: "cg-tool cg-yes", textContent: words().close });
    const dialog = element("dialog", { className: "cg-dialog" },
      element("form", { method: "dialog" }, title, list, element("div", { className: "cg-dialog-actions" }, close)));
    dialog.setAttribute("aria-labelledby", title.id);
    dialog.addEventListener("close", () => dialog.remove());
    (document.querySelector(".gradio-container") || document.body).append(dialog);
    dialog.showModal();
    close.focus();
  };
  document.addEventListener("click", (event) => {
    if (event.target.closest && event.target.closest("[data-action=keys]")) show();
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest && event.target.closest("input, textarea, select, [contenteditable]");
    if (event.key !== "?" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    show();
  });
})();
