// The drawer of a run, the dialogs, and the keys. The browser returns the focus when a dialog closes.

let drawerRun = null;

function openDrawer(place) {
  drawerRun = page.runs[place];
  byId("drawer-title").textContent = drawerRun.name;
  byId("drawer-body").replaceChildren(byId(`run-${place}`).querySelector("dl").cloneNode(true));
  byId("drawer").showModal();
}

async function goTo() {
  const id = byId("goto-id").value.trim();
  const found = bank.place.has(id) ? bank.place.get(id) : bank.ids.findIndex((name) => name.toLowerCase() === id.toLowerCase());
  if (found < 0) {
    byId("goto-note").textContent = `No question has the id “${id}”.`;
    return;
  }
  byId("goto").close();
  await openQuestion(found);
  byId("card").scrollIntoView({block: "start"});
  byId("card").focus({preventScroll: true});
}

const KEYS = {
  "/": () => (state.q ? byId("q-find") : byId("f-text")).focus(),
  j: () => bank && step(1),
  k: () => bank && step(-1),
  g: () => {
    if (!bank) return;
    byId("goto-note").textContent = "";
    byId("goto").showModal();
    byId("goto-id").select();
  },
  "?": () => byId("help").showModal(),
  Escape: () => { if (state.q) closeQuestion(); },
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = event.target.matches("input:not([type=checkbox]), select, textarea");
  if (typing) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (!(event.key in KEYS)) return;
  event.preventDefault();
  KEYS[event.key]();
}

function startDialogs() {
  document.addEventListener("keydown", onKey);
  for (const button of document.querySelectorAll("dialog .close")) {
    button.addEventListener("click", () => button.closest("dialog").close());
  }
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  }
  byId("help-open").addEventListener("click", () => byId("help").showModal());
  byId("goto").querySelector("form").addEventListener("submit", (event) => { event.preventDefault(); goTo(); });
  table.addEventListener("click", (event) => {
    const button = event.target.closest("[data-run]");
    if (button) openDrawer(Number(button.dataset.run));
  });
  const act = (changes) => {
    byId("drawer").close();
    choose(changes);
    return apply();
  };
  const compareAs = async (changes) => { await act(changes); byId("compare").scrollIntoView(); };
  byId("drawer-base").addEventListener("click", () => act({base: drawerRun.id}));
  byId("drawer-a").addEventListener("click", () => compareAs({a: drawerRun.id, b: page.runs[pair[1]].id}));
  byId("drawer-b").addEventListener("click", () => compareAs({a: page.runs[pair[0]].id, b: drawerRun.id}));
}
