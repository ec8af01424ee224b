// Tables as files: CSV (RFC 4180) and LaTeX.

function csv(rows) {
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

/** Returns a row per query and run, a column per measure. */
function queryCsv() {
  const rows = content.queries.flatMap((query) => runs
    .filter((run) => at(query.values, run))
    .map((run) => [query.id, run, ...measures.map((measure) => valueOf(query, run, measure))]));
  return csv([["query", "run", ...measures], ...rows]);
}

/** Returns a row per run and measure: mean, interval, ceiling. */
function measuresCsv() {
  const rows = content.runs.flatMap((run) => measures.filter((measure) => at(run.values, measure))
    .map((measure) => {
      const { value, ci95 } = at(run.values, measure);
      return [run.name, measure, value, ci95?.[0], ci95?.[1], at(run.ceiling, measure)];
    }));
  return csv([["run", "measure", "value", "low95", "high95", "ceiling"], ...rows]);
}

const LATEX = {
  "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "$": "\\$", "&": "\\&", "#": "\\#", "%": "\\%",
  _: "\\_", "^": "\\textasciicircum{}", "~": "\\textasciitilde{}",
};

function latexText(text) {
  return text.replace(/[\\{}$&#%_^~]/g, (sign) => LATEX[sign]).replace(/\s+/g, " ");
}

/** Returns a tabular for booktabs; the best of a measure is bold. */
function measuresLatex() {
  const cell = (run, measure) => {
    const value = at(run.values, measure)?.value;
    return value === null || value === undefined ? "--" : value.toFixed(4);
  };
  const better = (a, b) => (a === "--" || Number(b) > Number(a) ? b : a);
  const best = measures.map((measure) =>
    content.runs.map((run) => cell(run, measure)).reduce(better, "--"));
  const rows = content.runs.map((run) => [latexText(run.name), ...measures.map((measure, i) => {
    const text = cell(run, measure);
    return text === best[i] && text !== "--" ? `\\textbf{${text}}` : text;
  })]);
  const line = (cells) => `${cells.join(" & ")} \\\\`;
  return [
    "% \\usepackage{booktabs}", `\\begin{tabular}{l${"r".repeat(measures.length)}}`, "\\toprule",
    line(["Run", ...measures.map(latexText)]), "\\midrule", ...rows.map(line), "\\bottomrule",
    "\\end{tabular}", "",
  ].join("\n");
}

function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  const link = html("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

function exports() {
  if (!measures.length) return;
  const button = (label, name, type, make) => html("button", {
    type: "button", class: "export", click: () => download(name, type, make()),
  }, label);
  byId("measures")?.append(html("p", { class: "exports" }, "Save: ",
    button("table as CSV", "measures.csv", "text/csv", measuresCsv),
    button("table as LaTeX", "measures.tex", "application/x-tex", measuresLatex),
    button("values by query as CSV", "queries.csv", "text/csv", queryCsv)));
}
