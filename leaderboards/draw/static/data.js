// What the page carries: the rows' few facts at once; answers, questions and texts unpacked when they are needed.

const page = JSON.parse(byId("data").textContent);
const runPlace = new Map(page.runs.map((run, place) => [run.id, place]));
const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const OUTCOMES = ["not asked", "not answered yet", "failed", "answered", "unparsed", "truncated", "answered, no reasoning"];

async function inflate(id) {
  const packed = atob(byId(id).textContent), bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const inflateJson = async (id) => JSON.parse(new TextDecoder().decode(await inflate(id)));

let bank = null; // columns, one entry a question; see page_payload.py
let answers = []; // for each run a Uint16Array: its byte of layer-outcomes, and the letter picked (1: A) in the upper one
let credits = null; // for each run a Float64Array; null: every answer is right or wrong
let counts = null; // for each run 4 bytes a question, see page_payload.more_layers; null: one answer to each question
const signSums = new SignSums(...page.signs);

const optional = (id) => (byId(id) ? inflate(id) : null);
const layers = ["layer-letters", "layer-credits", "layer-samples"].map(optional);

const loaded = Promise.all([inflateJson("layer-bank"), inflate("layer-outcomes"), ...layers]).then(([columns, bytes, letters, shares, samples]) => {
  const n = columns.ids.length, parts = (all) => page.runs.map((_, place) => all.subarray(place * n, (place + 1) * n));
  // Without a layer of letters the byte holds one of four.
  const letterOf = (byte, i) => (letters ? letters[i] : hasLetter(byte) ? (byte >> 3 & 3) + 1 : 0);
  answers = parts(Uint16Array.from(bytes, (byte, i) => byte | letterOf(byte, i) << 8));
  credits = shares && parts(new Float64Array(shares.buffer));
  counts = samples && page.runs.map((_, place) => samples.subarray(4 * place * n, 4 * (place + 1) * n));
  bank = columns;
  bank.place = new Map(columns.ids.map((id, i) => [id, i]));
  bank.groups = new Map([...page.levels, ...page.domains].map((group) => [group, []]));
  columns.ids.forEach((_, i) => { for (const group of [levelOf(i), domainOf(i)]) bank.groups.get(group)?.push(i); });
});

const outcome = (byte) => byte & 7;
const asked = (byte) => (byte & 7) !== 0;
const responded = (byte) => (byte & 7) >= 3;
const hasLetter = (byte) => (byte & 7) === 3 || (byte & 7) === 6;
const picked = (byte) => (byte >> 8 ? LETTERS[(byte >> 8) - 1] : "");
const correct = (byte) => byte >> 5 & 1;
const verdict = (byte) => [null, false, true][byte >> 6 & 3];

const questionText = (i) => bank.wordings[bank.wording[i]].replaceAll("\u0001", bank.goals[bank.goal[i]]);
const goalOf = (i) => bank.goals[bank.goal[i]];
const levelOf = (i) => bank.levels[bank.level[i]];
const domainOf = (i) => (bank.domain[i] < 0 ? "" : bank.domains[bank.domain[i]]);

const texts = new Map();

// The texts of a run, or in the window of `view` of one of its questions, as columns with an index by question; null if
// there are none.
function textsOf(place, i) {
  const key = page.served ? `${page.served}/texts/${place}/${i}` : `detail-${place}`;
  if (!page.served && !byId(key)) return Promise.resolve(null);
  if (!texts.has(key)) {
    const columns = page.served ? fetched(key) : inflateJson(key);
    texts.set(key, columns.then((found) => found && {...found, at: new Map(found.p.map((question, at) => [question, at]))}));
  }
  return texts.get(key);
}

// The columns; null for an answer that there is none of. What keeps them away is said on the card, and tried again.
async function fetched(key) {
  try {
    const reply = await fetch(key);
    if (reply.ok) return await reply.json();
    if (reply.status === 404) return null;
    return away(key, await reply.text());
  } catch (error) {
    return away(key, `The window's command does not answer (${error.message}). Fix: start it again, and open its new address.`);
  }
}

function away(key, why) {
  texts.delete(key);
  return {p: [], why};
}

// What can be compared: which answers have a value, whether it is a hit, and whether it could be one.
const hasVerdict = (byte) => responded(byte) && verdict(byte) !== null;
const MEASURES = {
  accuracy: {valued: responded, hit: (byte) => correct(byte), most: (byte) => correct(byte)},
  consistency: {valued: hasVerdict, hit: (byte) => +(verdict(byte) === true), most: (byte) => +(verdict(byte) !== false)},
  sound: {valued: hasVerdict, hit: (byte) => correct(byte) & (verdict(byte) === true), most: (byte) => correct(byte) & (verdict(byte) !== false)},
};
const rated = (place, level) => page.runs[place].rated.includes(level);

// An answer's value of a measure with what it is at least and at most, as missing verdicts turn out; settled: none is;
// valued: there is a verdict, of several samples for any of them.
function valueOf(place, i, measure) {
  const byte = answers[place][i], {valued, hit, most} = MEASURES[measure];
  if (measure === "accuracy" && credits) return {value: credits[place][i], least: credits[place][i], most: credits[place][i], settled: true, valued: true};
  if (measure === "accuracy" || !counts) return {value: hit(byte), least: hit(byte), most: most(byte), settled: valued(byte), valued: valued(byte)};
  const [judged, consistent, sound, rightUnjudged] = counts[place].subarray(4 * i, 4 * i + 4), k = page.runs[place].samples;
  const known = measure === "sound" ? sound : consistent, unknown = measure === "sound" ? rightUnjudged : k - judged;
  return {value: known / Math.max(judged, 1), least: known / k, most: (known + unknown) / k, settled: judged === k, valued: judged > 0};
}

// Differences first - second of the questions of a level or an L3 domain that both have answered, with their videos.
// least and most: of all that both have answered, with every missing verdict against the first, and for it.
function paired(first, second, group, measure = "accuracy") {
  const a = answers[first], b = answers[second], {hit} = MEASURES[measure];
  const found = {differences: [], videos: [], asked: [0, 0], both: 0, onlyFirst: 0, onlySecond: 0, neither: 0, answered: 0, missing: 0, least: 0, most: 0};
  for (const i of bank.groups.get(group) || []) {
    if (measure !== "accuracy" && bank.options[i].length === 0) continue; // shown to no judge, so without a verdict by nature
    found.asked[0] += asked(a[i]);
    found.asked[1] += asked(b[i]);
    if (!responded(a[i]) || !responded(b[i])) continue;
    found.answered++;
    // Counts are of full credit, means of all of it.
    const right = hit(a[i]), also = hit(b[i]), x = valueOf(first, i, measure), y = valueOf(second, i, measure);
    found.missing += !(x.settled && y.settled);
    found.least += x.least - y.most;
    found.most += x.most - y.least;
    if (!x.valued || !y.valued) continue;
    found.differences.push(x.value - y.value);
    found.videos.push(bank.video[i]);
    found[right ? (also ? "both" : "onlyFirst") : (also ? "onlySecond" : "neither")]++;
  }
  return found;
}

// Whether what a difference can be is not all on the side of its value; with a tolerance for sums of fractions.
const openSign = (...values) => !(Math.min(...values) > 1e-12 || Math.max(...values) < -1e-12);

// Interval and p of `paired`; p is null where the shared questions are too few of either run's, null if there are none.
function testPair(pair) {
  const n = pair.differences.length;
  if (n === 0) return null;
  const test = pairedInterval(pair.differences, pair.videos);
  const enough = pair.asked.every((of) => pair.answered >= SHARED * of), missing = pair.missing;
  const lo = Math.max(-1, test.lo), hi = Math.min(1, test.hi), least = pair.least / pair.answered, most = pair.most / pair.answered;
  return {...test, lo, hi, missing, least, most, open: missing > 0 && openSign(test.mean, least, most), asked: Math.max(...pair.asked),
    p: enough ? signFlip(pair.differences, pair.videos, signSums) : null};
}
