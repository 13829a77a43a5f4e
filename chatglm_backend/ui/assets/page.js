// Keys, examples and colours. Runs before the page's components exist, so it listens on the document.
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

  document.documentElement.classList.toggle("cg-no-demo", store.get("chatglm_demo") === "seen");

  const box = (id) => document.querySelector(`#${id} textarea`);
  const press = (id) => {
    const button = document.getElementById(id);
    if (button && !button.disabled && button.offsetParent !== null) { button.click(); return true; }
    return false;
  };
  const fill = (textarea, text) => {
    if (!textarea) return;
    textarea.focus();
    textarea.select();
    // As if it were typed: Ctrl+Z brings back what stood there.
    if (document.execCommand("insertText", false, text)) return;
    textarea.value = text;
    textarea.dispatchEvent(new Event("input", { bubbles: true }));
  };

  // What to begin with is put before what is typed, in place of another beginning.
  const begun = (chip, now) => {
    const other = [...chip.parentElement.children].map((one) => one.dataset.fill).find((text) => now.startsWith(text));
    return chip.dataset.fill + now.slice((other || "").length);
  };

  // Plots, one above the other on white, as one picture.
  const savePicture = async (id) => {
    const plots = [...document.querySelectorAll(`#${id} svg`)];
    const canvas = document.createElement("canvas");
    const [width, height, scale] = [460, 260, 2];
    canvas.width = width * scale;
    canvas.height = height * scale * plots.length;
    const pen = canvas.getContext("2d");
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    for (const [index, plot] of plots.entries()) {
      const copy = plot.cloneNode(true);
      copy.setAttribute("width", width * scale);
      copy.setAttribute("height", height * scale);
      const picture = new Image();
      picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(copy))}`;
      await picture.decode();
      pen.drawImage(picture, 0, index * height * scale);
    }
    const link = document.createElement("a");
    link.download = "chatglm-speed.png";
    link.href = canvas.toDataURL("image/png");
    link.click();
  };

  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.keyCode === 229) return; // an input method is choosing characters
    const inChat = event.target.closest && event.target.closest("#cg-chat-box");
    const inPrompt = event.target.closest && event.target.closest("#cg-prompt");
    const inCompare = event.target.closest && event.target.closest("#cg-compare-prompt");
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && inPrompt) {
      event.preventDefault();
      event.stopPropagation();
      press("cg-generate");
    } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && inCompare) {
      event.preventDefault();
      event.stopPropagation();
      press("cg-compare-generate");
    } else if (event.key === "Enter" && !event.shiftKey && inChat) {
      event.preventDefault();
      event.stopPropagation();
      press("cg-chat-send");
    } else if (event.key === "Escape" && !document.querySelector("dialog[open], #cg-chat-side.cg-shown")) {
      ["cg-stop", "cg-chat-stop", "cg-compare-stop", "cg-speed-stop"].some(press);
    }
  }, true);

  // On a phone the conversations are a drawer: away with Escape, a choice, or a click beside it.
  const showDrawer = (shown) => {
    const side = document.getElementById("cg-chat-side");
    const button = document.querySelector("[data-action=drawer]");
    if (!side || !button || side.classList.contains("cg-shown") === shown) return;
    side.classList.toggle("cg-shown", shown);
    button.setAttribute("aria-expanded", shown);
    (shown ? side.querySelector("button") : button).focus();
  };
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !document.querySelector("dialog[open]")) showDrawer(false); });
  document.addEventListener("click", (event) => {
    const inside = event.target.closest && event.target.closest("#cg-chat-side, [data-action=drawer], dialog");
    if (!inside || event.target.closest("#cg-chat-clear, [data-history=open], [data-insert]")) showDrawer(false);
  });

  // Arrow keys walk along the row of tabs, as in every other program; Enter or Space opens one.
  document.addEventListener("keydown", (event) => {
    const row = event.target.closest && event.target.closest("[role=tablist]");
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!row || (!step && event.key !== "Home" && event.key !== "End")) return;
    const tabs = [...row.querySelectorAll("[role=tab]")];
    const at = tabs.indexOf(event.target.closest("[role=tab]"));
    const next = step ? at + step + tabs.length : event.key === "Home" ? 0 : tabs.length - 1;
    event.preventDefault();
    tabs[next % tabs.length].focus();
  });

  // Gradio would send on Shift+Enter, where people expect a new line.
  ["keydown", "keypress"].forEach((name) => document.addEventListener(name, (event) => {
    const ours = event.target.closest && event.target.closest("#cg-prompt, #cg-chat-box");
    if (ours && event.key === "Enter" && event.shiftKey) event.stopPropagation();
  }, true));

  // A list that is drawn anew between press and release of the mouse swallows the click: the button that stands there
  // now takes it. A finger's tap is looked up by the browser at its end.
  const buttonAt = (place) => place && place.closest && place.closest("button:enabled");
  let pressed = null;
  document.addEventListener("pointerdown", (event) => {
    pressed = event.pointerType === "mouse" && event.button === 0 ? buttonAt(event.target) : null;
  }, true);
  document.addEventListener("pointerup", (event) => {
    const was = pressed;
    pressed = null;
    if (!was || was.isConnected || event.button !== 0) return;
    const heir = buttonAt(document.elementFromPoint(event.clientX, event.clientY));
    if (heir && heir.outerHTML === was.outerHTML) heir.click();
  }, true);

  document.addEventListener("click", (event) => {
    const target = event.target.closest && event.target.closest("[data-fill], [data-action]");
    if (!target) return;
    if (target.dataset.fill !== undefined) {
      const [into, own] = [box(target.dataset.into || "cg-prompt"), target.dataset.fill];
      fill(into, into && target.dataset.into ? begun(target, into.value) : own);
    }
    if (target.dataset.action === "theme") {
      const dark = !document.body.classList.contains("dark");
      document.body.classList.toggle("dark", dark);
      document.documentElement.style.colorScheme = dark ? "dark" : "light";
      store.set("chatglm_theme", dark ? "dark" : "light");
    }
    if (target.dataset.action === "drawer") showDrawer(true);
    if (target.dataset.action === "dismiss") {
      store.set("chatglm_demo", "seen");
      document.documentElement.classList.add("cg-no-demo");
    }
    if (target.dataset.action === "model") document.getElementById("cg-tab-model-button").click();
    if (target.dataset.action === "png") savePicture(target.dataset.from);
  });
})();
