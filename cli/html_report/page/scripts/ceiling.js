// How much of what the candidates allow was used.

function ceilings(section) {
  const reranked = () => [runOf(choice.run), ...content.runs].find((run) =>
    run?.ceiling && run.role !== "first stage" && Object.keys(run.ceiling).length);
  if (!reranked()) return;
  const caption = html("span");
  const redraw = figure(section, caption, (width) => {
    const run = reranked();
    const first = content.runs.find((other) => other.role === "first stage" && other !== run);
    caption.replaceChildren(
      "Filled: ", isolated(run.name), ", with its 95% interval. ",
      ...(first ? ["Open: ", isolated(first.name), ". "] : []),
      "Upright: the best that any order of the same candidates would reach",
      run.depth ? ` (${counted(run.depth, "candidate")} a query).` : ".",
      first ? " The share is of the room between the first stage and that." : "");
    return rooms(run, first, width);
  });
  followers.push((changed) => changed.includes("run") && redraw());
}

function rooms(run, first, width) {
  const rows = measures
    .map((measure) => ({
      measure, best: at(run.ceiling, measure) ?? null,
      after: at(run.values, measure), before: at(first?.values, measure),
    }))
    // Counts of documents have no place on this axis.
    .filter((row) => row.best !== null && row.best <= 1.0001 && row.after?.value != null);
  const narrow = width < 560;
  const [left, right] = [narrow ? 12 : 150, width - (narrow ? 12 : 120)];
  const high = narrow ? 54 : 42;
  const bottom = rows.length * high + 8;
  const x = scale([0, 1], [left, right]);
  const node = svg("svg", {
    width, height: bottom + 28, viewBox: `0 0 ${width} ${bottom + 28}`, class: "rooms",
    role: "img", "aria-label": rows.map((row) => roomText(row)).join("; "),
  }, bottomAxis([0, 0.25, 0.5, 0.75, 1], x, 4, bottom));
  rows.forEach((row, i) => node.append(room(row, x, i * high + (narrow ? 34 : 24), narrow, width)));
  return node;
}

/** Returns the share of the room that was used, or null where there is none. */
function shareUsed({ best, after, before }) {
  if (before?.value == null || best - before.value < 0.0005) return null;
  return (after.value - before.value) / (best - before.value);
}

function roomText(row) {
  const share = shareUsed(row);
  const used = share === null ? "" : `, ${number(100 * share, 0)}% of the room used`;
  return `${row.measure}: ${number(row.after.value)} of at most ${number(row.best)}${used}`;
}

function room(row, x, y, narrow, width) {
  const share = shareUsed(row);
  const from = row.before?.value ?? row.after.value;
  const [low, high] = row.after.ci95 ?? [null, null];
  const used = row.before?.value == null ? ""
    : share === null ? "no room" : share < 0.0005 ? "none used" : `${number(100 * share, 0)}% used`;
  const side = narrow
    ? [svg("text", { x: 12, y: y - 16, class: "name" }, row.measure),
      svg("text", { x: width - 12, y: y - 16, "text-anchor": "end", class: "share" }, used)]
    : [svg("text", { x: 0, y, dy: "0.32em", class: "name" }, row.measure),
    svg("text", { x: width, y, dy: "0.32em", "text-anchor": "end", class: "share" }, used)];
  return svg("g", {},
    svg("line", { class: "room", x1: x(from), x2: x(row.best), y1: y, y2: y }),
    svg("line", {
      class: row.after.value < from ? "used lost" : "used",
      x1: x(from), x2: x(row.after.value), y1: y, y2: y,
    }),
    low === null || high === null ? null
      : svg("line", { class: "whisker", x1: x(low), x2: x(high), y1: y, y2: y }),
    svg("line", { class: "upright", x1: x(row.best), x2: x(row.best), y1: y - 9, y2: y + 9 }),
    row.before?.value == null ? null
      : svg("circle", { class: "before", cx: x(row.before.value), cy: y, r: 5 }),
    svg("circle", { class: "after", cx: x(row.after.value), cy: y, r: 5 }),
    svg("title", {}, roomText(row)),
    side);
}
