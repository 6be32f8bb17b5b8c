// Which part of the page is shown follows the address: #overview, #features, #feature/123.

const overview = read("data-overview");
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
  put("frontier", frontier.filter(Boolean));
  document.querySelector("#frontier .legend").append(...groups.map((group, i) => html("span", {}, html("i", { className: `swatch group-${i % 6}` }), group)));
  const atLarge = [overview.neighbours && neighbourChart(overview.neighbours)];
  if (overview.densities) atLarge.unshift(densityChart(overview.densities));
  put("features-at-large", atLarge.filter(Boolean));
}

function densityChart({ edges, counts, dead }) {
  const decades = niceTicks(edges[0], 0, -edges[0]).filter(Number.isInteger);
  const share = (log) => `${trimmed(10 ** (log + 2))} %`;
  const words = dead ? `, ${dead.toLocaleString("en")} never active left out` : "";
  return barChart({
    title: `Features by density${words}`, note: `Histogram of ${counts.reduce((a, b) => a + b, 0)} features by log10 of density${words}`,
    edges, counts, xLabel: "share of tokens (log)", xTicks: decades, showX: share,
    showBin: (i) => `${share(edges[i])} to ${share(edges[i + 1])}: ${counts[i].toLocaleString("en")} features`,
  });
}

function neighbourChart({ edges, counts }) {
  return barChart({
    title: "Features by nearest cosine", note: `Histogram of ${counts.reduce((a, b) => a + b, 0)} features by cosine with the nearest other decoder direction`,
    edges, counts, xLabel: "cosine", xTicks: niceTicks(edges[0], 1, 4), showX: trimmed,
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
