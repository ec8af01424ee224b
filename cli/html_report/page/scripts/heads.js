// The heads that are read: a map of layers and heads.

function headMap(section) {
  const heads = content.heads;
  if (!heads || !heads.cells.length) return;
  const weights = new Map(heads.cells.map(([layer, head, weight]) => [`${layer} ${head}`, weight]));
  const largest = Math.max(1e-12, ...heads.cells.map((cell) => Math.abs(cell[2] ?? 0)));
  const hint = "Point at a cell, or use the arrow keys, to see its weight.";
  const { node, say } = readout(hint);
  const caption = html("span", {}, isolated(heads.what ?? ""),
    ` ${counted(heads.cells.length, "head")} of ${(heads.layers * heads.heads).toLocaleString("en")}; `,
    "empty cells are not read.");
  figure(section, caption, (width) => {
    const left = 44;
    const size = Math.max(4, Math.min(26, (Math.min(width, 900) - left - 8) / heads.heads));
    const high = Math.max(6, Math.min(size, 18));
    const [top, bottom] = [28, 28 + heads.layers * high];
    const x = (head) => left + head * size;
    const cells = [];
    for (let layer = 0; layer < heads.layers; layer += 1) {
      for (let head = 0; head < heads.heads; head += 1) {
        const weight = weights.get(`${layer} ${head}`);
        cells.push(headCell(layer, head, weight, largest, say, {
          x: x(head) + 0.75, y: top + layer * high + 0.75,
          width: Math.max(1, size - 1.5), height: Math.max(1, high - 1.5),
        }));
      }
    }
    const group = svg("g", { role: "group", "aria-label": "Heads by layer" }, cells);
    roving(group, cells, { columns: heads.heads });
    const every = (count, room) => [1, 2, 4, 5, 8, 10, 16, 20].find((n) => n * room >= 18) ?? 32;
    const labels = (count, room, make) => Array.from({ length: count }, (_, i) => i)
      .filter((i) => i % every(count, room) === 0).map(make);
    return svg("svg", { width, height: bottom + 4, viewBox: `0 0 ${width} ${bottom + 4}`, class: "heads" },
      svg("text", { x: 0, y: 18, class: "label" }, "layer"),
      svg("text", { x: left + heads.heads * size + 8, y: 18, class: "label" }, "head"),
      svg("g", { class: "axis", "aria-hidden": true },
        labels(heads.layers, high, (i) => svg("text", {
          x: left - 8, y: top + (i + 0.5) * high, dy: "0.32em", "text-anchor": "end",
        }, String(i))),
        labels(heads.heads, size, (i) => svg("text", {
          x: x(i) + size / 2, y: 18, "text-anchor": "middle",
        }, String(i)))),
      group);
  }, node);
}

function headCell(layer, head, weight, largest, say, place) {
  const text = weight === undefined ? "not read" : `weight ${Number(weight).toPrecision(3)}`;
  const show = () => say(html("b", {}, `Layer ${layer}, head ${head}`), ` ${text}`);
  const cell = svg("rect", {
    ...place, rx: 1.5, class: weight === undefined ? "cell" : weight < 0 ? "cell read less" : "cell read",
    role: "img", "aria-label": `Layer ${layer}, head ${head}: ${text}`,
    pointerenter: show, focus: show, pointerleave: () => say(),
  });
  if (weight !== undefined) {
    cell.style.setProperty("--w", `${Math.round(15 + (85 * Math.abs(weight)) / largest)}%`);
  }
  return cell;
}
