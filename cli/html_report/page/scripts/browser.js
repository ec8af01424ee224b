// The list of queries, and the query that is open.

const page = { mode: "calibrated", painters: [] };
let queryList = null;

/** Opens a query and brings it into view. */
function openQuery(id) {
  if (!queryList) return;
  queryList.show(id);
  choose({ query: id });
  const heading = byId("query-heading");
  scrollTo(byId("browser"));
  heading?.focus({ preventScroll: true });
}

/** Opens the query `step` places further down the list as it is shown. */
function moveBy(step) {
  if (!queryList?.ids.length) return;
  const now = queryList.ids.indexOf(choice.query);
  const next = Math.max(0, Math.min(queryList.ids.length - 1, now < 0 ? 0 : now + step));
  choose({ query: queryList.ids[next] });
}

function browser(section) {
  if (!content.queries.length) return;
  const search = html("input", {
    type: "search", id: "search", placeholder: "Search queries", autocomplete: "off",
    spellcheck: "false", "aria-label": "Search queries by text or id", "aria-keyshortcuts": "/",
    input: () => refresh(),
    keydown: (event) => {
      if (event.key === "Escape") {
        search.value = "";
        refresh();
        box.focus();
      } else if (event.key === "Enter" || event.key === "ArrowDown") {
        event.preventDefault();
        box.focus();
        if (!queryList.ids.includes(choice.query)) moveBy(0);
      }
    },
  });
  const orders = measuredPair()
    ? ["largest gain first", "largest loss first", "largest change first", "id"] : ["id"];
  let order = orders[0];
  const box = html("ol", {
    class: "queries", role: "listbox", tabindex: 0, "aria-label": "Queries",
    keydown: (event) => {
      const steps = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity };
      if (!Object.hasOwn(steps, event.key)) return;
      event.preventDefault();
      moveBy(steps[event.key]);
    },
  });
  const found = html("p", { class: "found", "aria-live": "polite" });
  const open = html("div", { class: "open-query" });

  function refresh() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const kept = content.queries.filter((query) => {
      const text = `${query.id} ${query.text}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    kept.sort(comparer(order));
    queryList.ids = kept.map((query) => query.id);
    const largest = Math.max(1e-9, ...content.queries.map((q) => Math.abs(differenceOf(q) ?? 0)));
    box.replaceChildren(...kept.map((query, i) => entry(query, i, largest)));
    found.textContent = kept.length === content.queries.length
      ? counted(kept.length, "query", "queries")
      : `${kept.length} of ${counted(content.queries.length, "query", "queries")}`;
    mark();
  }

  function mark() {
    box.removeAttribute("aria-activedescendant");
    for (const option of box.children) {
      const chosen = option.dataset.query === choice.query;
      option.setAttribute("aria-selected", chosen);
      if (!chosen) continue;
      box.setAttribute("aria-activedescendant", option.id);
      // Within the list only: the page stays where it is.
      const [above, below] = [option.offsetTop, option.offsetTop + option.offsetHeight];
      if (above < box.scrollTop) box.scrollTop = above;
      else if (below > box.scrollTop + box.clientHeight) box.scrollTop = below - box.clientHeight;
    }
  }

  function showOpen() {
    const query = content.queries.find((one) => one.id === choice.query);
    page.painters = [];
    if (query) open.replaceChildren(...queryView(query));
  }

  queryList = {
    ids: [],
    show: (id) => {
      if (queryList.ids.includes(id)) return;
      search.value = "";
      refresh();
    },
  };
  section.hidden = false;
  section.append(html("div", { class: "browser" },
    html("div", { class: "finder" }, search,
      orders.length > 1 ? select("Sort by", orders, order, (now) => {
        order = now;
        refresh();
      }) : null,
      found, box),
    open));
  refresh();
  followers.push((changed) => {
    if (changed.some((key) => key !== "query")) refresh();
    else mark();
    showOpen();
  });
  choose({ query: queryList.ids[0] });
}

function measuredPair() {
  return content.queries.some((query) => differenceOf(query) !== null);
}

function comparer(order) {
  const byName = (a, b) => a.id.localeCompare(b.id, "en", { numeric: true });
  if (order === "id") return byName;
  const worth = {
    "largest gain first": (d) => -d,
    "largest loss first": (d) => d,
    "largest change first": (d) => -Math.abs(d),
  }[order];
  // A query without a difference stands last in all of them.
  const key = (query) => {
    const difference = differenceOf(query);
    return difference === null ? Infinity : worth(difference);
  };
  return (a, b) => {
    const [x, y] = [key(a), key(b)];
    return x === y ? byName(a, b) : x - y;
  };
}

function entry(query, i, largest) {
  const difference = differenceOf(query);
  const kind = difference > 1e-9 ? "win" : difference < -1e-9 ? "loss" : "tie";
  const mark = html("span", { class: `delta ${kind}` },
    difference === null ? "" : signed(difference));
  mark.style.setProperty("--share", `${(100 * Math.abs(difference ?? 0)) / largest}%`);
  return html("li", {
    id: `query-${i}`, role: "option", "data-query": query.id, "aria-selected": "false",
    click: () => choose({ query: query.id }),
  },
  isolated(query.text || "(no text)", { class: "text" }),
  html("span", { class: "line" }, isolated(query.id, { class: "id" }), mark));
}

function queryView(query) {
  const ids = queryList.ids;
  const now = ids.indexOf(query.id);
  const step = (by, label, sign, key) => html("button", {
    type: "button", class: "step", "aria-label": label, title: `${label} (${key})`,
    disabled: now + by < 0 || now + by >= ids.length, click: () => moveBy(by),
  }, sign);
  const attention = content.attention;
  const coloured = at(attention?.documents, query.id);
  const parts = [
    html("div", { class: "heading" },
      html("h3", { id: "query-heading", tabindex: -1 }, isolated(query.text || "(no text)")),
      html("div", { class: "steps-by" }, step(-1, "Previous query", "↑", "k"),
        step(1, "Next query", "↓", "j"))),
    html("p", { class: "facts" }, "Query ", html("span", { class: "id" }, isolated(query.id)),
      ...measureFacts(query)),
  ];
  if (coloured) {
    const modes = attention.raw === false ? ["calibrated", "off"] : ["calibrated", "raw", "off"];
    const box = html("div", { class: "colours" },
      switchOf("Attention colours", modes.map((mode) => [mode, mode]), page.mode, (mode) => {
        page.mode = mode;
        box.dataset.mode = mode;
        for (const colour of page.painters) colour(mode);
      }),
      legend(attention));
    box.dataset.mode = page.mode;
    parts.push(box);
  } else if (attention) {
    parts.push(html("p", { class: "facts" },
      "The attention of this query was not read for the report."));
  }
  parts.push(rankings(query, page));
  return parts;
}

function measureFacts(query) {
  const after = valueOf(query, choice.run, choice.measure);
  if (after === null) return measures.length ? [" · not judged"] : [];
  const before = runs.length > 1 ? valueOf(query, choice.against, choice.measure) : null;
  const best = at(at(query.ceiling, choice.run), choice.measure);
  const difference = differenceOf(query);
  const kind = difference > 1e-9 ? "win" : difference < -1e-9 ? "loss" : "tie";
  return [
    ` · ${choice.measure} `,
    before === null ? number(after) : `${number(before)} → ${number(after)} `,
    before === null ? null : html("b", { class: kind }, signed(difference)),
    best === undefined || best === null ? null : ` · at most ${number(best)}`,
  ].filter((part) => part !== null);
}
