// Keys, examples, colours and what was typed. Runs before the page's components exist, so it listens on the document.
(() => {
  const store = {
    get: (key) => { try { return localStorage.getItem(key); } catch { return null; } },
    set: (key, value) => { try { localStorage.setItem(key, value); } catch { /* private window */ } },
  };

  const wanted = store.get("chatglm_theme");
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (wanted ? wanted === "dark" : prefersDark.matches);
  const url = new URL(location.href);
  if (wanted || !url.searchParams.has("__theme")) {
    url.searchParams.set("__theme", isDark() ? "dark" : "light");
    history.replaceState(history.state, "", url);
  }
  // The address stays clean: the theme's parameter is only needed while the page starts.
  addEventListener("load", () => setTimeout(() => {
    const clean = new URL(location.href);
    ["__theme", "lang"].forEach((name) => clean.searchParams.delete(name));
    history.replaceState(history.state, "", clean);
  }, 3000));
  document.documentElement.style.colorScheme = isDark() ? "dark" : "light";

  const box = (id) => document.querySelector(`#${id} textarea`);
  const press = (id) => {
    const button = document.getElementById(id);
    if (button && !button.disabled && button.offsetParent !== null) { button.click(); return true; }
    return false;
  };
  const fill = (textarea, text) => {
    if (!textarea) return;
    textarea.value = text;
    textarea.dispatchEvent(new Event("input", { bubbles: true }));
    textarea.focus();
  };

  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.keyCode === 229) return; // an input method is choosing characters
    const inChat = event.target.closest && event.target.closest("#cg-chat-box");
    const inPrompt = event.target.closest && event.target.closest("#cg-prompt");
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && inPrompt) {
      event.preventDefault();
      event.stopPropagation();
      press("cg-generate");
    } else if (event.key === "Enter" && !event.shiftKey && inChat) {
      event.preventDefault();
      event.stopPropagation();
      press("cg-chat-send");
    } else if (event.key === "Escape") {
      ["cg-stop", "cg-chat-stop"].some(press);
    }
  }, true);

  // Gradio would send on Shift+Enter, where people expect a new line.
  ["keydown", "keypress"].forEach((name) => document.addEventListener(name, (event) => {
    const ours = event.target.closest && event.target.closest("#cg-prompt, #cg-chat-box");
    if (ours && event.key === "Enter" && event.shiftKey) event.stopPropagation();
  }, true));

  document.addEventListener("click", (event) => {
    const target = event.target.closest && event.target.closest("[data-fill], [data-action]");
    if (!target) return;
    if (target.dataset.fill !== undefined) fill(box(target.dataset.into || "cg-prompt"), target.dataset.fill);
    if (target.dataset.action === "theme") {
      const dark = !document.body.classList.contains("dark");
      document.body.classList.toggle("dark", dark);
      document.documentElement.style.colorScheme = dark ? "dark" : "light";
      store.set("chatglm_theme", dark ? "dark" : "light");
    }
    if (target.dataset.action === "language") {
      const typed = box("cg-prompt");
      try { if (typed) sessionStorage.setItem("chatglm_typed", typed.value); } catch { /* private window */ }
    }
  });

  // What was typed survives a change of language.
  const restore = setInterval(() => {
    const textarea = box("cg-prompt");
    if (!textarea) return;
    clearInterval(restore);
    try {
      const typed = sessionStorage.getItem("chatglm_typed");
      sessionStorage.removeItem("chatglm_typed");
      if (typed) fill(textarea, typed);
    } catch { /* private window */ }
  }, 100);
  setTimeout(() => clearInterval(restore), 20000);
})();
