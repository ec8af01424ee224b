// What is chosen: two runs, a measure, a query. Plots and browser follow it.

const main = content.comparisons.find((pair) => pair.measure === measures[0])
  ?? content.comparisons[0];

const choice = {
  run: main?.run ?? runs[runs.length - 1],
  against: main?.against ?? runs[0],
  measure: measures[0],
  query: null,
};

const followers = [];

/** Changes the choice and tells those who follow it which keys changed. */
function choose(changes) {
  const changed = Object.keys(changes).filter((key) => choice[key] !== changes[key]);
  Object.assign(choice, changes);
  if (changed.length) for (const follow of followers) follow(changed);
}

/** Returns a query's difference in the chosen measure, or null. */
function differenceOf(query) {
  const after = valueOf(query, choice.run, choice.measure);
  const before = valueOf(query, choice.against, choice.measure);
  return after === null || before === null || runs.length < 2 ? null : after - before;
}

/** Returns the menus for runs and measure; none where there is nothing to choose. */
function choices() {
  const parts = [];
  if (runs.length > 2) {
    parts.push(
      select("Run", runs, choice.run, (run) => choose(
        run === choice.against ? { run, against: choice.run } : { run })),
      select("against", runs, choice.against, (against) => choose(
        against === choice.run ? { against, run: choice.against } : { against })),
    );
  }
  if (measures.length > 1) {
    parts.push(select("Measure", measures, choice.measure, (measure) => choose({ measure })));
  }
  if (!parts.length) return null;
  const node = html("div", { class: "controls" }, parts);
  followers.push((changed) => {
    if (changed.every((key) => key === "query")) return;
    const menus = [...node.querySelectorAll("select")];
    const measure = measures.length > 1 ? menus.pop() : null;
    if (measure) measure.selectedIndex = measures.indexOf(choice.measure);
    if (menus.length) {
      menus[0].selectedIndex = runs.indexOf(choice.run);
      menus[1].selectedIndex = runs.indexOf(choice.against);
    }
  });
  return node;
}
