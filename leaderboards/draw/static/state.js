// What the reader has chosen lives in the address after #, so that a link shows the same page.

const DEFAULTS = {
  sort: "rank", dir: "", base: page.baseline || "", text: "", algo: "", backbone: "", frames: "", protocol: "", only: "",
  show: "", bars: page.level, a: "", b: "", rel: page.judged ? "lucky" : "apart", group: "", find: "", q: "",
};
const state = {...DEFAULTS};

// The state in the address. An address that names a section leaves the state as it is.
function readAddress() {
  const hash = location.hash.slice(1), given = new URLSearchParams(hash);
  if (hash && !hash.includes("=")) return;
  for (const name of Object.keys(DEFAULTS)) state[name] = given.has(name) ? given.get(name) : DEFAULTS[name];
  for (const name of ["base", "a", "b"]) if (!runPlace.has(state[name])) state[name] = "";
}

function writeAddress() {
  const parts = Object.keys(DEFAULTS)
    .filter((name) => state[name] !== DEFAULTS[name])
    .map((name) => `${name}=${encodeURIComponent(state[name]).replaceAll("%2F", "/")}`);
  history.replaceState(null, "", "#" + parts.join("&"));
}

const has = (name, word) => state[name].split(",").includes(word);

// Change some of the state and the address.
function choose(changes) {
  Object.assign(state, changes);
  writeAddress();
}

// Switch a word of a list such as show=domains,run.
function toggle(name, word, on) {
  const words = state[name].split(",").filter((other) => other && other !== word);
  choose({[name]: (on ? [...words, word] : words).join(",")});
}
