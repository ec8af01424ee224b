// Elements are made here. Text is always set as text, never read as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

/** Makes an HTML element; an attribute that is a function listens to the event of its name. */
function html(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** Makes an SVG element. */
function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

/** Makes text from the data, whose direction stays its own. */
function isolated(text, attributes = {}) {
  return html("bdi", { dir: "auto", ...attributes }, text);
}

function byId(id) {
  return document.getElementById(id);
}

/** Returns an object's own entry: a document may be called __proto__. */
function at(object, key) {
  return object && Object.hasOwn(object, key) ? object[key] : undefined;
}

/** Makes a labelled choice of names; `changed` gets the chosen one. */
function select(label, names, chosen, changed) {
  const options = names.map((name, i) =>
    html("option", { value: i, selected: name === chosen }, name));
  return html("label", { class: "choice" }, html("span", {}, label),
    html("select", { change: (event) => changed(names[event.target.selectedIndex]) }, options));
}

/** Makes radio buttons that look like one switch; `options` are [value, label]. */
function switchOf(legend, options, chosen, changed) {
  const name = `switch-${switchOf.count = (switchOf.count ?? 0) + 1}`;
  return html("fieldset", { class: "switch" }, html("legend", {}, legend),
    options.map(([value, label]) => html("label", {},
      html("input", {
        type: "radio", name, value, checked: value === chosen, change: () => changed(value),
      }),
      html("span", {}, label))));
}

/**
 * Makes the children of `group` one tab stop: arrow keys move among them, and Home and End.
 * `columns` is how many stand in a row, for the keys up and down.
 */
function roving(group, items, { columns = 1, start = 0 } = {}) {
  items.forEach((item, i) => item.setAttribute("tabindex", i === start ? 0 : -1));
  group.addEventListener("keydown", (event) => {
    const now = items.indexOf(event.target);
    if (now < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = {
      ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns,
      Home: -now, End: items.length - 1 - now,
    };
    if (!Object.hasOwn(steps, event.key)) return;
    event.preventDefault();
    event.stopPropagation();
    const next = now + steps[event.key];
    if (next >= 0 && next < items.length) items[next].focus();
  });
  group.addEventListener("focusin", (event) => {
    if (!items.includes(event.target)) return;
    for (const item of items) item.setAttribute("tabindex", -1);
    event.target.setAttribute("tabindex", 0);
  });
}

function scrollTo(node) {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  node.scrollIntoView({ behavior: still ? "auto" : "smooth", block: "start" });
}
