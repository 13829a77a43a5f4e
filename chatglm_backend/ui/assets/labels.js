// Gradio's own labels in the page's language: those that no setting of its changes. English pages have none to change.
(() => {
  let exact = null;
  let beginnings = [];
  const read = () => {
    const words = document.getElementById("cg-words");
    if (!words) return false;
    exact = JSON.parse(words.dataset.labels || "{}");
    beginnings = Object.entries(exact).filter(([theirs]) => theirs.endsWith(" "));
    return true;
  };
  const translated = (label) => {
    if (Object.hasOwn(exact, label)) return exact[label];
    const found = beginnings.find(([theirs]) => label.startsWith(theirs));
    return found ? found[1] + label.slice(found[0].length) : null;
  };
  const sweep = () => {
    if (!exact && !read()) return;
    if (!Object.keys(exact).length) { observer.disconnect(); return; }
    for (const name of ["aria-label", "title"]) {
      for (const part of document.querySelectorAll(`.gradio-container [${name}]`)) {
        const label = translated(part.getAttribute(name));
        if (label !== null) part.setAttribute(name, label);
      }
    }
  };
  // Seldom and together: an answer changes the page several times a second.
  let waiting = 0;
  const observer = new MutationObserver(() => {
    waiting = waiting || setTimeout(() => { waiting = 0; sweep(); }, 300);
  });
  observer.observe(document, { childList: true, subtree: true, attributes: true, attributeFilter: ["aria-label", "title"] });
})();
