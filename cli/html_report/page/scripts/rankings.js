// Two rankings of a query side by side, with lines from place to place.

/** Returns where a document of the first list goes: text, class, words. */
function destination(other) {
  return other === undefined
    ? ["→ –", "out", "not among those shown of the other ranking"]
    : [`→ ${other + 1}`, "to", `goes to place ${other + 1}`];
}

/** Returns how a document of the second list moved: text, class, words. */
function movement(place, other) {
  if (other === undefined) return ["new", "up", "not among those shown of the other ranking"];
  const up = other - place;
  if (up > 0) return [`▲${up}`, "up", `up ${up}, from ${other + 1}`];
  if (up < 0) return [`▼${-up}`, "down", `down ${-up}, from ${other + 1}`];
  return ["=", "same", "same place in both"];
}

function chip(grade) {
  const make = (kind, text, words) => html("span", {
    class: `grade ${kind}`, role: "img", title: words, "aria-label": words,
  }, text);
  if (grade === null || grade === undefined) return make("unjudged", "?", "not judged");
  const level = content.collection.relevance_level;
  const kind = grade > level ? "high" : grade === level ? "relevant" : grade > 0 ? "low" : "zero";
  return make(kind, String(grade), `grade ${grade}`);
}

/** Returns one ranking. `page` holds what the open query shares: the mode and its painters. */
function rankingList(query, run, other, page, first = false) {
  const list = at(query.lists, run) ?? [];
  const places = new Map((other ? at(query.lists, other) ?? [] : []).map((l, i) => [l.doc, i]));
  const judged = list.some((listed) => listed.grade !== null);
  const node = html("ol", { class: "ranking" }, list.map((listed, i) => {
    const there = places.get(listed.doc);
    const [mark, kind, words] = first ? destination(there) : movement(i, there);
    const found = at(content.documents, listed.doc);
    const body = html("div", { class: "body", hidden: true });
    const head = html("button", { type: "button", class: "row", "aria-expanded": "false" },
      html("span", { class: "rank" }, String(i + 1)),
      judged ? chip(listed.grade) : null,
      isolated(found?.title.trim() || found?.text.trim().slice(0, 200) || listed.doc, { class: "name" }),
      other ? html("span", {
        class: `move ${kind}`, role: "img", title: words, "aria-label": words,
      }, mark)
        : html("span", { class: "move" }, number(listed.score, 2)));
    const item = html("li", { "data-doc": listed.doc }, head, body);
    head.addEventListener("click", () => {
      const open = head.getAttribute("aria-expanded") !== "true";
      if (open && !body.hasChildNodes()) body.append(...documentBody(query, run, listed, page));
      head.setAttribute("aria-expanded", open);
      body.hidden = !open;
    });
    return item;
  }));
  return html("div", { class: "column" },
    html("h4", {}, isolated(run)),
    list.length ? node : html("p", { class: "empty" },
      "This run has no documents for this query."));
}

function documentBody(query, run, listed, page) {
  const found = at(content.documents, listed.doc);
  const facts = [
    html("span", { class: "id" }, isolated(listed.doc)),
    `score ${exact(listed.score)}`,
    listed.grade === null ? "not judged" : `grade ${listed.grade}`,
  ];
  const seen = at(at(content.attention?.documents, query.id), listed.doc);
  if (seen && run !== content.attention.run) {
    facts.push(`score by attention ${exact(seen.score)}`);
  }
  if (seen?.tokens_cut) facts.push(`${counted(seen.tokens_cut, "token")} not read by the model`);
  const line = html("p", { class: "facts" },
    facts.flatMap((fact, i) => (i ? [" · ", fact] : [fact])));
  if (!found || found.missing) {
    return [line, html("p", { class: "empty" }, "The collection has no text for this document.")];
  }
  const more = found.cut
    ? html("p", { class: "empty" }, "The text goes on; it is cut here.") : null;
  if (!seen) {
    const title = found.title ? html("span", { class: "in-title" }, `${found.title}\n`) : null;
    return [line, html("p", { class: "tokens", dir: "auto" }, title, found.text), more]
      .filter(Boolean);
  }
  const { nodes, colour } = tokenText(listed.doc, tokensOf(seen.tokens, content.attention.raw));
  page.painters.push(colour);
  colour(page.mode);
  return [line, ...nodes, more].filter(Boolean);
}

function judgedIn(query) {
  return Object.values(query.lists).some((list) => list.some((listed) => listed.grade !== null));
}

/** Returns both rankings of a query, or the one where there is only one run. */
function rankings(query, page) {
  const two = runs.length > 1 && choice.run !== choice.against;
  if (!two) return html("div", { class: "sides one" }, rankingList(query, choice.run, null, page));
  const lines = svg("svg", { class: "lines", "aria-hidden": true });
  const before = rankingList(query, choice.against, choice.run, page, true);
  const after = rankingList(query, choice.run, choice.against, page);
  const sides = html("div", { class: "sides two show-after" }, before, lines, after);
  const draw = () => connect(sides, lines, before, after);
  const watch = new ResizeObserver(draw);
  for (const part of [before, after]) watch.observe(part);
  const link = (event) => {
    const doc = event.target.closest?.("li")?.dataset.doc;
    for (const node of sides.querySelectorAll("[data-doc]")) {
      node.classList.toggle("linked", event.type !== "pointerleave" && node.dataset.doc === doc);
    }
  };
  for (const kind of ["pointerover", "focusin", "pointerleave"]) sides.addEventListener(kind, link);
  return html("div", {}, tabs(sides), sides, html("p", { class: "facts key" },
    judgedIn(query) ? `Squares: the grade, filled from ${content.collection.relevance_level} on `
      + "(relevant); a dashed ? is not judged. " : null,
    "▲ and ▼: places moved; new: not among those shown of the other ranking. "
      + "Open a document to read it."));
}

/** Returns the switch between the two rankings that narrow screens show one at a time. */
function tabs(sides) {
  const node = switchOf("Ranking", [["before", choice.against], ["after", choice.run]], "after",
    (side) => {
      sides.classList.toggle("show-before", side === "before");
      sides.classList.toggle("show-after", side === "after");
    });
  node.classList.add("tabs");
  return node;
}

function connect(sides, lines, before, after) {
  const width = lines.clientWidth;
  if (!width) return;
  const top = lines.getBoundingClientRect().top;
  const middle = (item) => {
    const box = item.firstChild.getBoundingClientRect();
    return box.top + box.height / 2 - top;
  };
  const from = new Map([...before.querySelectorAll("li")].map((item) => [item.dataset.doc, item]));
  lines.replaceChildren(...[...after.querySelectorAll("li")].flatMap((item, i) => {
    const start = from.get(item.dataset.doc);
    if (!start) return [];
    const [a, b] = [middle(start), middle(item)];
    const rank = [...start.parentNode.children].indexOf(start);
    const kind = rank > i ? "up" : rank < i ? "down" : "same";
    return [svg("path", {
      class: kind, "data-doc": item.dataset.doc,
      d: `M0 ${a}C${width / 2} ${a} ${width / 2} ${b} ${width} ${b}`,
    })];
  }));
}
