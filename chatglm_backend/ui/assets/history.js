// The list of conversations: its buttons, its questions, its files. Questions are asked in a dialog of the page's own.
(() => {
  const words = () => (document.getElementById("cg-words") || document.body).dataset;
  const coarse = matchMedia("(pointer: coarse)");

  // Lists speak through boxes of their own; a number makes each command a change.
  const tell = (box, text) => {
    const channel = document.querySelector(`#${box} :is(textarea, input)`);
    if (!channel) return;
    channel.value = text;
    channel.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const command = (action, id, text) => {
    tell("cg-history-command", JSON.stringify({ action, id, text, number: Date.now() }));
  };

  const element = (name, properties, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };

  // Resolves to the text typed ("" where none is asked for), or null where the answer is no. The browser keeps
  // the focus inside, closes on Esc, and gives the focus back.
  const ask = (question, yes, was, lines = false) => new Promise((resolve) => {
    const title = element("h2", { id: "cg-dialog-title", textContent: question });
    let input = null;
    if (was !== undefined) {
      input = lines ? element("textarea", { value: was, rows: 12 }) : element("input", { type: "text", value: was, maxLength: 200 });
    }
    if (input) input.setAttribute("aria-labelledby", title.id);
    const no = element("button", { type: "button", className: "cg-tool", textContent: words().no });
    const ok = element("button", { type: "submit", className: "cg-tool cg-yes", textContent: yes });
    const form = element("form", { method: "dialog" }, title, ...(input ? [input] : []),
      element("div", { className: "cg-dialog-actions" }, no, ok));
    const dialog = element("dialog", { className: lines ? "cg-dialog cg-wide" : "cg-dialog" }, form);
    dialog.setAttribute("aria-labelledby", title.id);
    let said = null;
    no.addEventListener("click", () => dialog.close());
    form.addEventListener("submit", () => { said = !input ? "" : lines ? input.value : input.value.trim(); });
    dialog.addEventListener("keydown", (event) => { if (event.isComposing) event.stopPropagation(); });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(input && !said ? null : said);
    });
    (document.querySelector(".gradio-container") || document.body).append(dialog);
    dialog.showModal();
    (input || no).focus();
    if (lines) input.setSelectionRange(was.length, was.length); else if (input) input.select();
  });
  const tellBeside = (text) => {
    const said = document.getElementById("cg-history-said");
    if (said) said.textContent = text;
  };
  globalThis.chatglm = { ask, command, element, tellBeside, words };

  const button = (kind, id) => document.querySelector(`#cg-history ${kind}[data-id="${CSS.escape(id)}"]`);
  const search = () => document.querySelector("#cg-history-search :is(textarea, input)");
  const chatBox = () => (coarse.matches ? null : document.querySelector("#cg-chat-box textarea"));

  // The list is drawn anew again and again: what had the focus is gone, or stands for another conversation now. Then
  // the heir gets it: the same part of the new list; where its row is gone, the row beside it; after the last one, the
  // search.
  let heir = null;
  const inherit = () => {
    const active = document.activeElement;
    if (!heir || document.querySelector("dialog[open]")) return;
    if (active && active !== document.body && (active.dataset.id || "") === heir.id) return;
    const target = heir.find();
    if (target && target !== active) target.focus({ preventScroll: true });
  };
  new MutationObserver(inherit).observe(document, {
    childList: true, subtree: true, attributes: true, attributeFilter: ["data-id", "open"],
  });
  const heirOf = (part) => {
    const row = part.closest(".cg-row");
    if (row) {
      const { history: action, id = "" } = part.dataset;
      const kind = action ? `[data-history=${action}]` : ".cg-open"; // a saved prompt is no command
      const beside = row.nextElementSibling || row.previousElementSibling;
      const next = beside && beside.querySelector("[data-id]").dataset.id;
      return { id, find: () => button(kind, id) || (next && button(".cg-open", next)) || search() };
    }
    const tools = () => [...document.querySelectorAll("#cg-history .cg-history-tools :is(a, button, input)")].reverse();
    const place = tools().indexOf(part); // from the end: the first ones come and go
    return { id: "", find: () => tools()[place] };
  };
  document.addEventListener("focusin", (event) => {
    if (event.target.closest("dialog")) return; // it gives the focus back
    heir = event.target.closest("#cg-history") ? heirOf(event.target) : null;
  });
  document.addEventListener("pointerdown", (event) => {
    if (event.target.closest && !event.target.closest("#cg-history, dialog")) heir = null;
  }, true);

  const carryOut = async (target) => {
    const { history: action, id = "", ask: question, was, confirm: doubt } = target.dataset;
    let text = "";
    if (question !== undefined) text = await ask(question, words().save, was);
    else if (doubt !== undefined) text = await ask(doubt, words().delete);
    if (text === null) { inherit(); return; }
    if (action === "open" && chatBox()) chatBox().focus();
    command(action, id, text);
  };

  document.addEventListener("click", (event) => {
    const target = event.target.closest && event.target.closest("[data-history]");
    if (target) carryOut(target);
  });

  // Models: one to load, one to delete from the disk.
  document.addEventListener("click", async (event) => {
    const target = event.target.closest && event.target.closest("[data-load], [data-kept]");
    if (!target) return;
    const { load, kept, confirm: doubt } = target.dataset;
    if (load) {
      tell("cg-model-wanted", `${load} ${Date.now()}`);
      document.getElementById("cg-model-card").scrollIntoView({ block: "nearest" });
    } else if ((await ask(doubt, words().delete)) !== null) tell("cg-kept-name", `${kept} ${Date.now()}`);
  });

  // A file out of the history comes with a word on what is not in it.
  document.addEventListener("click", async (event) => {
    const link = event.target.closest && event.target.closest("#cg-history a[download]");
    if (!link || link.href.startsWith("blob:")) return;
    event.preventDefault();
    let message = link.parentElement.dataset.failed;
    try {
      const reply = await fetch(link.href);
      message = reply.ok ? decodeURIComponent(reply.headers.get("x-said") || "") : (await reply.json()).message || message;
      if (reply.ok) {
        const name = /''(.*)$/.exec(reply.headers.get("content-disposition"))[1];
        const file = element("a", { href: URL.createObjectURL(await reply.blob()), download: decodeURIComponent(name) });
        file.click();
        setTimeout(() => URL.revokeObjectURL(file.href), 60000);
      }
    } catch { /* said below */ }
    tellBeside(message);
  });

  document.addEventListener("change", async (event) => {
    const input = event.target;
    if (!input.dataset || !input.dataset.import || !input.files.length) return;
    let message = input.dataset.failed;
    try {
      const reply = await fetch(input.dataset.import, {
        method: "POST", headers: { "content-type": "application/json" }, body: input.files[0],
      });
      if (reply.ok) { command("imported", "", ""); return; }
      message = reply.status === 413 ? input.dataset.tooLarge : (await reply.json()).message || message;
    } catch { /* said below */ }
    input.value = "";
    tellBeside(message);
  });
})();
