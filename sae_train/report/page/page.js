// Which part of the page is shown follows the address: #overview, #features, #feature/123.

const overview = read("data-overview");
const sum = (counts) => counts.reduce((a, b) => a + b, 0);
const narrow = window.matchMedia("(max-width: 900px)");
const title = document.title;

function drawOverview() {
  const put = (id, charts) => {
    document.getElementById(id).hidden = !charts.length;
    document.querySelector(`#${id} .charts`).append(...charts);
  };
  put("curves", overview.curves.filter((c) => c.values.some((v) => v !== null)).map((c) => lineChart({
    title: c.title + (c.kind === "evaluation" ? " (held out)" : ""), tokens: c.tokens, values: c.values, dots: c.kind === "evaluation",
  })));
  const groups = [...new Set(overview.frontier.map((p) => p.group))];
  const frontier = [["variance_explained", "Variance explained"], ["cross_entropy_recovered", "Cross-entropy recovered"]].map(([key, name]) => {
    const points = overview.frontier.filter((p) => p[key] !== null).map((p) => ({ ...p, x: p.l0, y: p[key] }));
    return points.length > 1 ? scatterChart({ title: name, points, groups, yLabel: name.toLowerCase() }) : null;
  });
  const drawn = frontier.filter(Boolean);
  if (drawn.length) drawn.push(html("ul", { className: "legend" }, ...groups.map((group, i) => html("li", {}, html("i", { className: `swatch group-${i % 6}` }), html("bdi", { textContent: group })))));
  put("frontier", drawn);
  const histograms = [[densityChart, overview.densities], [maximumChart, overview.maxima], [nearestChart, overview.nearest]];
  put("at-large", histograms.filter(([, data]) => data).map(([draw, data]) => draw(data)));
}

function densityChart({ edges, counts, dead }) {
  const decades = niceTicks(edges[0], 0, -edges[0]).filter(Number.isInteger);
  const share = (log) => `${trimmed(10 ** (log + 2))} %`;
  const words = dead ? `, ${dead.toLocaleString("en")} never active left out` : "";
  return barChart({
    title: `By density${words}`, note: `Histogram of ${sum(counts)} features by log10 of density${words}`,
    edges, counts, xLabel: "share of tokens (log)", xTicks: decades, showX: share,
    showBin: (i) => `${share(edges[i])} to ${share(edges[i + 1])}: ${counts[i].toLocaleString("en")} features`,
  });
}

function maximumChart({ edges, counts }) {
  const value = (log) => trimmed(10 ** log);
  const [low, high] = [edges[0], edges[edges.length - 1]];
  const ticks = [1, 2, 5].flatMap((m) => [-2, -1, 0, 1, 2, 3, 4, 5].map((power) => Math.log10(m * 10 ** power)));
  return barChart({
    title: "By largest activation", note: `Histogram of ${sum(counts)} features by log10 of the largest activation`,
    edges, counts, xLabel: "largest activation (log)", xTicks: ticks.filter((t) => t >= low && t <= high), showX: value,
    showBin: (i) => `${value(edges[i])} to ${value(edges[i + 1])}: ${counts[i].toLocaleString("en")} features`,
  });
}

function nearestChart({ edges, counts }) {
  return barChart({
    title: "By cosine with the nearest direction", note: `Histogram of ${sum(counts)} features by cosine with the nearest other decoder direction`,
    edges, counts, xLabel: "cosine of decoder rows", xTicks: niceTicks(edges[0], 1, 4), showX: trimmed,
    showBin: (i) => `${trimmed(edges[i])} to ${trimmed(edges[i + 1])}: ${counts[i].toLocaleString("en")} features`,
  });
}

const article = document.getElementById("feature");
let opened = -1;

const table = new FeatureTable((feature, enter) => {
  if (enter || !narrow.matches) go(`#feature/${feature}`, !enter);
});

function go(address, silently) {
  if (silently) { history.replaceState(null, "", address); route(); } else location.hash = address;
}

function openFeature(feature) {
  if (feature !== opened) {
    opened = feature;
    table.select(feature);
    article.replaceChildren(...featurePage(feature, table));
    article.scrollTop = 0;
  }
  document.title = `#${feature} ${labelOf(feature)}`;
}

function route() {
  const [, view, number] = /^#(features|feature)(?:\/(\d+))?$/.exec(location.hash) || [null, "overview"];
  const feature = view === "feature" && Number(number) < columns.count ? Number(number) : -1;
  const browsing = view !== "overview";
  document.getElementById("overview-view").hidden = browsing;
  document.getElementById("features-view").hidden = !browsing;
  document.body.classList.toggle("browsing", browsing);
  document.body.classList.toggle("reading", feature >= 0);
  for (const link of document.querySelectorAll("nav a")) {
    if ((link.dataset.view === "features") === browsing) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = title;
  if (browsing) table.draw();
  if (feature >= 0) {
    openFeature(feature);
    if (narrow.matches) article.querySelector("h2").focus({ preventScroll: true });
  } else if (browsing && !narrow.matches && opened < 0 && columns.count) openFeature(table.shown[0] ?? 0);
  if (narrow.matches || !browsing) window.scrollTo(0, 0);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target instanceof HTMLInputElement;
  if (event.key === "Escape") {
    if (typing) table.box.focus();
    else if (document.body.classList.contains("reading") && narrow.matches) go("#features");
    else if (document.body.classList.contains("browsing")) go("#overview");
  } else if (!typing && event.key === "/") {
    event.preventDefault();
    if (!document.body.classList.contains("browsing") || narrow.matches) go("#features", true);
    table.search.focus();
  } else if (!typing && (event.key === "j" || event.key === "k") && document.body.classList.contains("browsing")) {
    const next = table.neighbour(event.key === "j" ? 1 : -1);
    if (next !== undefined) go(`#feature/${next}`, true);
  }
});

window.addEventListener("hashchange", route);
drawOverview();
route();
