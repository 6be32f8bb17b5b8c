// The table of all features, drawn only where it is looked at, and one feature's page.

const ROW_HEIGHT = 32;
const COLUMNS = [
  { key: "index", title: "#", number: true, show: (i) => String(i) },
  { key: "label", title: "Label" },
  { key: "score", title: "Score", number: true, show: (i) => scoreOf(i), hint: "How well the label tells when the feature is active: 0.5 for guessing, 1 at best" },
  { key: "density", title: "Density", number: true, show: (i) => percent(columns.density[i]), hint: "Share of tokens on which the feature is active" },
  { key: "max", title: "Max", number: true, show: (i) => figure(columns.max[i]), hint: "Largest activation seen" },
  { key: "mean", title: "Mean", number: true, show: (i) => figure(columns.mean[i]), hint: "Mean over the tokens on which it is active" },
];

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const columns = read("data-columns");
const { texts: tokens, special } = read("data-tokens");
const quiet = new Set(special); // chat markers and the like: part of the text, but not what it says

const chunks = [...document.querySelectorAll("script.details")];
const parsed = new Map();

function detailsOf(feature) {
  const chunk = Math.floor(feature / columns.chunk);
  if (!parsed.has(chunk)) parsed.set(chunk, JSON.parse(chunks[chunk].textContent));
  return parsed.get(chunk)[feature % columns.chunk];
}

const labelOf = (feature) => (columns.label ? columns.label[feature] : "");
const scoreOf = (feature) => (columns.score && columns.score[feature] !== null ? columns.score[feature].toFixed(2) : "–");
const testedLabelOf = (feature) => (columns.score ? `${labelOf(feature)} [${scoreOf(feature)}]` : labelOf(feature));
const valueOf = (key, feature) => (key === "index" ? feature : columns[key][feature]);

// ---- search and order

let haystacks = null;

function haystackOf(feature) {
  if (!haystacks) {
    const texts = tokens.map((text) => text.toLowerCase());
    const join = (column, f) => (columns[column] ? columns[column][f].map((t) => texts[t]).join("\n") : "");
    haystacks = Array.from({ length: columns.count }, (_, f) => ({
      label: labelOf(f).toLowerCase(),
      tokens: `${join("tokens", f)}\n${join("promoted", f)}`,
    }));
  }
  return haystacks[feature];
}

// Features that hold every word, in the order asked for; those with a match outside the label come after the others.
function chosenFeatures(query, sort) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const inLabel = [], elsewhere = [];
  const exact = /^#?\d+$/.test(query.trim()) ? Number(query.trim().replace("#", "")) : -1;
  for (let f = 0; f < columns.count; f++) {
    if (f === exact) continue;
    if (!words.length) { inLabel.push(f); continue; }
    const { label, tokens } = haystackOf(f);
    if (words.every((w) => label.includes(w))) inLabel.push(f);
    else if (words.every((w) => label.includes(w) || tokens.includes(w))) elsewhere.push(f);
  }
  const sorted = [...ordered(inLabel, sort), ...ordered(elsewhere, sort)];
  return exact >= 0 && exact < columns.count ? [exact, ...sorted] : sorted;
}

function ordered(features, { key, descending }) {
  const values = features.map((f) => valueOf(key, f));
  const order = features.map((_, i) => i);
  if (key === "label") {
    const compare = new Intl.Collator("en", { numeric: true }).compare;
    order.sort((a, b) => compare(values[a], values[b]) || a - b);
  } else {
    order.sort((a, b) => values[a] - values[b] || a - b);
  }
  if (descending) order.reverse();
  return order.map((i) => features[i]);
}

// ---- the table

class FeatureTable {
  constructor(onOpen) {
    this.onOpen = onOpen;
    this.shown = [];
    this.current = -1; // place in `shown`
    this.sort = { key: "index", descending: false };
    this.query = "";
    this.box = document.getElementById("rows");
    this.spacer = document.getElementById("spacer");
    this.found = document.getElementById("found");
    this.search = document.getElementById("search");
    this.columns = COLUMNS.filter((column) => column.key === "index" || columns[column.key]);
    document.getElementById("features-view").classList.toggle("scored", Boolean(columns.score));
    this.drawHeads();
    this.box.addEventListener("scroll", () => this.draw());
    this.box.addEventListener("keydown", (event) => this.onKey(event));
    this.search.addEventListener("input", () => { this.query = this.search.value; this.refresh(); });
    this.search.addEventListener("keydown", (event) => this.onSearchKey(event));
    new ResizeObserver(() => this.draw()).observe(this.box);
    this.refresh();
  }

  drawHeads() {
    const heads = document.querySelector(".heads");
    heads.replaceChildren(...this.columns.map((column) => {
      const active = this.sort.key === column.key;
      const arrow = active ? (this.sort.descending ? " ↓" : " ↑") : "";
      const words = active ? (this.sort.descending ? ", sorted, largest first" : ", sorted, smallest first") : "";
      const button = html("button", { type: "button", className: `cell ${column.key}${column.number ? " number" : ""}`, textContent: column.title + arrow, title: column.hint || "" });
      button.setAttribute("aria-label", `Sort by ${column.title === "#" ? "number" : column.title}${words}`);
      button.setAttribute("aria-pressed", String(active));
      button.addEventListener("click", () => this.sortBy(column));
      return button;
    }));
  }

  sortBy(column) {
    const again = this.sort.key === column.key;
    const largestFirst = column.number && column.key !== "index";
    this.sort = { key: column.key, descending: again ? !this.sort.descending : largestFirst };
    this.drawHeads();
    this.refresh();
  }

  refresh() {
    const feature = this.shown[this.current];
    this.shown = chosenFeatures(this.query, this.sort);
    this.current = this.shown.indexOf(feature);
    const all = columns.count.toLocaleString("en");
    this.found.textContent = this.query.trim() ? `${this.shown.length.toLocaleString("en")} of ${all} features` : `${all} features`;
    this.spacer.style.height = `${this.shown.length * ROW_HEIGHT}px`;
    this.box.scrollTop = 0;
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW_HEIGHT) - 5);
    const last = Math.min(this.shown.length, Math.ceil((this.box.scrollTop + this.box.clientHeight) / ROW_HEIGHT) + 5);
    const rows = [];
    for (let place = first; place < last; place++) rows.push(this.row(place));
    this.spacer.replaceChildren(...rows);
    const active = this.current >= first && this.current < last;
    if (active) this.box.setAttribute("aria-activedescendant", `row-${this.current}`);
    else this.box.removeAttribute("aria-activedescendant");
  }

  row(place) {
    const feature = this.shown[place];
    const row = html("a", { className: "row", href: `#feature/${feature}`, id: `row-${place}`, tabIndex: -1 });
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", String(place === this.current));
    row.setAttribute("aria-setsize", String(this.shown.length));
    row.setAttribute("aria-posinset", String(place + 1));
    row.style.top = `${place * ROW_HEIGHT}px`;
    for (const column of this.columns) {
      const text = column.show ? column.show(feature) : labelOf(feature);
      const cell = html("span", { className: `cell ${column.key}${column.number ? " number" : ""}`, textContent: text });
      if (column.key === "label") cell.title = text;
      row.append(cell);
    }
    return row;
  }

  // Make a feature the current one, and bring its row into sight.
  select(feature) {
    this.current = this.shown.indexOf(feature);
    if (this.current >= 0) {
      const top = this.current * ROW_HEIGHT, height = this.box.clientHeight;
      if (top < this.box.scrollTop) this.box.scrollTop = top;
      else if (top + ROW_HEIGHT > this.box.scrollTop + height) this.box.scrollTop = top + ROW_HEIGHT - height;
    }
    this.draw();
  }

  // The feature so many rows further down, undefined beyond the ends.
  neighbour(step) {
    return this.shown[this.current + step];
  }

  moveTo(place) {
    const feature = this.shown[Math.max(0, Math.min(this.shown.length - 1, place))];
    if (feature === undefined) return;
    this.select(feature);
    this.onOpen(feature, false);
  }

  onKey(event) {
    const page = Math.max(1, Math.floor(this.box.clientHeight / ROW_HEIGHT) - 1);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page };
    if (event.key in moves) this.moveTo(this.current + moves[event.key]);
    else if (event.key === "Home") this.moveTo(0);
    else if (event.key === "End") this.moveTo(this.shown.length - 1);
    else if (event.key === "Enter" && this.current >= 0) this.onOpen(this.shown[this.current], true);
    else return;
    event.preventDefault();
  }

  onSearchKey(event) {
    if (event.key === "Escape" && this.search.value) {
      this.search.value = this.query = "";
      this.refresh();
      event.stopPropagation();
    } else if (event.key === "ArrowDown" || event.key === "Enter") {
      event.preventDefault();
      this.box.focus();
      this.moveTo(this.current >= 0 ? this.current : 0);
    }
  }
}

// ---- one feature's page

function featurePage(feature, table) {
  const details = detailsOf(feature);
  const link = (step, words, sign) => {
    const other = table.neighbour(step);
    const node = html("a", { className: "step", textContent: sign, title: words });
    node.setAttribute("aria-label", words);
    if (other === undefined) node.setAttribute("aria-disabled", "true");
    else node.href = `#feature/${other}`;
    return node;
  };
  const head = html("header", { className: "feature-head" },
    html("a", { className: "back", href: "#features", textContent: "← all features" }),
    html("h2", { tabIndex: -1 }, html("span", { className: "index", textContent: `#${feature}` }), html("bdi", { textContent: labelOf(feature) })),
    html("span", { className: "steps" }, link(-1, "Previous feature in the list", "‹"), link(1, "Next feature in the list", "›")),
  );
  return [head, labelsOf(details.labels), figuresOf(feature), ...evidenceOf(feature, details), ...contextsOf(feature, details)];
}

// Every label with what its tests found.
function labelsOf(labels) {
  const list = html("ul", { className: "labels" });
  for (const [text, by, tests] of labels) {
    const found = tests.map(([method, value, fails, judge, strong]) => `${method} ${value}${judge ? ` by ${judge}` : ""}${fails ? ", fails" : ""}${strong === null ? "" : `, ${strong} where strong`}`);
    list.append(html("li", {}, html("bdi", { textContent: text }), html("span", { className: "hint", textContent: ` ${by ? `written by ${by}; ` : ""}${found.join("; ") || "untested"}` })));
  }
  return list;
}

function figuresOf(feature) {
  const list = html("dl", { className: "facts-list" });
  const add = (title, value) => list.append(html("div", {}, html("dt", { textContent: title }), html("dd", { textContent: value })));
  if (columns.density) {
    if (columns.max[feature] === 0) add("Activity", "never active on the tokens looked at");
    else {
      add("Active on", `${percent(columns.density[feature])} of tokens`);
      add("Largest activation", figure(columns.max[feature]));
      add("Mean where active", figure(columns.mean[feature]));
    }
  }
  return list;
}

function evidenceOf(feature, details) {
  const parts = [];
  if (details.histogram.some((count) => count)) parts.push(histogramOf(feature, details.histogram));
  if (details.neighbours.length) parts.push(neighbourList(details.neighbours));
  const promoted = details.promoted.length ? details.promoted : (columns.promoted ? columns.promoted[feature].map((t) => [t, null]) : []);
  if (columns.tokens && columns.tokens[feature].length) parts.push(tokenList("Most active on", columns.tokens[feature].map((t) => [t, null]), "The tokens that carry most of its activation."));
  if (promoted.length) parts.push(tokenList("Promotes", promoted, "Output tokens whose logit the direction raises most, in standard deviations over all features."));
  if (details.suppressed.length) parts.push(tokenList("Suppresses", details.suppressed, "Output tokens whose logit the direction lowers most."));
  return [html("div", { className: "evidence" }, ...parts)];
}

function histogramOf(feature, counts) {
  const high = columns.max[feature];
  const edges = Array.from({ length: counts.length + 1 }, (_, i) => (i / counts.length) * high);
  const total = counts.reduce((a, b) => a + b, 0);
  return barChart({
    title: "Activations",
    note: `Histogram of ${total} active tokens from 0 to ${trimmed(high)}`,
    edges, counts, xLabel: "activation", rootScale: true,
    xTicks: niceTicks(0, high, 5), showX: shortNumber,
    showBin: (i) => `${trimmed(edges[i])} to ${trimmed(edges[i + 1])}: ${counts[i].toLocaleString("en")} tokens`,
  });
}

function tokenList(title, entries, hint) {
  const list = html("ul", { className: "tokens" });
  for (const [token, effect] of entries) {
    const item = html("li", {}, tokenChip(tokens[token]));
    if (effect !== null) item.append(html("span", { className: "effect", textContent: `${effect > 0 ? "+" : "−"}${Math.abs(effect).toFixed(1)}` }));
    list.append(item);
  }
  return html("section", { className: "panel third" }, html("h3", { textContent: title, title: hint }), list);
}

// A space in front of a word is part of the token, so it is shown.
function tokenChip(text) {
  const chip = html("bdi", { className: "chip" });
  const word = text.trimStart();
  if (word.length < text.length || !text) chip.append(html("span", { className: "space", textContent: "␣".repeat(text.length - word.length) || "∅" }));
  chip.append(word);
  return chip;
}

function neighbourList(neighbours) {
  const list = html("ul", { className: "neighbours" });
  for (const [other, cosine] of neighbours) {
    const words = [html("span", { className: "index", textContent: `#${other}` }), html("bdi", { textContent: other < columns.count ? testedLabelOf(other) : "" })];
    const target = other < columns.count ? html("a", { href: `#feature/${other}` }, ...words) : html("span", {}, ...words);
    list.append(html("li", {}, html("span", { className: "effect", textContent: cosine.toFixed(2) }), target));
  }
  return html("section", { className: "panel" }, html("h3", { textContent: "Nearest decoder directions", title: "By cosine between decoder rows" }), list);
}

const hint = (text) => (text ? [html("p", { className: "hint", textContent: text })] : []);
const strongestHint = columns.rows ? `Of ${columns.rows.toLocaleString("en")} tokens looked through, at most one a text.` : "";

function contextsOf(feature, details) {
  const parts = [];
  if (details.top.length) {
    parts.push(html("h3", { textContent: "Strongest contexts" }), ...hint(strongestHint), contextList(feature, details.top, (context) => [figure(peakValue(context)), "activation at the marked token"]));
  }
  if (details.sampled.length) {
    parts.push(
      html("h3", { textContent: "Contexts across the range" }),
      ...hint("Drawn at random among its active tokens; the percentage says how many of them are weaker."),
      contextList(feature, details.sampled, (context) => [figure(peakValue(context)), `stronger than ${context[3]} % of its active tokens`, `${context[3]} %`]),
    );
  }
  return parts;
}

function peakValue([, active, peak]) {
  for (let i = 0; i < active.length; i += 2) if (active[i] === peak) return active[i + 1];
  return 0;
}

function contextList(feature, contexts, figures) {
  const high = columns.max ? columns.max[feature] : Math.max(...contexts.map(peakValue));
  const list = html("ol", { className: "contexts" });
  for (const context of contexts) {
    const [value, title, share] = figures(context);
    const mark = html("span", { className: "peak", title }, html("span", { textContent: value }));
    if (share) mark.append(html("span", { className: "share", textContent: share }));
    list.append(html("li", {}, mark, contextText(context, high)));
  }
  return list;
}

// Tokens that are parts of a character have no text of their own; what is active there shows at the character.
function contextText([ids, active, peak], high) {
  const text = html("p", { className: "text", dir: "auto" });
  const values = new Map();
  for (let i = 0; i < active.length; i += 2) values.set(active[i], active[i + 1]);
  let parts = [], marked = false;
  ids.forEach((id, place) => {
    if (values.has(place)) parts.push(values.get(place));
    marked ||= place === peak;
    if (!tokens[id]) return;
    if (parts.length || marked) text.append(activeToken(tokens[id], parts, marked, high));
    else if (quiet.has(id)) text.append(html("span", { className: "quiet", textContent: tokens[id] }));
    else text.append(place ? tokens[id] : tokens[id].trimStart());
    parts = [];
    marked = false;
  });
  return text;
}

function activeToken(text, values, marked, high) {
  const title = values.map(figure).join(" · ") || "0";
  const token = html("span", { className: marked ? "token peak-token" : "token", textContent: text, title });
  token.style.setProperty("--heat", Math.min(1, Math.max(0, ...values) / high).toFixed(3));
  return token;
}
