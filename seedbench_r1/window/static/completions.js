// A question with completions: of a group, or one held-out answer and the one before it.

const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const signed = (value) => (value < 0 ? "\u2212" : "+") + fixed(Math.abs(value), 2);
const full = (line) => (line.opened || "") + (line.text || "");
const isNumber = (value) => typeof value === "number";

// Text as it is, or against another one.
function written(line, against) {
  const parts = against === null ? null : differences(against, full(line));
  if (parts === null) return el("pre", {}, full(line) || "(empty)");
  const tags = {same: "span", new: "ins", gone: "del"};
  return el("pre", {}, ...parts.map(({text, kind}) => el(tags[kind], {}, text)));
}

// [words, value] of what a line says besides its text; earlier versions said less.
function facts(line) {
  const found = [];
  const add = (name, value, digits) => { if (isNumber(value)) found.push([name, fixed(value, digits)]); };
  add("reward", line.reward, 2);
  add("accuracy", line.accuracy, 2);
  add("format", line.format, 0);
  add("bonus", line.bonus, 2);
  for (const [name, value] of Object.entries(line.rewards || {})) add(name, value, 2);
  add("likelihood", line.likelihood, 3);
  if (isNumber(line.advantage)) found.push(["advantage", signed(line.advantage)]);
  if ("consistent" in line) found.push(["consistent by rules", {true: "yes", false: "no"}[line.consistent] || "undecided"]);
  if (isNumber(line.tokens)) found.push(["tokens", number(line.tokens)]);
  if (line.finish_reason === "length") found.push(["cut at the limit", "yes"]);
  return found;
}

function completion(title, line, against) {
  const parts = facts(line).map(([name, value]) => el("li", {}, `${name} `, el("b", {}, value)));
  return el("div", {className: line.accuracy > 0.1 ? "reply good" : "reply"},
    el("h4", {}, title), el("ul", {className: "parts"}, ...parts), written(line, against),
    !!line.regenerated && el("p", {className: "quiet"}, "With the answer by the reference:"),
    !!line.regenerated && el("pre", {}, line.regenerated));
}

function question(id, line, address, has) {
  const gold = (k) => line.gold === LETTERS[k];
  const options = (line.options || []).map((text, k) => el("li", {className: gold(k) ? "gold" : ""},
    el("span", {}, LETTERS[k]), el("span", {}, text), el("span", {className: "marks"}, gold(k) ? el("span", {className: "gold-mark"}, "✓ gold") : "")));
  const clip = has & 1 && el("video", {controls: true, preload: "metadata", src: `${address}/clip`, title: "The clip"});
  const view = has & 2 && el("img", {className: "view", alt: "The current view", src: `${address}/view`});
  const media = has ? el("figure", {className: "media"}, clip || null, view || null)
    : el("p", {className: "quiet"}, "Its clip and view are not where the training found them, or no browser shows them.");
  return [el("h3", {}, id), media, el("p", {}, line.question || ""),
    options.length ? el("ol", {className: "options"}, ...options) : line.gold ? el("p", {}, "Right answer: ", el("b", {}, line.gold)) : ""];
}
