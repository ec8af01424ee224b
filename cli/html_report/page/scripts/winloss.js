// Differences by query, sorted: one bar a query.

function winLoss(section) {
  if (runs.length < 2 || !measures.length) return;
  const measured = () => content.queries
    .map((query) => ({ query, difference: differenceOf(query) }))
    .filter((entry) => entry.difference !== null)
    .sort((a, b) => b.difference - a.difference || (a.query.id < b.query.id ? -1 : 1));
  if (!measured().length) return;

  const hint = "Point at a bar to see its query; click it, or press Enter, to open it.";
  const { node, say } = readout(hint);
  const caption = html("span");
  const menus = choices();
  if (menus) section.append(menus);
  const redraw = figure(section, caption, (width) => {
    const entries = measured();
    describe(caption, entries);
    return bars(entries, width, say);
  }, node);
  followers.push((changed) => {
    if (changed.some((key) => key !== "query")) redraw();
    else markChosen(section);
  });
}

function describe(caption, entries) {
  const pair = comparison(choice.run, choice.against, choice.measure);
  const count = (test) => entries.filter((entry) => test(entry.difference)).length;
  const [wins, losses] = [count((d) => d > 1e-9), count((d) => d < -1e-9)];
  const interval = pair?.ci95 && pair.ci95[0] !== null
    ? ` The dashed line is the mean, ${signed(pair.difference)}, the band its 95% interval.` : "";
  caption.replaceChildren(
    isolated(choice.run), " minus ", isolated(choice.against), ` in ${choice.measure}: `,
    `${wins} won, ${entries.length - wins - losses} tied, ${losses} lost.${interval}`);
}

function bars(entries, width, say) {
  const height = width < 520 ? 240 : 300;
  const [left, right, top, bottom] = [52, width - 6, 26, height - 26];
  const pair = comparison(choice.run, choice.against, choice.measure);
  const band = pair?.ci95 && pair.ci95[0] !== null ? pair.ci95 : [];
  const all = [0, ...entries.map((entry) => entry.difference), ...band];
  const values = ticks(Math.min(...all), Math.max(...all), 6);
  const y = scale([values[0], values[values.length - 1]], [bottom, top]);
  const step = (right - left) / entries.length;
  const thick = Math.max(1, Math.min(step * 0.72, 34));

  const items = entries.map(({ query, difference }, i) => {
    const kind = difference > 1e-9 ? "win" : difference < -1e-9 ? "loss" : "tie";
    const size = Math.abs(y(difference) - y(0));
    const show = () => say(
      html("b", { class: kind }, signed(difference)), " ",
      html("span", { class: "id" }, isolated(query.id)), " ", isolated(query.text));
    return svg("g", {
      class: `hit ${kind}`, role: "button", "data-query": query.id,
      "aria-label": `Query ${query.id}: ${signed(difference)}. ${query.text}`,
      click: () => openQuery(query.id), pointerenter: show, focus: show,
      pointerleave: () => say(),
      keydown: (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        openQuery(query.id);
      },
    },
    svg("rect", { class: "target", x: left + i * step, width: step, y: top, height: bottom - top }),
    svg("rect", {
      class: "bar", x: left + i * step + (step - thick) / 2, width: thick,
      y: kind === "tie" ? y(0) - 1.5 : Math.min(y(difference), y(0)),
      height: kind === "tie" ? 3 : Math.max(size, 1.5), rx: Math.min(1.5, thick / 4),
    }));
  });
  const group = svg("g", { role: "group", "aria-label": "Queries by difference" }, items);
  roving(group, items);
  const node = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, class: "winloss" },
    svg("text", { x: 0, y: 12, class: "label" }, `Difference in ${choice.measure}`),
    leftAxis(values, y, left, right, { sign: true }),
    band.length ? svg("rect", {
      class: "band", x: left, width: right - left, y: y(band[1]),
      height: Math.max(1, y(band[0]) - y(band[1])),
    }) : null,
    group,
    band.length ? svg("line", {
      class: "mean", x1: left, x2: right, y1: y(pair.difference), y2: y(pair.difference),
    }) : null,
    svg("text", { x: (left + right) / 2, y: height - 6, "text-anchor": "middle", class: "label" },
      `${counted(entries.length, "query", "queries")}, sorted by difference`));
  markChosen(node);
  return node;
}

function markChosen(node) {
  for (const bar of node.querySelectorAll(".hit")) {
    bar.classList.toggle("chosen", bar.dataset.query === choice.query);
  }
}
