// What all plots share: scales, axes, a figure that follows its width.

/** Returns round numbers from about `low` to about `high`; they cover both. */
function ticks(low, high, count = 5) {
  if (low === high) [low, high] = [low - 0.5, high + 0.5];
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((f) => f * power).find((size) => size >= rough * 0.999);
  const first = Math.floor(low / step + 1e-9);
  const last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

/** Returns as many decimals as the distance of ticks needs. */
function decimals(values) {
  const step = values.length > 1 ? values[1] - values[0] : 1;
  return [0, 1, 2, 3, 4].find((d) => Math.abs(step * 10 ** d - Math.round(step * 10 ** d)) < 1e-6)
    ?? 5;
}

function scale([low, high], [from, to]) {
  return (value) => from + ((value - low) / (high - low || 1)) * (to - from);
}

/** Draws horizontal grid lines with their values at the left. */
function leftAxis(values, y, left, right, { sign = false } = {}) {
  const digits = decimals(values);
  return svg("g", { class: "axis", "aria-hidden": true }, values.map((value) => [
    svg("line", {
      x1: left, x2: right, y1: y(value), y2: y(value),
      class: Math.abs(value) < 1e-9 ? "zero" : "grid",
    }),
    svg("text", { x: left - 8, y: y(value), dy: "0.32em", "text-anchor": "end" },
      sign ? signed(value, digits) : number(value, digits)),
  ]));
}

/** Draws values below a plot. */
function bottomAxis(values, x, top, bottom, { grid = true } = {}) {
  const digits = decimals(values);
  return svg("g", { class: "axis", "aria-hidden": true }, values.map((value) => [
    svg("line", {
      x1: x(value), x2: x(value), y1: grid ? top : bottom, y2: bottom + 4, class: "grid",
    }),
    svg("text", { x: x(value), y: bottom + 18, "text-anchor": "middle" }, number(value, digits)),
  ]));
}

let figures = 0;

/**
 * Adds a figure to a section. `draw(width)` returns its SVG; it is drawn again when the width
 * changes. Returns a function that draws it again.
 */
function figure(section, caption, draw, ...below) {
  figures += 1;
  const place = html("div", { class: "plot" });
  const node = html("figure", {}, place, below,
    html("figcaption", {}, html("b", {}, `Figure ${figures}. `), caption));
  section.append(node);
  section.hidden = false;
  let width = 0;
  const redraw = () => {
    if (width > 0) place.replaceChildren(draw(width));
  };
  new ResizeObserver(([entry]) => {
    const now = Math.round(entry.contentRect.width);
    if (now === width || now === 0) return;
    width = now;
    redraw();
  }).observe(place);
  return redraw;
}

/** Makes the line below a plot that says what is pointed at. */
function readout(hint) {
  const node = html("p", { class: "readout", "aria-live": "polite" }, hint);
  const say = (...parts) => node.replaceChildren(...(parts.length ? parts : [hint]));
  return { node, say };
}
