// The baseline: every other run's distance from it, tested anew when another one is chosen.

// How the keys of the table's columns of differences begin -> what is compared
const COLUMNS = {d: "accuracy", dc: "consistency", ds: "sound"};

// Column -> what to show for each run; null: nothing to compare. Holm for a measure on a level, Benjamini-Hochberg over
// all domains.
function distances(base) {
  const found = {}, test = (group, measure) => page.runs.map((run, place) => {
    const comparable = page.forceMixed || run.protocol === page.runs[base].protocol;
    const judged = measure === "accuracy" || rated(place, group) && rated(base, group);
    return place === base || !comparable || !judged ? null : testPair(paired(place, base, group, measure));
  });
  const adjust = (tests, by) => {
    const tested = tests.filter((t) => t && t.p !== null), adjusted = by(tested.map((t) => t.p));
    tested.forEach((t, i) => { t.pAdjusted = adjusted[i]; });
  };
  for (const domain of page.domains) found[`d_${domain}`] = test(domain, "accuracy");
  for (const level of page.levels) {
    for (const [prefix, measure] of Object.entries(COLUMNS)) adjust(found[`${prefix}_${level}`] = test(level, measure), holm);
  }
  adjust(page.runs.flatMap((_, place) => page.domains.map((domain) => found[`d_${domain}`][place])), benjaminiHochberg);
  return found;
}

function starsOf(test, run) {
  if (test.pAdjusted === undefined || run.picked) return "";
  return "*".repeat([0.05, 0.01, 0.001].filter((limit) => test.pAdjusted < limit).length);
}

function fillDistance(cell, test, run, half, isBase, isDomain) {
  cell.className = cell.className.replace(/\b(value|empty|bounds)\b/, test ? "value" : "empty");
  cell.dataset.v = test ? test.mean : "";
  cell.removeAttribute("title");
  if (!test) {
    cell.replaceChildren(isBase ? "baseline" : "–");
    return;
  }
  const p = test.p === null ? "not tested: too few shared questions" : `p ${pText(test.pAdjusted)} (${isDomain ? "Benjamini-Hochberg, exploratory" : "Holm"})`;
  const stars = isDomain ? "" : test.open ? "‡" : starsOf(test, run), interval = range(test.lo, test.hi);
  const less = test.n < test.asked ? `n=${number(test.n)}` : "";
  const unknown = test.missing ? `; ${number(test.missing)} without a verdict: ${points(test.least)} to ${points(test.most)} in all` : "";
  cell.title = `${interval} n = ${number(test.n)}, ${p}${unknown}`.trim();
  cell.replaceChildren(points(test.mean));
  if (stars) cell.append(el("sup", {}, stars));
  if (interval) cell.append(whisker(test.mean, test.lo, test.hi, half));
  if (interval) cell.append(el("span", {className: "ci"}, interval));
  if (less) cell.append(el("span", {className: "ci shared"}, less));
}

// The difference of two gaps: paired within each level, the levels independent of one another.
function gapDifference(near, far) {
  if (!near || !far || isNaN(near.se) || isNaN(far.se)) return null;
  const mean = near.mean - far.mean;
  if (near.se === 0 || far.se === 0) { // no spread: the intervals are added in squares
    const below = Math.hypot(near.mean - near.lo, far.hi - far.mean), above = Math.hypot(near.hi - near.mean, far.mean - far.lo);
    return {mean, lo: mean - below, hi: mean + above};
  }
  const fewest = Math.min(near.nClusters, far.nClusters);
  const half = (fewest >= FEW_CLUSTERS ? Z : tQuantile(fewest - 1)) * Math.hypot(near.se, far.se);
  return {mean, lo: mean - half, hi: mean + half};
}

function showGaps(found) {
  for (const row of document.querySelectorAll("#gaps tr[data-place]")) {
    const place = Number(row.dataset.place), cell = row.querySelector(".versus");
    const versus = found.d_L1 && found.d_L3 ? gapDifference(found.d_L1[place], found.d_L3[place]) : null;
    cell.replaceChildren(versus ? points(versus.mean) + " " : "–");
    if (versus) cell.append(el("span", {className: "range"}, range(versus.lo, versus.hi)));
  }
}

let shownBase = page.baseline || "";

async function showBaseline() {
  byId("base").value = state.base;
  if (state.base === shownBase) return;
  await loaded;
  shownBase = state.base;
  const base = runPlace.has(state.base) ? runPlace.get(state.base) : -1;
  const found = base < 0 ? {} : distances(base);
  const keys = page.levels.flatMap((level) => Object.keys(COLUMNS).map((prefix) => `${prefix}_${level}`));
  for (const key of [...keys, ...page.domains.map((domain) => `d_${domain}`)]) {
    const tests = found[key] || page.runs.map(() => null), column = columnAt.get(key), group = key.slice(key.indexOf("_") + 1);
    const ends = tests.flatMap((test) => (test ? [test.mean, test.lo, test.hi] : [])).filter((end) => !isNaN(end));
    const half = Math.max(...ends.map(Math.abs), 0) || 0.01;
    measured.forEach((row, place) => {
      fillDistance(row.cells[column], tests[place], page.runs[place], half, place === base, page.domains.includes(group));
    });
  }
  measured.forEach((row, place) => {
    row.querySelector(".chip.base")?.remove();
    if (place === base) row.querySelector(".name small").before(" ", el("span", {className: "chip base"}, "baseline"));
  });
  for (const series of document.querySelectorAll(".series")) {
    series.classList.toggle("base", Number(series.dataset.place) === base);
  }
  showGaps(found);
  if (state.sort.split("_")[0] in COLUMNS) sortTable();
  document.documentElement.dataset.baseline = state.base; // says that the table shows it
}

function startBaseline() {
  byId("base").addEventListener("change", async (event) => {
    choose({base: event.target.value});
    await showBaseline();
    announce(state.base ? `Baseline: ${page.runs[runPlace.get(state.base)].name}` : "No baseline");
  });
}

// Draw the random signs ahead while the page idles, so that the first change of baseline need not wait for them.
function warmUp(rows = 0) {
  const idle = window.requestIdleCallback || ((work) => setTimeout(work, 50));
  idle(() => {
    signSums.upTo(rows);
    if (rows < 600) warmUp(rows + 40);
  });
}
