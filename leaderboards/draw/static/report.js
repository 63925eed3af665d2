// The start: everything is drawn by the server, the script only takes over.

function showBars() {
  for (const block of document.querySelectorAll("[data-bars]")) block.hidden = block.dataset.bars !== barsLevel();
  for (const button of document.querySelectorAll("#bar-levels button")) {
    button.setAttribute("aria-pressed", String(button.dataset.level === barsLevel()));
  }
}

// The level chosen for the bars, or the first that has any.
function barsLevel() {
  const levels = [...document.querySelectorAll("[data-bars]")].map((block) => block.dataset.bars);
  return levels.includes(state.bars) ? state.bars : levels[0];
}

// Draw everything as the state says.
async function apply() {
  showFilters();
  showColumns();
  filterTable();
  sortTable();
  showBars();
  if (!await unpacked) return;
  await showBaseline();
  await showCompare();
}

// False in a browser that cannot unpack the answers: the page then says so and keeps to its table and charts.
const unpacked = loaded.then(() => true, (error) => {
  const note = "This browser cannot unpack the answers, so baselines and comparisons are off. Chrome 80, Firefox 113 "
    + "and Safari 16.4 can.";
  document.querySelector("main").prepend(el("p", {className: "strip", role: "note"}, `${note} (${error.message})`));
  byId("compare").hidden = true;
  byId("base").disabled = true;
  return false;
});

function startSections() {
  for (const link of document.querySelectorAll('nav a[href^="#"]')) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      document.querySelector(link.getAttribute("href")).scrollIntoView();
    });
  }
  for (const form of document.querySelectorAll("form.tools")) {
    form.addEventListener("submit", (event) => event.preventDefault());
  }
  byId("bar-levels")?.addEventListener("click", (event) => {
    if (!event.target.dataset.level) return;
    choose({bars: event.target.dataset.level});
    showBars();
  });
}

async function follow() {
  readAddress();
  await apply();
  if (bank && state.q) byId("card").scrollIntoView({block: "start"});
}

document.documentElement.classList.add("scripted");
startTable();
startHighlight();
startBaseline();
startCompare();
startDialogs();
startSections();
window.addEventListener("hashchange", follow);
follow().then(() => {
  document.documentElement.dataset.ready = "yes";
  if (bank) warmUp();
});
