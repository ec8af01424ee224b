// The report's content, and how numbers are written.

const content = JSON.parse(byId("data").textContent);
const runs = content.runs.map((run) => run.name);
const measures = content.measures;

const MINUS = "\u2212";

function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", MINUS);
}

/** Returns a number with the digits that it came with. */
function exact(value) {
  return value === null || value === undefined ? "–" : String(value).replaceAll("-", MINUS);
}

function signed(value, digits = 3) {
  const text = number(value, digits);
  return value > 0 && Number(text) !== 0 ? `+${text}` : text;
}

function counted(count, one, many = `${one}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}

function runOf(name) {
  return content.runs.find((run) => run.name === name);
}

/** Returns a query's value, or null where it has none. */
function valueOf(query, run, measure) {
  return at(at(query.values, run), measure) ?? null;
}

/** Returns the mean difference of a pair of runs with its interval; where there is only the
 * opposite pair, that one with its signs changed. */
function comparison(run, against, measure) {
  const find = (one, other) => content.comparisons.find((pair) =>
    pair.run === one && pair.against === other && pair.measure === measure);
  const pair = find(run, against);
  if (pair) return pair;
  const back = find(against, run);
  return back && {
    ...back, run, against, wins: back.losses, losses: back.wins, difference: -back.difference,
    ci95: back.ci95 && [-back.ci95[1], -back.ci95[0]],
  };
}

/** Returns a document's text as tokens count it: title, newline, text. */
function textOf(doc) {
  const found = at(content.documents, doc);
  if (!found) return "";
  return found.title ? `${found.title}\n${found.text}` : found.text;
}
