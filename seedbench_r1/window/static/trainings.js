// The page of trainings: what they log is asked for again and again, texts when they are looked at.

const EVERY = 5000; // milliseconds between two questions to the window
const PATIENCE = 60000; // milliseconds for an answer: a tunnel may be dead without a word
let trainings = [], seen = "";
// Training; group, "step/question", "": the last; text to differ from; held-out question and its step. Questions are keys.
const CHOICES = {t: "0", g: "", against: "", q: "", s: ""};
const chosen = {...CHOICES};
const texts = new Map(); // "training/question" -> completions, until something changes

const current = () => (/^\d+$/.test(chosen.t) ? trainings[chosen.t] : undefined);

function fromAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(CHOICES)) chosen[name] = given.get(name) || CHOICES[name];
}

function choose(changes) {
  Object.assign(chosen, changes);
  const told = Object.entries(chosen).filter(([name, value]) => value !== CHOICES[name]);
  history.replaceState(null, "", "#" + new URLSearchParams(told));
}

const ago = (seconds) => (seconds < 90 ? `${Math.round(seconds)} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`);

function listItem(training) {
  const head = [el("i"), el("b", {}, training.name), " "];
  const look = {className: training.dashed ? "series dashed" : "series", style: `--c:${training.colour}`};
  if (training.error) return el("li", look, ...head, el("span", {className: "alarm state"}, training.error));
  const about = [training.algorithm, training.model && `from ${training.model}`].filter(Boolean).join(", ");
  const state = [training.step ? `step ${number(training.step)}` : "no step yet"];
  if (training.epoch !== null) state.push(`epoch ${fixed(training.epoch, 2)}`);
  if (training.seconds !== null) state.push(`${short(training.seconds)} s a step`);
  if (training.checkpoint) state.push(training.checkpoint);
  const written = el("span", {className: "written"});
  written.dataset.changed = training.changed ?? "";
  const alarms = training.alarms.map((text) => el("span", {className: "alarm state"}, text));
  return el("li", look, ...head, el("span", {className: "quiet"}, about), el("span", {className: "state"}, state.join(" · "), written), ...alarms,
    training.ended !== "" && el("span", {className: "alarm state"}, `ended: ${training.ended}`));
}

function showList() {
  byId("list").replaceChildren(...trainings.map(listItem));
  byId("summary").textContent = trainings.length === 1 ? "One training." : `${trainings.length} trainings.`;
  for (const list of document.querySelectorAll(".which")) fill(list, trainings.map((training, k) => [String(k), training.name]), chosen.t);
  showTimes();
}

function showTimes() {
  for (const written of document.querySelectorAll(".written")) {
    if (written.dataset.changed) written.textContent = ` · written ${ago(Math.max(0, Date.now() / 1000 - Number(written.dataset.changed)))} ago`;
  }
}

// Replace the options of a list, and choose one; nothing changes if they are the same.
function fill(list, options, value) {
  const same = list.options.length === options.length && options.every(([key, text], k) => list.options[k].value === key && list.options[k].textContent === text);
  if (!same) list.replaceChildren(...options.map(([key, text]) => el("option", {value: key}, text)));
  list.value = value;
}

// The window's reply; an Error with what it says where it refuses, or with how to mend it where it does not answer.
async function asked(address) {
  let reply;
  try {
    reply = await fetch(address, {signal: AbortSignal.timeout(PATIENCE)});
  } catch (error) {
    throw new Error(`The window's command does not answer (${error.message}). Fix: start it again, and open its new address.`);
  }
  if (!reply.ok && reply.status !== 404) throw new Error(await reply.text());
  return reply;
}

// null for a question that a log does not hold any more.
function textsOf(t, q) {
  const key = `${t}/${q}`;
  if (!texts.has(key)) {
    const coming = asked(`${t}/texts/${q}`).then((reply) => (reply.ok ? reply.json() : null));
    texts.set(key, coming);
    coming.catch(() => { if (texts.get(key) === coming) texts.delete(key); });
  }
  return texts.get(key);
}

const isRight = (accuracy) => accuracy > 0.1;

const groupName = (training, [step, q, reward, accuracies]) =>
  `step ${number(step)} · ${training.questions[q][0]} · reward ${fixed(reward, 2)} · ${accuracies.filter(isRight).length} of ${accuracies.length} right`;

// A card is drawn again only when it shows something else: a clip in it may be playing.
function draw(card, key, training, q, line, replies) {
  const [name, media] = training.questions[q], shown = JSON.stringify([chosen.t, training.begun, q, media, ...key]);
  if (card.dataset.shown === shown) return;
  card.replaceChildren(...question(name, line, `${chosen.t}/media/${q}`, media), el("div", {className: "completions"}, ...replies()));
  card.dataset.shown = shown;
}

function empty(card, text) {
  card.replaceChildren(el("p", {className: "quiet"}, text));
  card.dataset.shown = "";
}

// A card waits for its texts; one that was asked for later takes its place.
const turns = new Map();
async function inTurn(card, t, q, show) {
  const turn = (turns.get(card) || 0) + 1;
  turns.set(card, turn);
  const known = q ? await textsOf(t, q) : null;
  if (turns.get(card) === turn) show(known);
}

const keyOf = ([step, q]) => `${step}/${q}`;

function place(groups) {
  const at = groups.findIndex((group) => keyOf(group) === chosen.g);
  return at < 0 ? groups.length - 1 : at;
}

async function showGroup() {
  const training = current(), card = byId("group-card"), {groups} = training, at = place(groups);
  fill(byId("group"), groups.map((group) => [keyOf(group), groupName(training, group)]), at < 0 ? "" : keyOf(groups[at]));
  byId("group-back").disabled = at <= 0;
  byId("group-on").disabled = at < 0 || at === groups.length - 1;
  const [step, q] = at < 0 ? [] : groups[at];
  await inTurn(card, chosen.t, q, (known) => {
    const lines = known?.rollouts[step];
    if (!lines) {
      fill(byId("against"), [["", "nothing"]], "");
      empty(card, "No group has been logged. SFT draws none; --rollout-log-steps 0 logs none.");
      return;
    }
    // The same question at other steps, where a training has met it more than once, then this group's own rollouts.
    const others = Object.keys(known.rollouts).filter((other) => Number(other) !== step);
    const names = [["", "nothing"], ...others.map((other) => [`s${other}`, `the same place at step ${number(Number(other))}`]), ...lines.map((_, k) => [`r${k}`, `rollout ${k + 1}`])];
    if (!names.some(([name]) => name === chosen.against)) choose({against: ""});
    fill(byId("against"), names, chosen.against);
    const {against} = chosen, there = against.startsWith("s") ? known.rollouts[against.slice(1)] : null;
    const baseOf = (k) => (against === "" || against === `r${k}` ? null : full(there ? there[k] || there[0] : lines[Number(against.slice(1))]));
    draw(card, [step, against, lines.length], training, q, lines[0], () => lines.map((line, k) => completion(`Rollout ${k + 1}`, line, baseOf(k))));
  });
}

function answerMark([accuracy, consistent]) {
  const right = isRight(accuracy), apart = consistent === false;
  return {text: (right ? "✓" : "✗") + (apart ? "≠" : ""), name: `${right ? "right" : "wrong"}${apart ? ", not consistent" : ""}`, kind: apart ? "apart" : right ? "right" : "wrong"};
}

function answerCell(training, q, step, answer) {
  if (answer === null) return el("td");
  const {text, name, kind} = answerMark(answer);
  const button = el("button", {type: "button", className: kind, title: `${training.questions[q][0]}, step ${step}: ${name}`, "aria-pressed": "false"}, text);
  button.dataset.q = q;
  button.dataset.step = step;
  return el("td", {}, button);
}

function showAnswers() {
  const training = current(), table = byId("answers"), {steps, rows, questions, all_steps: all} = training.heldout || {steps: [], rows: [], questions: 0, all_steps: 0};
  // The same table is left alone: somebody may be going through it by keys.
  const shown = JSON.stringify([chosen.t, training.begun, training.heldout, training.name]);
  if (table.dataset.shown === shown) { showPressed(); return; }
  table.dataset.shown = shown;
  const scroll = [table.parentNode.scrollLeft, table.parentNode.scrollTop], focus = document.activeElement?.dataset;
  table.tHead.replaceChildren(el("tr", {}, el("th", {scope: "col"}, "Question"), ...steps.map((step) => el("th", {scope: "col", className: "num"}, number(step)))));
  table.tBodies[0].replaceChildren(...rows.map(([q, answers]) => el("tr", {}, el("th", {scope: "row"}, training.questions[q][0]),
    ...answers.map((answer, k) => answerCell(training, q, steps[k], answer)))));
  [table.parentNode.scrollLeft, table.parentNode.scrollTop] = scroll;
  if (rows.length === 0) table.tBodies[0].replaceChildren(el("tr", {}, el("td", {className: "quiet"}, "None yet. --eval-every N asks some after every N steps.")));
  byId("answers-note").textContent = rows.length < questions || steps.length < all ? `Shown: ${rows.length} of ${number(questions)} questions, ${steps.length} of ${number(all)} steps.` : "";
  showPressed();
  if (focus?.q) table.querySelector(`[data-q="${focus.q}"][data-step="${focus.step}"]`)?.focus({preventScroll: true});
}

function showPressed() {
  for (const button of byId("answers").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.q === chosen.q && button.dataset.step === chosen.s));
  }
}

async function showAnswer() {
  const training = current(), card = byId("answer-card"), {q, s} = chosen;
  await inTurn(card, chosen.t, Object.hasOwn(training.questions, q) ? q : "", (known) => {
    if (!known?.heldout[s]) {
      empty(card, "");
      return;
    }
    const [line] = known.heldout[s], earlier = Object.keys(known.heldout).map(Number).filter((step) => step < Number(s));
    const before = earlier.length ? Math.max(...earlier) : null, [former] = before === null ? [] : known.heldout[before];
    const replies = () => (former ? [
      completion(`Step ${number(before)}`, former, null),
      completion(`Step ${number(Number(s))}, against step ${number(before)}`, line, full(former)),
    ] : [completion(`Step ${number(Number(s))}`, line, null)]);
    draw(card, [s], training, q, line, replies);
  });
}

function trouble(text) {
  byId("trouble").hidden = text === "";
  byId("trouble").textContent = text;
}

// Draw some parts; what keeps one away is said, and what has been shown stays.
async function show(...parts) {
  try {
    if (!current()) choose(CHOICES);
    for (const part of parts) if (current()) await part();
    trouble("");
    return true;
  } catch (error) {
    trouble(error.message);
    return false;
  }
}

const everything = [showList, () => showCurves(trainings), showAnswers, showGroup, showAnswer];

async function ask() {
  try {
    const reply = await asked(`state?seen=${seen}`);
    if (reply.status !== 204) {
      const found = await reply.json();
      trainings = found.trainings;
      texts.clear();
      if (trainings.length === 0) byId("summary").textContent = "No training has begun.";
      // What could not be shown is asked for again.
      seen = await show(...everything) ? found.state : "";
    } else trouble("");
  } catch (error) {
    trouble(error.message);
  }
  showTimes();
  document.documentElement.dataset.ready = "yes";
}

async function follow() {
  if (!document.hidden) await ask();
  setTimeout(follow, EVERY);
}

function step(by) {
  const groups = current()?.groups || [], to = groups[place(groups) + by];
  if (to) act({g: keyOf(to)}, showGroup);
}

function act(changes, ...parts) {
  choose(changes);
  return show(...parts);
}

document.documentElement.classList.add("scripted");
fromAddress();
for (const list of document.querySelectorAll(".which")) {
  list.addEventListener("change", () => act({...CHOICES, t: list.value}, showList, showAnswers, showGroup, showAnswer));
}
byId("group").addEventListener("change", (event) => act({g: event.target.value}, showGroup));
byId("group-back").addEventListener("click", () => step(-1));
byId("group-on").addEventListener("click", () => step(1));
byId("against").addEventListener("change", (event) => act({against: event.target.value}, showGroup));
byId("answers").addEventListener("click", (event) => {
  const button = event.target.closest("[data-q]");
  if (button) act({q: button.dataset.q, s: button.dataset.step}, showPressed, showAnswer);
});
for (const link of document.querySelectorAll('nav a[href^="#"]')) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    document.querySelector(link.getAttribute("href")).scrollIntoView();
  });
}
window.addEventListener("hashchange", () => { fromAddress(); show(...everything); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) ask(); });
follow();
