// The baseline: every other run's distance from it, tested anew when another one is chosen.

// group -> what to show for each run; null: nothing to compare. Holm level by level, Benjamini-Hochberg over all domains.
function distances(base) {
  const found = {}, test = (group) => page.runs.map((run, place) => {
    const comparable = page.forceMixed || run.protocol === page.runs[base].protocol;
    return place === base || !comparable ? null : testPair(paired(place, base, group));
  });
  const adjust = (tests, by) => {
    const tested = tests.filter((t) => t && t.p !== null), adjusted = by(tested.map((t) => t.p));
    tested.forEach((t, i) => { t.pAdjusted = adjusted[i]; });
  };
  for (const group of [...page.levels, ...page.domains]) found[group] = test(group);
  for (const level of page.levels) adjust(found[level], holm);
  adjust(page.runs.flatMap((_, place) => page.domains.map((domain) => found[domain][place])), benjaminiHochberg);
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
  const stars = isDomain ? "" : starsOf(test, run), interval = range(test.lo, test.hi);
  const less = test.n < test.asked ? `n=${number(test.n)}` : "";
  cell.title = `${interval} n = ${number(test.n)}, ${p}`.trim();
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
    const versus = found.L1 && found.L3 ? gapDifference(found.L1[place], found.L3[place]) : null;
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
  for (const group of [...page.levels, ...page.domains]) {
    const tests = found[group] || page.runs.map(() => null), column = columnAt.get(`d_${group}`);
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
  if (state.sort.startsWith("d_")) sortTable();
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
