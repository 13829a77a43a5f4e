// Documents beside the next question: chosen, dropped or pasted, read one after another by the server, shown as cards.
(() => {
  const input = () => document.getElementById("cg-chat-attach");
  // A reply that was on its way may draw a card once more that was taken away since, or not yet the one just read.
  const removed = new Set();
  const coming = new Set();
  const drawnIds = () => [...document.querySelectorAll("#cg-chat-cards [data-document]")].map((one) => one.dataset.document);
  const shownIds = () => [...new Set([...drawnIds(), ...coming])].filter((id) => !removed.has(id));
  const refuse = (text) => { document.getElementById("cg-chat-refused").textContent = text; };
  const reading = () => document.querySelector("#cg-chat-reading .cg-doc");
  const done = (card) => {
    card.remove();
    if (!reading() && document.getElementById("cg-chat-refused").textContent === input().dataset.wait) refuse("");
  };

  // The page keeps those whose ids are listed; a number makes each list a change.
  const want = (ids) => {
    const channel = document.querySelector("#cg-chat-wanted :is(textarea, input)");
    channel.value = JSON.stringify({ ids, number: Date.now() });
    channel.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const shown = async (id) => {
    for (let i = 0; i < 50 && !drawnIds().includes(id) && !removed.has(id); i += 1) await new Promise((go) => { setTimeout(go, 100); });
  };

  const readingCard = (name, words) => {
    const [card, title, note, away] = ["li", "strong", "small", "button"].map((one) => document.createElement(one));
    const stop = new AbortController();
    card.className = "cg-doc cg-doc-reading";
    card.setAttribute("role", "status");
    title.textContent = name;
    note.textContent = words.reading;
    Object.assign(away, { type: "button", className: "cg-mini", textContent: "✕", title: words.cancel });
    away.setAttribute("aria-label", `${words.cancel}: ${name}`);
    away.addEventListener("click", () => { stop.abort(); done(card); });
    card.append(title, " ", note, away);
    document.getElementById("cg-chat-reading").append(card);
    return { card, signal: stop.signal };
  };

  const read = async (file, { card, signal }, words) => {
    try {
      const address = `./chat/document?language=${words.language}&name=${encodeURIComponent(file.name)}`;
      const reply = await fetch(address, {
        method: "POST", headers: { "content-type": "application/octet-stream" }, body: file, signal,
      });
      const told = reply.status === 413 ? { message: words.large.replace("{name}", () => file.name) } : await reply.json();
      if (!reply.ok) throw new Error(told.message);
      removed.delete(told.id);
      coming.add(told.id);
      want(shownIds());
      await shown(told.id);
    } catch (error) {
      if (!signal.aborted) refuse(error.message && !(error instanceof TypeError) ? error.message : words.failed);
    } finally {
      coming.clear();
      done(card);
    }
  };

  let waiting = Promise.resolve();
  const attach = (files) => {
    const words = input().dataset;
    refuse("");
    for (const file of files) {
      if (file.size > Number(words.most)) { refuse(words.large.replace("{name}", () => file.name)); continue; }
      const begun = readingCard(file.name, words);
      waiting = waiting.then(() => (begun.signal.aborted ? null : read(file, begun, words)));
    }
  };

  document.addEventListener("change", (event) => {
    if (event.target !== input()) return;
    attach([...event.target.files]);
    event.target.value = "";
  });
  // A question must not go without what is still being read; Enter comes as a click, too.
  document.addEventListener("click", (event) => {
    if (!reading() || !event.target.closest || !event.target.closest("#cg-chat-send")) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    refuse(input().dataset.wait);
  }, true);
  document.addEventListener("click", (event) => {
    if (event.target.closest && event.target.closest("#cg-chat-send, #cg-chat-clear")) refuse("");
    const away = event.target.closest && event.target.closest("#cg-chat-cards [data-document]");
    if (!away) return;
    const id = away.dataset.document;
    removed.add(id);
    setTimeout(() => removed.delete(id), 5000);
    away.closest(".cg-doc").remove();
    want(shownIds());
    document.querySelector("#cg-chat-box textarea").focus();
  });

  const overChat = (event) => event.target.closest && event.target.closest("#cg-chat-main")
    && event.dataTransfer && [...event.dataTransfer.types].includes("Files");
  ["dragenter", "dragover"].forEach((name) => document.addEventListener(name, (event) => {
    if (!overChat(event)) return;
    event.preventDefault();
    event.stopPropagation();
    document.getElementById("cg-chat-main").classList.add("cg-dropping");
  }, true));
  const notDropping = () => {
    const main = document.getElementById("cg-chat-main");
    if (main) main.classList.remove("cg-dropping");
  };
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) notDropping(); }, true);
  document.addEventListener("drop", (event) => {
    notDropping();
    if (!overChat(event)) return;
    event.preventDefault();
    event.stopPropagation();
    attach([...event.dataTransfer.files]);
  }, true);

  document.addEventListener("paste", (event) => {
    const files = event.clipboardData ? [...event.clipboardData.files] : [];
    if (!files.length || !event.target.closest || !event.target.closest("#cg-chat-box")) return;
    event.preventDefault();
    attach(files);
  });

  // What is not sent yet survives a reload and a change of language, as what was typed does. A page that is still being
  // built may not hear, so it is told until the cards are there.
  const KEY = "chatglm_documents";
  addEventListener("pagehide", () => {
    try { sessionStorage.setItem(KEY, JSON.stringify(shownIds())); } catch { /* private window */ }
  });
  let before = [];
  try {
    before = JSON.parse(sessionStorage.getItem(KEY) || "[]");
    sessionStorage.removeItem(KEY);
  } catch { /* private window */ }
  let tries = before.length ? 16 : 0;
  const restore = () => {
    if (tries === 0 || reading()) return;
    const back = drawnIds();
    const left = before.filter((id) => !back.includes(id) && !removed.has(id));
    tries = left.length ? tries - 1 : 0;
    if (tries && document.querySelector("#cg-chat-wanted :is(textarea, input)")) want([...left, ...back]);
    if (!tries && left.length) refuse(input().dataset.gone);
  };
  setInterval(restore, 600);

  // A question is edited without its cards; they stay.
  setInterval(() => document.querySelectorAll("#cg-chat textarea").forEach((area) => {
    if (!area.value.startsWith('<div class="cg-docs">')) return;
    area.value = area.value.replace(/^<div class="cg-docs">[\s\S]*?<\/div>\s*/, "");
    area.dispatchEvent(new Event("input", { bubbles: true }));
  }), 200);
})();
