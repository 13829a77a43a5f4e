// Says when the server cannot be reached, and when it can be again. What was being answered is taken up by a reload.
(() => {
  const words = () => (document.getElementById("cg-words") || document.body).dataset;
  let lost = false;
  let failures = 0;
  let timer = 0;

  const notice = () => {
    let found = document.getElementById("cg-lost");
    if (!found) {
      found = document.createElement("div");
      found.id = "cg-lost";
      found.setAttribute("role", "alert");
      (document.querySelector(".gradio-container") || document.body).append(found);
    }
    return found;
  };
  // While nothing can be heard of the server, no line says that it is writing.
  const say = (text) => {
    lost = Boolean(text);
    notice().textContent = text;
    notice().className = text ? "cg-alert cg-floating" : "";
    document.documentElement.classList.toggle("cg-offline", lost);
  };
  // Gradio says the same, in English only, and loads the page anew once its server answers.
  new MutationObserver(() => document.querySelectorAll(".toast-body").forEach((toast) => {
    if (toast.style.display === "none" || !/Connection Lost/i.test(toast.textContent)) return;
    toast.style.display = "none";
    if (!lost && words().lost) say(words().lost);
  })).observe(document, { childList: true, subtree: true });

  const check = async () => {
    const config = window.gradio_config;
    clearTimeout(timer);
    if (config && words().lost && (lost || document.visibilityState === "visible")) {
      const limit = new AbortController();
      const late = setTimeout(() => limit.abort(), 5000);
      try {
        const reply = await fetch(`${config.root}${config.api_prefix || "/gradio_api"}/app_id`,
          { signal: limit.signal, cache: "no-store" });
        if (reply.status === 401) { location.reload(); return; }
        if (!reply.ok) throw new Error(String(reply.status));
        failures = 0;
        // Another process answers: it knows nothing of this page, but has its conversation on the disk.
        if ((await reply.json()).app_id !== config.app_id) { location.reload(); return; }
        if (lost) say("");
      } catch {
        failures += 1;
        if ((failures > 1 || !navigator.onLine) && !lost) say(words().lost);
      } finally { clearTimeout(late); }
    }
    timer = setTimeout(check, failures ? 1500 : 5000);
  };
  addEventListener("offline", check);
  addEventListener("online", check);
  document.addEventListener("visibilitychange", () => { if (document.visibilityState === "visible") check(); });
  timer = setTimeout(check, 5000);
})();
