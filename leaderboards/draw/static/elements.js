// Building blocks of the page. Text goes in as text nodes only: what a model wrote can never become markup.

const byId = (id) => document.getElementById(id);

// An element with properties and children; strings become text, null and false nothing.
function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value; else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== false && child !== ""));
  return node;
}

// An SVG element; the namespace comes from the page's own.
function svg(tag, attributes = {}) {
  const node = document.createElementNS(byId("blank").namespaceURI, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function announce(text) {
  byId("announce").textContent = text;
}

const number = (value) => value.toLocaleString("en-US");

// As Python writes it: a number exactly half-way between two goes to the even one.
function fixed(value, digits) {
  const exact = value.toFixed(60), end = exact.indexOf(".") + 1 + digits; // 60 decimals hold all of what is shown here
  return /^50*$/.test(exact.slice(end)) && /[02468]/.test(exact[end - 1]) ? exact.slice(0, end) : value.toFixed(digits);
}

// 0.041 -> "+4.1", with a true minus sign and no sign for what rounds to zero.
function points(value) {
  const text = fixed(100 * Math.abs(value), 1);
  return text === "0.0" ? text : (value > 0 ? "+" : "\u2212") + text;
}

const range = (lo, hi) => (isNaN(lo) || isNaN(hi) ? "" : `[${points(lo)}, ${points(hi)}]`);

const pText = (p) => (p < 0.001 ? "< 0.001" : "= " + fixed(p, 3));

// A difference with its interval on the scale -half..half, as the server draws it.
function whisker(value, lo, hi, half) {
  const x = (v) => (3 + (Math.min(Math.max(v, -half), half) + half) / (2 * half) * 74).toFixed(1);
  const drawing = svg("svg", {class: "whisker", viewBox: "0 0 80 10", "aria-hidden": "true"});
  drawing.append(
    svg("path", {class: "zero", d: `M${x(0)} 0V10`}),
    svg("path", {class: "span", d: `M${x(lo)} 5H${x(hi)}`}),
    svg("circle", {cx: x(value), cy: 5, r: 2.6}),
  );
  return drawing;
}
