// The heads that are read: a map of layers and heads.

function headMap(section) {
  const heads = content.heads;
  if (!heads || !heads.cells.length) return;
  const weights = new Map(heads.cells.map(([layer, head, weight]) => [`${layer} ${head}`, weight]));
  const largest = Math.max(1e-12, ...heads.cells.map((cell) => Math.abs(cell[2] ?? 0)));
  const hint = "Point at a cell, or use the arrow keys, to see its weight.";
  const { node, say } = readout(hint);
  const negative = heads.cells.some((cell) => cell[2] < 0);
  const caption = html("span", {}, isolated(heads.what ?? ""),
    negative ? " Blue: positive weights; orange: negative ones."
      : " The stronger, the larger the weight.",
    heads.cells.length < heads.layers * heads.heads ? " Empty cells are not read." : "");
  figure(section, caption, (width) => {
    // The longer side lies where there is more room.
    const across = width > 560 && heads.layers > heads.heads;
    const [columns, rows] = across ? [heads.layers, heads.heads] : [heads.heads, heads.layers];
    const [left, top] = [56, 46];
    const wide = Math.max(4, Math.min(30, (width - left - 4) / columns));
    const high = Math.max(6, Math.min(wide, 20));
    const cells = [];
    for (let row = 0; row < rows; row += 1) {
      for (let column = 0; column < columns; column += 1) {
        const [layer, head] = across ? [column, row] : [row, column];
        cells.push(headCell(layer, head, weights.get(`${layer} ${head}`), largest, say, {
          x: left + column * wide + 0.75, y: top + row * high + 0.75,
          width: Math.max(1, wide - 1.5), height: Math.max(1, high - 1.5),
        }));
      }
    }
    const group = svg("g", { role: "group", "aria-label": "Heads by layer" }, cells);
    roving(group, cells, { columns });
    const bottom = top + rows * high + 4;
    return svg("svg", { width, height: bottom, viewBox: `0 0 ${width} ${bottom}`, class: "heads" },
      svg("text", { x: left, y: 14, class: "label" }, across ? "layer →" : "head →"),
      svg("text", { x: 0, y: top - 9, class: "label" },
        across ? "head ↓" : "layer ↓"),
      svg("g", { class: "axis", "aria-hidden": true },
        indices(rows, high).map((i) => svg("text", {
          x: left - 7, y: top + (i + 0.5) * high, dy: "0.32em", "text-anchor": "end",
        }, String(i))),
        indices(columns, wide).map((i) => svg("text", {
          x: left + (i + 0.5) * wide, y: top - 9, "text-anchor": "middle",
        }, String(i)))),
      group);
  }, node);
}

/** Returns the indices that have room for their number. */
function indices(count, room) {
  const every = [1, 2, 4, 5, 8, 10, 16, 20].find((step) => step * room >= 15) ?? 32;
  return Array.from({ length: count }, (_, i) => i).filter((i) => i % every === 0);
}

function headCell(layer, head, weight, largest, say, place) {
  const text = weight === undefined ? "not read" : `weight ${Number(weight).toPrecision(3)}`;
  const show = () => say(html("b", {}, `Layer ${layer}, head ${head}`), ` ${text}`);
  const cell = svg("rect", {
    ...place, rx: 1.5,
    class: weight === undefined ? "cell" : weight < 0 ? "cell read less" : "cell read",
    role: "img", "aria-label": `Layer ${layer}, head ${head}: ${text}`,
    pointerenter: show, focus: show, pointerleave: () => say(),
  });
  if (weight !== undefined) {
    cell.style.setProperty("--w", `${Math.round(15 + (85 * Math.abs(weight)) / largest)}%`);
  }
  return cell;
}
