// Curves of several trainings in small multiples.

const WIDTH = 340, HEIGHT = 190, LEFT = 48, RIGHT = 332, TOP = 8, BOTTOM = 162;
const WINDOW = 15; // points of the running mean

// Round numbers from at or below the least to at or above the most.
function scale(values, from, to, whole = false) {
  let lo = Math.min(...values), hi = Math.max(...values);
  const size = Math.max(Math.abs(lo), Math.abs(hi));
  // What differs by rounding alone is a flat line; a step between ticks could not be counted in it.
  if (!(hi - lo > Math.max(1e-9 * size, 1e-300))) [lo, hi] = size < 1e-300 ? [0, 1] : [lo - size / 2, hi + size / 2];
  const rough = (hi - lo) / 4, power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 5, 10].find((times) => times * power >= rough) * power || rough;
  if (whole) step = Math.max(1, Math.round(step));
  const first = Math.floor(lo / step), count = Math.min(12, Math.ceil(hi / step - first - 1e-3) + 1);
  const ticks = Array.from({length: Math.max(2, count)}, (_, k) => (first + k) * step);
  const [low, high] = [ticks[0], ticks[ticks.length - 1]];
  // As many digits as two ticks differ in.
  const digits = Math.min(15, Math.max(2, Math.ceil(Math.log10(Math.max(-low, high) / step)) + 1));
  return {ticks, label: (value) => short(value, digits), at: (value) => from + (value - low) / (high - low) * (to - from)};
}

function short(value, digits = 3) {
  const rounded = Number(value.toPrecision(digits));
  return rounded !== 0 && (Math.abs(rounded) < 0.001 || Math.abs(rounded) >= 1e6) ? rounded.toExponential() : String(rounded);
}

function running(points) {
  return points.map(([step], k) => {
    const near = points.slice(Math.max(0, k - WINDOW + 1), k + 1);
    return [step, near.reduce((sum, [, value]) => sum + value, 0) / near.length];
  });
}

const line = (points, x, y) => points.map(([step, value], k) => `${k ? "L" : "M"}${x.at(step).toFixed(1)} ${y.at(value).toFixed(1)}`).join("");

// One panel: curves is [{name, colour, dashed, points}].
function panel(title, curves) {
  const every = curves.flatMap((curve) => curve.points);
  const x = scale([0, ...every.map(([step]) => step)], LEFT, RIGHT, true), y = scale(every.map(([, value]) => value), BOTTOM, TOP);
  const ends = curves.map(({name, points}) => `${name} ${short(points[0][1])} to ${short(points[points.length - 1][1])}`);
  const drawing = svg("svg", {class: "chart curves", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title} by step: ${ends.join("; ")}`});
  for (const tick of y.ticks) {
    const label = svg("text", {class: "tick", x: LEFT - 6, y: y.at(tick) + 4, "text-anchor": "end"});
    label.textContent = y.label(tick);
    drawing.append(svg("path", {class: "grid", d: `M${LEFT} ${y.at(tick)}H${RIGHT}`}), label);
  }
  for (const tick of x.ticks) {
    const label = svg("text", {class: "tick", x: x.at(tick), y: 180, "text-anchor": x.at(tick) > 325 ? "end" : "middle"});
    label.textContent = x.label(tick);
    drawing.append(label);
  }
  for (const {name, colour, dashed, points} of [...curves].reverse()) {
    const group = svg("g", {class: dashed ? "series dashed" : "series", style: `--c:${colour}`}), hint = svg("title");
    hint.textContent = name;
    const smooth = points.length > 2 * WINDOW ? running(points) : points;
    group.append(hint, svg("path", {d: line(smooth, x, y)}));
    if (smooth !== points) group.append(svg("path", {class: "faint", d: line(points, x, y)}));
    const [step, value] = smooth[smooth.length - 1];
    group.append(svg("circle", {cx: x.at(step), cy: y.at(value), r: 2.6}));
    drawing.append(group);
  }
  return el("figure", {}, el("figcaption", {}, title), drawing);
}

// A panel for each curve that any training has, in the order of the first that has it.
function showCurves(trainings) {
  const titles = new Map(trainings.flatMap((training) => training.curves.map((curve) => [curve.name, curve.title])));
  const panels = [...titles].map(([name, title]) => panel(title, trainings.flatMap((training) => {
    const found = training.curves.find((curve) => curve.name === name);
    return found ? [{name: training.name, colour: training.colour, dashed: training.dashed, points: found.points}] : [];
  })));
  byId("panels").replaceChildren(...(panels.length ? panels : [el("p", {className: "quiet"}, "No step has ended yet.")]));
}
