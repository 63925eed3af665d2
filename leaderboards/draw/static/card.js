// One question with what both runs said about it.

const LONG = 600; // characters of reasoning shown before "show all"
let opener = null; // what to return the focus to

function stateLine(byte, text) {
  const parts = [OUTCOMES[outcome(byte)]];
  if (picked(byte)) parts.push(`picked ${picked(byte)}`, correct(byte) ? "right" : "wrong");
  if (text && text.t !== null) parts.push(`${number(text.t)} tokens`);
  if (text && text.s !== null) parts.push(`${text.s} s`);
  return parts.join(" · ");
}

// A run's text on a question: {r, x, a, t, s, v, k, m}, in the window of `view` with what probes made of it; null if the
// page does not carry it.
async function textOf(place, i) {
  const columns = await textsOf(place, i), at = columns?.at.get(i);
  if (at === undefined && !columns?.why) return null;
  const of = (name) => (at === undefined ? null : columns[name][at]);
  return {...Object.fromEntries([..."rxatsvkm"].map((name) => [name, of(name)])), probes: columns.probes || [], why: columns.why};
}

// settles: where the sentence stands that settles on an option.
function passage(text, settles = null) {
  const marked = settles ? [text.slice(0, settles[0]), el("mark", {title: "The sentence that settles on an option"}, text.slice(...settles)), text.slice(settles[1])] : [text];
  const block = el("pre", {}, ...marked), parts = [block];
  if (text.length > LONG) {
    block.classList.add("clipped");
    const button = el("button", {type: "button", className: "plain", "aria-expanded": "false"}, `Show all ${number(text.length)} characters`);
    button.addEventListener("click", () => {
      const clipped = block.classList.toggle("clipped");
      button.setAttribute("aria-expanded", String(!clipped));
      button.textContent = clipped ? `Show all ${number(text.length)} characters` : "Show less";
    });
    parts.push(button);
  }
  return parts;
}

// The same sentence in the whole output, which holds the reasoning.
function inOutput({r, x, m}) {
  const at = m && r ? x.indexOf(r) : -1;
  return at < 0 ? null : [at + m[0], at + m[1]];
}

function verdictLine(byte, text) {
  const word = {true: "consistent", false: "not consistent", null: "no verdict"}[verdict(byte)];
  if (verdict(byte) === null && !(text && text.v)) return null;
  const votes = text && text.k ? ` (votes ${text.k})` : "";
  return el("p", {className: "verdict"}, el("b", {}, `Judge: ${word}`), votes, text && text.v ? ` – ${text.v}` : "");
}

function probeLines(probes) {
  if (probes.length === 0) return null;
  const line = ([name, said, changed]) => el("li", {}, el("b", {}, name), ` ${said}`,
    changed !== "" && el("details", {}, el("summary", {}, "what was shown"), el("pre", {}, changed)));
  return el("ul", {className: "probed", "aria-label": "Probes"}, ...probes.map(line));
}

function reply(side, place, byte, text) {
  const body = [];
  if (text?.why) body.push(el("p", {className: "quiet"}, text.why));
  else if (!text) body.push(el("p", {className: "quiet"}, asked(byte) && responded(byte) ? "This page does not carry the text of this response." : ""));
  else if (text.x !== null) body.push(...passage(text.x || "(empty output)", inOutput(text)));
  else body.push(...passage(text.r || "(no reasoning)", text.m), el("p", {}, "Answer: ", el("b", {}, text.a)));
  return el("div", {className: "reply"},
    el("h4", {}, badge(side), " ", page.runs[place].name),
    el("p", {className: "state"}, stateLine(byte, text)), ...body, verdictLine(byte, text), text && probeLines(text.probes));
}

function optionItem(i, k, bytes) {
  const letter = LETTERS[k], gold = bank.gold[i] === letter;
  const marks = el("span", {className: "marks"});
  if (gold) marks.append(el("span", {className: "gold-mark"}, "✓ gold"));
  bytes.forEach((byte, side) => {
    if (picked(byte) === letter) marks.append(badge(side, `picked by the ${SIDES[side]} run`));
  });
  return el("li", {className: gold ? "gold" : ""}, el("span", {}, letter), el("span", {}, bank.options[i][k]), marks);
}

// The card as Markdown, for an issue or a note.
function markdown(i, bytes, replies) {
  const quote = (text) => text.split("\n").map((line) => `> ${line}`).join("\n");
  const options = bank.options[i].map((text, k) => `- ${LETTERS[k]}. ${text}${bank.gold[i] === LETTERS[k] ? " **(gold)**" : ""}`);
  const parts = replies.map((text, side) => [
    `**${side + 1}: ${page.runs[pair[side]].name}** (${stateLine(bytes[side], text)})`,
    text ? quote(text.x !== null ? text.x : text.r || "") : "> (text not in the report)",
  ].join("\n\n"));
  return [`### ${bank.ids[i]}`, questionText(i), options.join("\n"), ...parts].join("\n\n") + "\n";
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    announce("Copied");
    return true;
  } catch {
    byId("copied-text").value = text;
    byId("copied").showModal();
    byId("copied-text").select();
    if (!document.execCommand("copy")) return false;
    byId("copied").close();
    announce("Copied");
    return true;
  }
}

// In the window of `view`: the clip itself, its sampled frames and the view, served next to the page.
function served(i) {
  const figure = el("figure", {className: "media"});
  fetched(`${page.served}/media/${i}`).then((found) => figure.replaceChildren(...mediaOf(i, found)));
  return figure; // the texts do not wait for the disk that holds the clips
}

function mediaOf(i, found) {
  const has = found?.media;
  if (!has) return [el("p", {className: "quiet"}, found?.why || "Its clip and view are not where the run found them, or no browser shows them.")];
  const clip = has & 1 && el("video", {controls: true, preload: "metadata", src: `${page.served}/media/${i}/clip`, title: "The clip"});
  const frames = has & 1 && el("img", {className: "strip-of-frames", alt: "The sampled frames, in order", src: `${page.served}/media/${i}/frames`});
  const view = has & 2 && el("img", {className: "view", alt: "The current view", src: `${page.served}/media/${i}/view`});
  return [clip, view, frames].filter(Boolean);
}

// What the models saw: the sampled frames in order, and the current view; nothing where the page carries neither.
const pictures = byId("pictures") ? JSON.parse(byId("pictures").textContent) : {};
function media(i) {
  if (page.served) return served(i);
  const [strip, view, frames] = pictures[i] || ["", "", 0];
  const picture = (text, alt, className) => text && el("img", {className, alt, src: `data:image/webp;base64,${text}`, loading: "lazy"});
  if (!strip && !view) return null;
  return el("figure", {className: "media"}, picture(strip, `${frames} frames of the clip, in order`, "strip-of-frames"), picture(view, "The current view", "view"),
    el("figcaption", {}, [strip && `${frames} frames of the clip, in order`, view && "the current view"].filter(Boolean).join("; ")));
}

async function showCard() {
  const card = byId("card"), i = bank.place.get(state.q);
  if (i === undefined) {
    card.replaceChildren(el("p", {className: "quiet hint"}, "Choose a question, or press ", el("kbd", {}, "j"), " for the first."));
    return;
  }
  const sides = pair.slice(), bytes = sides.map((place) => answers[place][i]);
  const replies = await Promise.all(sides.map((place) => textOf(place, i)));
  if (state.q !== bank.ids[i] || sides.some((place, side) => place !== pair[side])) return; // another one was opened meanwhile
  const button = el("button", {type: "button"}, "Copy as Markdown");
  button.addEventListener("click", async () => {
    button.textContent = await copy(markdown(i, bytes, replies)) ? "Copied" : "Copy as Markdown";
  });
  const steps = bank.progress[i] ? bank.progress[i].split("\n") : [];
  const parts = [
    el("div", {className: "card-head"}, el("h3", {}, bank.ids[i]),
      el("span", {className: "quiet"}, [domainOf(i), `video ${bank.videos[bank.video[i]]}`].filter(Boolean).join(" · ")), button),
    media(i),
    el("p", {}, questionText(i)),
    steps.length > 0 && el("p", {className: "quiet"}, "Done so far:"),
    steps.length > 0 && el("ol", {className: "progress", "aria-label": "Steps done so far"}, ...steps.map((step) => el("li", {}, step))),
    bank.options[i].length > 0 ? el("ol", {className: "options"}, ...bank.options[i].map((_, k) => optionItem(i, k, bytes)))
      : el("p", {}, "Right answer: ", el("b", {}, bank.gold[i])),
    el("div", {className: "replies"}, ...sides.map((place, side) => reply(side, place, bytes[side], replies[side]))),
  ];
  card.replaceChildren(...parts.filter(Boolean)); // which would write out what is not there
  card.dataset.q = bank.ids[i];
}

function openQuestion(i, from = null) {
  if (from) opener = from;
  choose({q: bank.ids[i]});
  announce(`Question ${bank.ids[i]}`);
  markCurrent();
  return showCard();
}

function closeQuestion() {
  const back = markCurrent() || opener;
  choose({q: ""});
  markCurrent();
  showCard();
  back?.focus();
}
