// The Batch page's file is sent as it is; the page hears of it through a box of its own.
(() => {
  document.addEventListener("change", async (event) => {
    const input = event.target;
    if (!input.dataset || !input.dataset.batch || !input.files.length) return;
    const [file, said] = [input.files[0], document.getElementById("cg-batch-said")];
    let message = input.dataset.failed;
    try {
      const reply = await fetch(`${input.dataset.batch}&name=${encodeURIComponent(file.name)}`, {
        method: "POST", headers: { "content-type": "application/octet-stream" }, body: file,
      });
      const told = reply.status === 413 ? input.dataset.tooLarge : (await reply.json()).message;
      message = reply.ok ? "" : told || message;
    } catch { /* said below */ }
    input.value = "";
    said.textContent = message;
    if (message) return;
    const channel = document.querySelector("#cg-batch-sent :is(textarea, input)");
    channel.value = String(Date.now());
    channel.dispatchEvent(new Event("input", { bubbles: true }));
  });
})();
