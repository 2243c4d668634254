// What script adds to pages that work without it: copying, asking before, files into text areas, live parts.
"use strict";
document.documentElement.classList.add("script-on");

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) {
    await navigator.clipboard.writeText(button.dataset.copy);
    const text = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = text; }, 1500);
  }
});

document.addEventListener("submit", (event) => {
  const asked = event.submitter?.dataset.confirm;
  if (asked && !confirm(asked)) event.preventDefault();
});

async function fill(area, file) {
  area.value = file.size > 65536 ? "" : await file.text();
  area.focus();
}

for (const input of document.querySelectorAll("[data-file-for]")) {
  const area = document.getElementById(input.dataset.fileFor);
  input.addEventListener("change", () => input.files.length && fill(area, input.files[0]));
  area.addEventListener("dragover", (event) => { event.preventDefault(); area.classList.add("over"); });
  area.addEventListener("dragleave", () => area.classList.remove("over"));
  area.addEventListener("drop", (event) => {
    event.preventDefault();
    area.classList.remove("over");
    if (event.dataTransfer.files.length) fill(area, event.dataTransfer.files[0]);
  });
}

// A part with data-live shows whatever HTML its stream sends; the stream's end is shown as a stale part.
for (const part of document.querySelectorAll("[data-live]")) {
  const source = new EventSource(part.dataset.live);
  source.onmessage = (event) => {
    part.innerHTML = JSON.parse(event.data).html;
    part.removeAttribute("data-stale");
  };
  source.onerror = () => part.setAttribute("data-stale", "");
}
