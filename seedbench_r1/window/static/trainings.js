// The page of trainings: what they log is asked for again and again, texts when they are looked at.

const EVERY = 5000; // milliseconds between two questions to the window
let trainings = [], seen = "";
const chosen = {t: 0, g: -1, against: "", q: -1, s: -1}; // training, group, text to differ from, held-out question, its step
const texts = new Map(); // "training/question" -> completions

const current = () => trainings[chosen.t];
const last = (list) => list[list.length - 1];

function fromAddress() {
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
    if (name in chosen) chosen[name] = name === "against" ? value : Number(value);
  }
}

function choose(changes) {
  Object.assign(chosen, changes);
  history.replaceState(null, "", "#" + new URLSearchParams(Object.entries(chosen).filter(([, value]) => value !== "" && value >= 0 || typeof value === "string" && value)));
}

const ago = (seconds) => (seconds < 90 ? `${Math.round(seconds)} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`);

function showList() {
  byId("list").replaceChildren(...trainings.map((training) => {
    const about = [training.algorithm, training.model && `from ${training.model}`].filter(Boolean).join(", ");
    const state = [training.step ? `step ${number(training.step)}` : "no step yet"];
    if (training.epoch !== null) state.push(`epoch ${fixed(training.epoch, 2)}`);
    if (training.seconds !== null) state.push(`${short(training.seconds)} s a step`);
    if (training.checkpoint) state.push(training.checkpoint);
    const written = el("span", {className: "written"});
    written.dataset.changed = training.changed ?? "";
    const alarms = training.alarms.map((text) => el("span", {className: "alarm state"}, text));
    return el("li", {className: training.dashed ? "series dashed" : "series", style: `--c:${training.colour}`}, el("i"), el("b", {}, training.name), " ",
      el("span", {className: "quiet"}, about), el("span", {className: "state"}, state.join(" · "), written), ...alarms,
      training.ended && el("span", {className: "alarm state"}, "ended: it learned nothing any more (alarm.json)"));
  }));
  byId("summary").textContent = trainings.length === 1 ? "One training." : `${trainings.length} trainings.`;
  showTimes();
}

function showTimes() {
  for (const written of document.querySelectorAll(".written")) {
    if (written.dataset.changed) written.textContent = ` · written ${ago(Math.max(0, Date.now() / 1000 - Number(written.dataset.changed)))} ago`;
  }
}

// Replace the options of a list, and choose one; nothing changes if they are the same.
function fill(list, options, value) {
  const same = list.options.length === options.length && options.every(([key, text], k) => list.options[k].value === String(key) && list.options[k].textContent === text);
  if (!same) list.replaceChildren(...options.map(([key, text]) => el("option", {value: key}, text)));
  list.value = String(value);
}

async function textsOf(t, q) {
  const key = `${t}/${q}`;
  if (!texts.has(key)) {
    const reply = await fetch(`${t}/texts/${q}`);
    if (!reply.ok) throw new Error(await reply.text());
    texts.set(key, await reply.json());
  }
  return texts.get(key);
}

// A card is drawn again only when it shows something else: a clip in it may be playing.
function draw(card, key, training, q, line, replies) {
  const shown = JSON.stringify([...key, training.name, training.media[q]]);
  if (card.dataset.shown === shown) return;
  card.replaceChildren(...question(training.questions[q], line, `${chosen.t}/media/${q}`, Number(training.media[q])), el("div", {className: "completions"}, ...replies()));
  card.dataset.shown = shown;
}

function empty(card, text) {
  card.replaceChildren(el("p", {className: "quiet"}, text));
  card.dataset.shown = "";
}

const groupName = (training, [q, step, reward, accuracies]) =>
  `step ${number(step)} · ${training.questions[q]} · reward ${fixed(reward, 2)} · ${accuracies.filter((value) => value > 0.1).length} of ${accuracies.length} right`;

async function showGroup() {
  const training = current(), card = byId("group-card"), groups = training.groups;
  const at = groups.length === 0 ? -1 : chosen.g < 0 || chosen.g >= groups.length ? groups.length - 1 : chosen.g;
  fill(byId("group"), groups.map((group, k) => [k, groupName(training, group)]), at);
  byId("group-back").disabled = at <= 0;
  byId("group-on").disabled = at < 0 || at === groups.length - 1;
  if (at < 0) {
    fill(byId("against"), [["", "nothing"]], "");
    empty(card, "No group has been logged. SFT draws none; --rollout-log-steps 0 logs none.");
    return;
  }
  const t = chosen.t, [q, step] = groups[at], known = await textsOf(t, q), lines = known.rollouts[step];
  if (t !== chosen.t) return; // another one was chosen meanwhile
  // The same question at other steps, where a training has met it more than once, then this group's own rollouts.
  const earlier = Object.keys(known.rollouts).filter((other) => Number(other) !== step);
  const bases = new Map([["", null]]);
  for (const other of earlier) bases.set(`s${other}`, known.rollouts[other]);
  lines.forEach((line, k) => bases.set(`r${k}`, [line]));
  if (!bases.has(chosen.against)) choose({against: ""});
  const names = [["", "nothing"], ...earlier.map((other) => [`s${other}`, `the same place at step ${number(Number(other))}`]), ...lines.map((_, k) => [`r${k}`, `rollout ${k + 1}`])];
  fill(byId("against"), names, chosen.against);
  const base = bases.get(chosen.against);
  const baseOf = (k) => (base === null || chosen.against === `r${k}` ? null : full(base.length === 1 ? base[0] : base[k] || base[0]));
  const replies = () => lines.map((line, k) => completion(`Rollout ${k + 1}`, line, baseOf(k)));
  draw(card, [t, q, step, chosen.against, lines.length], training, q, lines[0], replies);
}

function answerMark(accuracy, consistent) {
  const apart = consistent === false;
  const name = `${accuracy > 0.1 ? "right" : "wrong"}${apart ? ", not consistent" : ""}`;
  return {text: (accuracy > 0.1 ? "✓" : "✗") + (apart ? "≠" : ""), name, kind: apart ? "apart" : accuracy > 0.1 ? "right" : "wrong"};
}

function showAnswers() {
  const training = current(), table = byId("answers"), heldout = training.heldout;
  const steps = [...new Set(heldout.map(([, step]) => step))].sort((a, b) => a - b);
  const rows = new Map();
  for (const [q, step, accuracy, consistent] of heldout) {
    if (!rows.has(q)) rows.set(q, new Map());
    rows.get(q).set(step, answerMark(accuracy, consistent));
  }
  const cell = (q, step, found) => {
    const button = el("button", {type: "button", className: found.kind, title: `${training.questions[q]}, step ${step}: ${found.name}`, "aria-pressed": String(q === chosen.q && step === chosen.s)}, found.text);
    button.dataset.q = q;
    button.dataset.step = step;
    return el("td", {}, button);
  };
  const scroll = [table.parentNode.scrollLeft, table.parentNode.scrollTop];
  table.tHead.replaceChildren(el("tr", {}, el("th", {scope: "col"}, "Question"), ...steps.map((step) => el("th", {scope: "col", className: "num"}, number(step)))));
  table.tBodies[0].replaceChildren(...[...rows].map(([q, found]) => el("tr", {}, el("th", {scope: "row"}, training.questions[q]),
    ...steps.map((step) => (found.has(step) ? cell(q, step, found.get(step)) : el("td", {}))))));
  [table.parentNode.scrollLeft, table.parentNode.scrollTop] = scroll;
  if (rows.size === 0) table.tBodies[0].replaceChildren(el("tr", {}, el("td", {className: "quiet"}, "None yet. --eval-every N asks some after every N steps.")));
}

async function showAnswer() {
  const training = current(), card = byId("answer-card"), t = chosen.t, {q, s} = chosen;
  if (q < 0 || !training.heldout.some(([other, step]) => other === q && step === s)) {
    empty(card, "");
    return;
  }
  const known = await textsOf(t, q), steps = Object.keys(known.heldout).map(Number).sort((a, b) => a - b), [line] = known.heldout[s];
  const before = last(steps.filter((step) => step < s));
  if (t !== chosen.t || q !== chosen.q || s !== chosen.s) return;
  const [earlier] = before === undefined ? [] : known.heldout[before];
  const replies = () => (earlier ? [
    completion(`Step ${number(before)}`, earlier, null),
    completion(`Step ${number(s)}, against step ${number(before)}`, line, full(earlier)),
  ] : [completion(`Step ${number(s)}`, line, null)]);
  draw(card, [t, q, s], training, q, line, replies);
}

function trouble(text) {
  byId("trouble").hidden = text === "";
  byId("trouble").textContent = text;
}

async function show() {
  if (!current()) choose({t: 0});
  for (const list of document.querySelectorAll(".which")) fill(list, trainings.map((training, k) => [k, training.name]), chosen.t);
  showList();
  showCurves(trainings);
  showAnswers();
  await Promise.all([showGroup(), showAnswer()]);
}

// What has been shown stays on the page when the window cannot be asked.
async function ask() {
  try {
    const reply = await fetch(`state?seen=${seen}`);
    if (reply.status === 200) {
      const found = await reply.json();
      seen = found.state;
      trainings = found.trainings;
      texts.clear();
      if (trainings.length > 0) await show(); else byId("summary").textContent = "No training has begun.";
    } else if (reply.status !== 204) throw new Error(await reply.text());
    trouble("");
  } catch (error) {
    trouble(error instanceof TypeError ? "The window's command does not answer. Start it again, and open its new address." : error.message);
  }
  showTimes();
  document.documentElement.dataset.ready = "yes";
}

async function follow() {
  if (!document.hidden) await ask();
  setTimeout(follow, EVERY);
}

const act = (changes) => { choose(changes); show().catch((error) => trouble(error.message)); };

document.documentElement.classList.add("scripted");
fromAddress();
for (const list of document.querySelectorAll(".which")) list.addEventListener("change", () => act({t: Number(list.value), g: -1, against: "", q: -1, s: -1}));
byId("group").addEventListener("change", (event) => act({g: Number(event.target.value)}));
byId("group-back").addEventListener("click", () => act({g: byId("group").selectedIndex - 1}));
byId("group-on").addEventListener("click", () => act({g: byId("group").selectedIndex + 1}));
byId("against").addEventListener("change", (event) => act({against: event.target.value}));
byId("answers").addEventListener("click", (event) => {
  const button = event.target.closest("[data-q]");
  if (button) act({q: Number(button.dataset.q), s: Number(button.dataset.step)});
});
for (const link of document.querySelectorAll('nav a[href^="#"]')) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    document.querySelector(link.getAttribute("href")).scrollIntoView();
  });
}
document.addEventListener("visibilitychange", () => { if (!document.hidden) ask(); });
follow();
