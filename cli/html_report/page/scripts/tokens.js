// A document's text, each token coloured by the attention it drew.

/**
 * Returns tokens as [start, end, calibrated, raw], offsets in code points.
 *
 * They come as such lists, or as base64 of LEB128 numbers: twice the length, plus 1 where a gap
 * to the last token follows; the gap; calibrated, zigzag; raw likewise, where the attention has it.
 */
function tokensOf(coded, hasRaw) {
  if (Array.isArray(coded)) return coded;
  const bytes = atob(coded);
  let place = 0;
  const next = () => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      const byte = bytes.charCodeAt(place);
      place += 1;
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  const unfolded = () => {
    const folded = next();
    return folded & 1 ? -(folded + 1) / 2 : folded / 2;
  };
  const tokens = [];
  let end = 0;
  while (place < bytes.length) {
    const head = next();
    const start = end + (head & 1 ? next() : 0);
    end = start + (head >> 1);
    const calibrated = unfolded();
    tokens.push([start, end, calibrated, hasRaw ? unfolded() : null]);
  }
  return tokens;
}

/** Returns a function that cuts text by code points. */
function cutter(text) {
  if (!/[\ud800-\udfff]/.test(text)) return (start, end) => text.slice(start, end);
  const points = Array.from(text);
  return (start, end) => points.slice(start, end).join("");
}

/** Returns a token's share, −1..1, in the mode that is shown. */
function share(token, mode) {
  return mode === "raw" ? (token[3] ?? 0) / 255 : token[2] / 255;
}

function paint(span, value) {
  // Weak values are all alike to the eye: the square root spreads them.
  span.style.setProperty("--w", `${Math.round(100 * Math.sqrt(Math.min(1, Math.abs(value))))}%`);
  span.classList.toggle("more", value > 0);
  span.classList.toggle("less", value < 0);
}

/** Returns a document's text as a block of tokens, and a function that colours it for a mode. */
function tokenText(doc, tokens) {
  const text = textOf(doc);
  const cut = cutter(text);
  const title = at(content.documents, doc)?.title ?? "";
  const titleEnd = title ? Array.from(title).length : 0;
  const { node: line, say } = readout("Point at a word, or use the arrow keys, to see its value.");
  const block = html("p", {
    class: "tokens", dir: "auto", role: "group", "aria-label": `Text of ${doc}, by tokens`,
  });
  const spans = [];
  const shown = [];
  let last = 0;
  const between = (start, end) => {
    if (end <= start) return;
    const gap = cut(start, end);
    block.append(start < titleEnd ? html("span", { class: "in-title" }, gap) : gap);
  };
  for (const token of tokens) {
    const part = cut(token[0], token[1]);
    if (!part || token[0] < last) continue;
    between(last, token[0]);
    // Many tokens begin with a space, which at the end of a line would be a coloured sliver.
    const [space] = part.match(/^\s+(?=\S)/) ?? [""];
    block.append(space);
    const kind = token[0] + space.length < titleEnd ? "token in-title" : "token";
    const span = html("span", { class: kind }, part.slice(space.length));
    block.append(span);
    spans.push(span);
    shown.push(token);
    last = token[1];
  }
  between(last, Infinity);

  let mode = "calibrated";
  const describe = (i) => {
    const [, , calibrated, raw] = shown[i];
    const before = raw === null || raw === undefined ? "" : `, raw ${number(raw / 255, 2)}`;
    return `calibrated ${signed(calibrated / 255, 2)}${before}`;
  };
  const point = (event) => {
    const i = spans.indexOf(event.target);
    if (i < 0) return;
    say(html("b", {}, isolated(`“${spans[i].textContent.trim()}”`)), ` ${describe(i)}`);
  };
  block.addEventListener("pointerover", point);
  block.addEventListener("focusin", point);
  block.addEventListener("pointerleave", () => say());
  roving(block, spans, { columns: 8 });
  const colour = (now) => {
    mode = now;
    spans.forEach((span, i) => {
      paint(span, mode === "off" ? 0 : share(shown[i], mode));
      span.title = describe(i);
    });
  };
  colour(mode);
  return { nodes: [block, line], colour };
}

/** Returns the scale of colours, with words at its ends. */
function legend(attention) {
  const box = (kind, value) => {
    const node = html("span", { class: `token ${kind}` }, "\u00a0");
    paint(node, value);
    return node;
  };
  const steps = (from, to) => [0, 1, 2, 3, 4].map((i) => box("", from + (i / 4) * (to - from)));
  return html("p", { class: "legend" }, "less ",
    html("span", { class: "steps", "aria-hidden": true },
      steps(-1, -0.1), steps(0.02, 1)),
    " more", html("span", { class: "what" }, attention.what ? isolated(attention.what) : ""));
}
