// Scores by place in the prompt, and by length of the document.

function biasPlots(section) {
  const bias = content.bias;
  if (!bias || !(bias.slot.length || bias.length.length)) return;
  section.append(html("p", {}, isolated(bias.what ?? "")));
  const pair = html("div", { class: "beside" });
  section.append(pair);
  const rho = (value) => (value === null || value === undefined ? ""
    : ` Spearman’s\u00a0ρ\u00a0${signed(value, 2)}.`);
  if (bias.slot.length) {
    // Without shuffled orders a slot is a document's rank in the first stage.
    const slot = bias.orders === 0 ? "rank in the first stage" : "slot in the prompt";
    const spread = bias.slot.some((point) => point[2] !== null)
      ? ", with standard errors" : "";
    figure(pair, `Mean score by ${slot}${spread}.${rho(bias.slot_rho)}`,
      (width) => slotPlot(bias.slot, slot, width));
  }
  if (bias.length.length) {
    const unit = bias.length_unit ?? "tokens";
    figure(pair, `Score by length: one dot a document.${rho(bias.length_rho)}`,
      (width) => lengthPlot(bias.length, unit, width));
  }
  section.hidden = false;
}

/** Returns the frame of a plot with two axes, and its scales. */
function frame(width, xs, ys, xLabel, yLabel, described) {
  const height = 260;
  const [left, right, top, bottom] = [48, width - 12, 28, height - 44];
  const [across, up] = [ticks(Math.min(...xs), Math.max(...xs), width < 420 ? 4 : 6),
    ticks(Math.min(...ys), Math.max(...ys))];
  const x = scale([across[0], across[across.length - 1]], [left, right]);
  const y = scale([up[0], up[up.length - 1]], [bottom, top]);
  const node = svg("svg", {
    width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": described,
  },
  svg("text", { x: 0, y: 12, class: "label" }, yLabel),
  svg("text", { x: (left + right) / 2, y: height - 8, "text-anchor": "middle", class: "label" },
    xLabel),
  leftAxis(up, y, left, right, { sign: true }),
  bottomAxis(across, x, top, bottom, { grid: false }));
  return { node, x, y };
}

function slotPlot(points, slotName, width) {
  const kept = points.filter((point) => point[1] !== null);
  const ends = kept.flatMap(([, mean, error]) => [mean - (error ?? 0), mean + (error ?? 0)]);
  const { node, x, y } = frame(width, kept.map((point) => point[0]), [0, ...ends],
    slotName, "mean z", `Mean z by ${slotName}: ${kept.length} of them`);
  node.append(svg("polyline", {
    class: "trend", points: kept.map(([slot, mean]) => `${x(slot)},${y(mean)}`).join(" "),
  }));
  for (const [slot, mean, error] of kept) {
    if (error !== null && error !== undefined) {
      node.append(svg("line", {
        class: "whisker", x1: x(slot), x2: x(slot), y1: y(mean - error), y2: y(mean + error),
      }));
    }
    const r = kept.length > 60 ? 2 : 3.5;
    node.append(svg("circle", { class: "after", cx: x(slot), cy: y(mean), r },
      svg("title", {}, `${slotName} ${slot}: ${signed(mean, 2)}`)));
  }
  return node;
}

function lengthPlot(points, unit, width) {
  const kept = points.filter((point) => point[1] !== null);
  const [lengths, values] = [0, 1].map((column) => kept.map((point) => point[column]));
  const { node, x, y } = frame(width, lengths, [0, ...values],
    `length, ${unit}`, "z of the score", `z by length of ${kept.length} documents`);
  // One path: thousands of circles would be slow.
  node.append(svg("path", {
    class: "dots",
    d: kept.map(([length, z]) => `M${x(length).toFixed(1)} ${y(z).toFixed(1)}h0`).join(""),
  }));
  return node;
}
