// The table: sorting, filters and columns on demand.

const table = byId("board");
const heads = [...table.tHead.rows[0].cells];
const columnAt = new Map(heads.map((head, i) => [head.dataset.key, i]));
const bodies = [...table.tBodies].map((body) => ({body, rows: [...body.rows].filter((row) => row.cells.length === heads.length)}));
const measured = bodies[0].rows.slice(); // by place
const FILTERS = ["algo", "backbone", "frames", "protocol"];
const FEW_REPORTED = 8; // up to here reported rows are never folded
const DIRECTIONS = ["ascending", "descending"];
const SHOWN = ["intervals", "domains", "levels", "run"];

function sortValue(row, column, numeric) {
  const value = row.cells[column].dataset.v;
  if (value === undefined || value === "") return null;
  return numeric ? Number(value) : value;
}

// What a click on a column's head first does: best on top for numbers, A to Z for names.
function naturalDirection(key) {
  return key === "rank" || !heads[columnAt.get(key)].classList.contains("num") ? "ascending" : "descending";
}

function sortTable() {
  const key = columnAt.has(state.sort) ? state.sort : "rank", column = columnAt.get(key);
  const direction = DIRECTIONS.includes(state.dir) ? state.dir : naturalDirection(key), sign = direction === "ascending" ? 1 : -1;
  const numeric = heads[column].classList.contains("num") || key === "flags";
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", direction);
  for (const {body, rows} of bodies) {
    const keyed = rows.map((row, i) => ({row, i, value: sortValue(row, column, numeric)}));
    keyed.sort((x, y) => {
      if (x.value === null || y.value === null) return (x.value === null) - (y.value === null) || x.i - y.i;
      const order = numeric ? x.value - y.value : x.value.localeCompare(y.value, "en", {numeric: true});
      return sign * order || x.i - y.i;
    });
    body.append(...keyed.map(({row}) => row));
  }
}

function filterTable() {
  const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = ({dataset}) => words.every((word) => dataset.text.includes(word))
    && FILTERS.every((name) => !state[name] || dataset[name] === state[name])
    && (!has("only", "measured") || dataset.source === "measured")
    && (!has("only", "complete") || dataset.status === "complete" || dataset.source === "reported");
  let shown = 0, all = 0;
  for (const {body, rows} of bodies) {
    for (const row of rows) {
      row.hidden = !fits(row);
      shown += !row.hidden;
      all++;
    }
    body.hidden = rows.every((row) => row.hidden);
  }
  foldReported();
  for (const node of document.querySelectorAll(".series[data-place], .series[data-places], #gaps tr[data-place], .bars tr[data-place]")) {
    node.toggleAttribute("hidden", placesOf(node).every((place) => measured[place].hidden));
  }
  byId("shown").textContent = shown === all ? `${all} rows` : `${shown} of ${all} rows`;
  byId("reset").hidden = shown === all;
}

// The runs that a mark stands for: a training's curve belongs to all of its checkpoints.
const placesOf = ({dataset}) => (dataset.place ?? dataset.places).split(" ");

// Many reported rows are folded away until they are asked for or searched; on paper they are all there.
function foldReported() {
  const button = byId("fold"), rows = bodies[1]?.rows || [];
  if (rows.length <= FEW_REPORTED) return;
  const folded = !has("show", "reported") && !state.text;
  byId("reported").classList.toggle("folded", folded);
  button.hidden = Boolean(state.text);
  button.textContent = folded ? `Show ${rows.length} reported rows` : "Hide them";
  button.setAttribute("aria-expanded", String(!folded));
}

function showColumns() {
  for (const name of SHOWN) {
    table.classList.toggle(`show-${name}`, has("show", name));
    if (byId(`s-${name}`)) byId(`s-${name}`).checked = has("show", name);
  }
}

function showFilters() {
  byId("f-text").value = state.text;
  for (const name of FILTERS) if (byId(`f-${name}`)) byId(`f-${name}`).value = state[name];
  for (const word of ["measured", "complete"]) byId(`f-${word}`).checked = has("only", word);
}

function startTable() {
  for (const head of heads) {
    head.firstElementChild.addEventListener("click", () => {
      const key = head.dataset.key, now = head.getAttribute("aria-sort");
      const dir = !now ? naturalDirection(key) : now === "ascending" ? "descending" : "ascending";
      choose({sort: key, dir: dir === naturalDirection(key) ? "" : dir});
      sortTable();
      announce(`Sorted by ${head.textContent.trim()}, ${dir}`);
    });
  }
  byId("f-text").addEventListener("input", (event) => { choose({text: event.target.value}); filterTable(); });
  for (const name of FILTERS) {
    byId(`f-${name}`)?.addEventListener("change", (event) => { choose({[name]: event.target.value}); filterTable(); });
  }
  for (const word of ["measured", "complete"]) {
    byId(`f-${word}`).addEventListener("change", (event) => { toggle("only", word, event.target.checked); filterTable(); });
  }
  for (const name of SHOWN) {
    byId(`s-${name}`)?.addEventListener("change", (event) => { toggle("show", name, event.target.checked); showColumns(); });
  }
  byId("fold")?.addEventListener("click", () => { toggle("show", "reported", !has("show", "reported")); foldReported(); });
  byId("reset").addEventListener("click", () => {
    choose({text: "", only: "", ...Object.fromEntries(FILTERS.map((name) => [name, ""]))});
    showFilters();
    filterTable();
    byId("f-text").focus();
  });
}

// The same run stands out in the table and in every chart while the pointer or the focus is on it.
function highlight(place) {
  for (const node of document.querySelectorAll(".lit")) node.classList.remove("lit");
  for (const chart of document.querySelectorAll(".chart, .lines")) chart.classList.toggle("dim", place !== undefined);
  if (place === undefined) return;
  const at = place.split(" ").map((p) => `.series[data-place="${p}"], .small tr[data-place="${p}"], .series[data-places~="${p}"]`);
  for (const node of document.querySelectorAll(at.join())) node.classList.add("lit");
}

function startHighlight() {
  const of = (event) => {
    const {place, places} = event.target.closest?.("[data-place], [data-places]")?.dataset || {};
    return place ?? places;
  };
  for (const kind of ["mouseover", "focusin"]) document.addEventListener(kind, (event) => highlight(of(event)));
}
