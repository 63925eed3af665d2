// Two runs side by side: counts by level, and the list of questions.

const CHUNK = 100; // questions added to the list at a time
let listed = []; // places of the questions that fit the filter
let pair = [0, 0];

// Right, with reasoning, which says otherwise: an answer without reasoning says nothing.
const otherwise = (byte) => outcome(byte) === 3 && verdict(byte) === false;
const lucky = (byte) => otherwise(byte) && correct(byte);
const RELATIONS = {
  lucky: (x, y) => lucky(x) || lucky(y),
  aConsistent: (x, y) => verdict(x) === true && verdict(y) === false,
  bConsistent: (x, y) => verdict(x) === false && verdict(y) === true,
  apart: (x, y) => responded(x) && responded(y) && correct(x) !== correct(y),
  a: (x, y) => responded(x) && responded(y) && correct(x) && !correct(y),
  b: (x, y) => responded(x) && responded(y) && !correct(x) && correct(y),
  both: (x, y) => responded(x) && responded(y) && correct(x) && correct(y),
  none: (x, y) => responded(x) && responded(y) && !correct(x) && !correct(y),
  picks: (x, y) => responded(x) && responded(y) && picked(x) !== picked(y),
  all: (x, y) => asked(x) || asked(y),
};

// The first is the best run and the second the baseline, or the next run, unless the address says otherwise.
function choosePair() {
  const a = runPlace.has(state.a) ? runPlace.get(state.a) : 0;
  const base = runPlace.has(page.baseline) && runPlace.get(page.baseline) !== a ? runPlace.get(page.baseline) : -1;
  const next = page.runs.findIndex((_, place) => place !== a);
  pair = [a, runPlace.has(state.b) ? runPlace.get(state.b) : Math.max(base >= 0 ? base : next, 0)];
  byId("pair-a").value = page.runs[pair[0]].id;
  byId("pair-b").value = page.runs[pair[1]].id;
}

const small = (p) => (p < 0.0001 ? "< 0.0001" : fixed(p, 4));

function showCounts() {
  const rows = page.levels.map((level) => {
    const counts = paired(...pair, level), test = testPair(counts);
    // Of several samples a question is not right or wrong: it has a mean.
    const single = pair.every((place) => page.runs[place].samples === 1);
    const cells = [counts.both, counts.onlyFirst, counts.onlySecond, counts.neither].map((count) => (single ? number(count) : "–"));
    if (!test) return el("tr", {}, el("th", {scope: "row"}, level), ...Array.from({length: 7}, () => el("td", {className: "num"}, "–")));
    const difference = el("td", {className: "num"}, points(test.mean) + " ", el("span", {className: "range"}, range(test.lo, test.hi)));
    const p = test.p === null ? `not tested, n=${number(test.n)}` : small(test.p);
    const mid = single ? small(mcnemar(counts.onlyFirst, counts.onlySecond).midP) : "–";
    return el("tr", {}, el("th", {scope: "row"}, level), ...cells.map((text) => el("td", {className: "num"}, text)),
      difference, el("td", {className: "num"}, p), el("td", {className: "num"}, mid));
  });
  byId("counts").tBodies[0].replaceChildren(...rows);
}

function showJudged() {
  const rows = page.levels.flatMap((level) => ["consistency", "sound"].map((measure) => {
    const test = pair.every((place) => rated(place, level)) ? testPair(paired(...pair, level, measure)) : null;
    const head = [el("th", {scope: "row"}, level), el("td", {}, measure)];
    if (!test) return el("tr", {}, ...head, ...Array.from({length: 4}, () => el("td", {className: "num"}, "–")));
    const difference = el("td", {className: "num"}, points(test.mean) + (test.open ? "‡ " : " "), el("span", {className: "range"}, range(test.lo, test.hi)));
    const unknown = test.missing ? `${number(test.missing)}: ${points(test.least)} to ${points(test.most)}` : "0";
    const p = test.p === null ? "not tested" : small(test.p);
    return el("tr", {}, ...head, ...[number(test.n), difference, p, unknown].map((cell) => (typeof cell === "string" ? el("td", {className: "num"}, cell) : cell)));
  }));
  byId("judged")?.tBodies[0].replaceChildren(...rows);
}

// The two runs by number: letters name options and tiers.
const SIDES = ["first", "second"];
const badge = (side, title = `the ${SIDES[side]} run`) => el("b", {className: `badge ${SIDES[side]}`, title}, `${side + 1}`);

// Which run, the letter it picked, whether that is right, and whether the reasoning says otherwise.
function mark(byte, side) {
  const text = responded(byte) ? `${picked(byte) || "none"} ${correct(byte) ? "✓" : "✗"}` : OUTCOMES[outcome(byte)];
  const sign = otherwise(byte) && el("span", {className: "otherwise", title: "the reasoning says otherwise"}, "≠");
  return el("span", {className: "mark"}, badge(side), text, sign);
}

function listItem(i) {
  const [a, b] = pair.map((place) => answers[place][i]);
  return el("li", {}, el("button", {type: "button", className: "plain", "data-q": i},
    el("b", {}, bank.ids[i]), el("span", {className: "pair"}, mark(a, 0), mark(b, 1)),
    el("span", {className: "goal"}, goalOf(i))));
}

function extendList() {
  const list = byId("questions"), more = list.querySelector(".more-item");
  const shown = list.querySelectorAll("[data-q]").length;
  more?.remove();
  list.append(...listed.slice(shown, shown + CHUNK).map(listItem));
  const left = listed.length - shown - CHUNK;
  if (left > 0) {
    list.append(el("li", {className: "more-item"},
      el("button", {type: "button", className: "plain more", onclick: extendList}, `${number(left)} more`)));
  }
}

function showList() {
  const [a, b] = pair.map((place) => answers[place]), fits = RELATIONS[state.rel] || RELATIONS[DEFAULTS.rel];
  const words = state.find.toLowerCase().split(/\s+/).filter(Boolean);
  const texts = (i) => [bank.ids[i], questionText(i), ...bank.options[i], bank.videos[bank.video[i]]].join("\n").toLowerCase();
  listed = [];
  for (let i = 0; i < bank.ids.length; i++) {
    if (!fits(a[i], b[i]) || state.group && state.group !== levelOf(i) && state.group !== domainOf(i)) continue;
    if (words.length === 0 || words.every((word) => texts(i).includes(word))) listed.push(i);
  }
  byId("questions").replaceChildren();
  extendList();
  if (listed.length === 0) byId("questions").append(el("li", {className: "quiet"}, "No question fits."));
  byId("q-shown").textContent = `${number(listed.length)} question${listed.length === 1 ? "" : "s"}`;
  markCurrent();
}

// The open question stands out in the list, if it is in it.
function markCurrent() {
  const list = byId("questions");
  list.querySelector("[aria-current]")?.removeAttribute("aria-current");
  const button = state.q ? list.querySelector(`[data-q="${bank.place.get(state.q)}"]`) : null;
  button?.setAttribute("aria-current", "true");
  return button;
}

// One step down (1) or up (-1) from the open question.
function step(by) {
  const at = listed.indexOf(bank.place.get(state.q));
  const to = at < 0 ? 0 : Math.min(Math.max(at + by, 0), listed.length - 1);
  if (listed.length === 0) return;
  while (byId("questions").querySelectorAll("[data-q]").length <= to) extendList();
  openQuestion(listed[to]);
  markCurrent()?.scrollIntoView({block: "nearest"});
}

async function showCompare() {
  await loaded;
  choosePair();
  byId("q-relation").value = state.rel in RELATIONS ? state.rel : DEFAULTS.rel;
  byId("q-group").value = state.group;
  byId("q-find").value = state.find;
  showCounts();
  showJudged();
  showList();
  await showCard();
}

function startCompare() {
  const pick = (changes) => { choose(changes); return showCompare(); };
  byId("pair-a").addEventListener("change", (event) => pick({a: event.target.value, b: page.runs[pair[1]].id}));
  byId("pair-b").addEventListener("change", (event) => pick({a: page.runs[pair[0]].id, b: event.target.value}));
  byId("swap").addEventListener("click", () => pick({a: page.runs[pair[1]].id, b: page.runs[pair[0]].id}));
  byId("q-relation").addEventListener("change", (event) => { choose({rel: event.target.value}); showList(); });
  byId("q-group").addEventListener("change", (event) => { choose({group: event.target.value}); showList(); });
  byId("q-find").addEventListener("input", (event) => { choose({find: event.target.value}); showList(); });
  byId("questions").addEventListener("click", (event) => {
    const button = event.target.closest("[data-q]");
    if (button) openQuestion(Number(button.dataset.q), button);
  });
}
