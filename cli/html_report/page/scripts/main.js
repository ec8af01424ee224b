// Puts the page together: contents, theme, keys.

const KEYS = [
  ["j  ↓", "next query"], ["k  ↑", "previous query"], ["/", "search the queries"],
  ["Enter", "open: a bar’s query, a document"],
  ["← →", "from bar to bar, word to word, head to head"],
  ["Esc", "close: this list, the open documents, the search"], ["?", "show these keys"],
];

function keyDialog() {
  const dialog = html("dialog", { "aria-labelledby": "keys-title", id: "keys" },
    html("h2", { id: "keys-title" }, "Keys"),
    html("dl", { class: "keys" }, KEYS.map(([keys, what]) => html("div", {},
      html("dt", {}, keys.split("  ").map((key) => html("kbd", {}, key))), html("dd", {}, what)))),
    html("button", { type: "button", click: () => dialog.close() }, "Close"));
  document.body.append(dialog);
  return dialog;
}

function theme() {
  const apply = (name) => { document.documentElement.dataset.theme = name; };
  apply("auto");
  const names = ["auto", "light", "dark"];
  return switchOf("Colours", names.map((name) => [name, name]), "auto", apply);
}

function contents() {
  const links = [...document.querySelectorAll("main > section:not([hidden])")].map((section) =>
    html("li", {}, html("a", { href: `#${section.id}` }, section.querySelector("h2").textContent)));
  const nav = byId("contents");
  nav.append(html("ul", {}, links));
  nav.hidden = links.length < 2;
}

/** Closes the open documents; returns whether there were any. */
function closeDocuments() {
  const open = [...document.querySelectorAll('.row[aria-expanded="true"]')];
  for (const row of open) row.click();
  if (open.some((row) => row.closest("li").contains(document.activeElement))) open[0].focus();
  return open.length > 0;
}

function listen(dialog) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || dialog.open) return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("select, input[type=search], textarea")) return;
    const actions = {
      j: () => moveBy(1),
      k: () => moveBy(-1),
      "/": () => {
        byId("search")?.focus();
        byId("search")?.select();
      },
      "?": () => dialog.showModal(),
      Escape: () => closeDocuments(),
    };
    if (!Object.hasOwn(actions, event.key)) return;
    event.preventDefault();
    actions[event.key]();
  });
}

function start() {
  exports();
  winLoss(byId("differences"));
  ceilings(byId("ceiling"));
  browser(byId("browser"));
  headMap(byId("heads"));
  biasPlots(byId("bias"));
  contents();
  const dialog = keyDialog();
  byId("bar").append(html("div", { class: "tools" }, theme(),
    html("button", { type: "button", class: "keys-button", "aria-keyshortcuts": "?",
      click: () => dialog.showModal() }, "Keys")));
  const warned = content.warnings.length;
  if (warned) {
    const notice = byId("notice");
    notice.append(`There ${warned === 1 ? "is" : "are"} ${counted(warned, "warning")}: `,
      html("a", { href: "#warnings" }, "read what to keep in mind"), ".");
    notice.hidden = false;
  }
  listen(dialog);
  byId("unscripted").remove();
}

start();
