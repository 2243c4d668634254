// What script adds to pages that work without it: copying, asking before, files into text areas, live parts, and URLs
// that follow what is typed.
"use strict";

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

// "Resolves to" follows what is typed; without script the form's button asks the server.
for (const form of document.querySelectorAll("[data-domain]")) {
  const [{ route, path }, shown, problem] = [form.elements, form.querySelector("output"), form.querySelector("[data-problem]")];
  form.addEventListener("input", () => {
    const [label, rest] = [route.value.trim().toLowerCase(), path.value.trim().replace(/^\/+/, "")];
    const valid = form.checkValidity();
    shown.textContent = valid ? `https://${label && `${label}.`}${form.dataset.domain}${rest && `/${rest}`}` : "";
    form.querySelector("[data-copy]").dataset.copy = shown.textContent;
    problem.textContent = valid ? "" : problem.dataset.problem;
  });
}

// Makes a part of the page say what `next` says. Elements that stay are kept, and with them focus, selection and scroll;
// rows that come and go are told apart by data-key.
function patch(old, next) {
  const keyed = (nodes) => new Map([...nodes].filter((node) => node.dataset.key).map((node) => [node.dataset.key, node]));
  const [mine, wanted] = [keyed(old.children), keyed(next.children)];
  const gone = (node) => node?.dataset?.key && !wanted.has(node.dataset.key);
  let at = old.firstChild;
  const skip = () => { const node = at; at = at.nextSibling; return node; };
  for (const node of [...next.childNodes]) {
    while (gone(at)) skip().remove();
    const key = node.dataset?.key;
    const same = key ? mine.get(key) : at;
    if (same?.nodeName !== node.nodeName || same.dataset?.key !== key) old.insertBefore(node, at);
    else {
      if (same === at) skip(); else old.insertBefore(same, at);
      update(same, node);
    }
  }
  while (at) skip().remove();
}

function update(old, next) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== next.data) old.data = next.data;
    return;
  }
  for (const { name } of [...old.attributes]) if (!next.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of next.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  patch(old, next);
}

// A part with data-live shows whatever HTML its stream sends. The server speaks every few seconds: when it does not, the
// page says that what it shows is old, and asks anew.
const SILENCE = 8000, RETRY = 2000;

function follow(part, note, heardAt) {
  const source = new EventSource(part.dataset.live);
  let timer, failed = false;
  const wait = (time, then) => { clearTimeout(timer); timer = setTimeout(then, time); };
  const old = () => {
    part.setAttribute("data-stale", "");
    note.textContent = `No word from the control plane since ${heardAt.toLocaleTimeString()}: what follows is how things were then.`;
  };
  const again = () => { source.close(); old(); wait(RETRY, () => follow(part, note, heardAt)); };
  const heard = () => {
    heardAt = new Date();
    part.removeAttribute("data-stale");
    note.textContent = "";
    failed = false;
    wait(SILENCE, again);
  };
  source.onmessage = (event) => {
    const next = document.createElement("template");
    next.innerHTML = JSON.parse(event.data).html;
    patch(part, next.content);
    heard();
  };
  source.addEventListener("alive", heard);
  source.onerror = () => { // the browser tries again by itself at first: a stream that only ended is not silence
    if (!failed) wait(RETRY, again);
    failed = true;
  };
  wait(SILENCE, again);
}

for (const part of document.querySelectorAll("[data-live]")) {
  const note = document.createElement("p");
  note.className = "warning stale";
  note.setAttribute("aria-live", "polite");
  part.before(note);
  follow(part, note, new Date());
}
