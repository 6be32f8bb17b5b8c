"use strict";

// Elements and charts. Texts only ever become text nodes and attributes, never markup.

const SVG = "http://www.w3.org/2000/svg"; // a name, nothing that is fetched

function html(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function shortNumber(value) {
  const size = Math.abs(value);
  if (size >= 1e9) return trimmed(value / 1e9) + "G";
  if (size >= 1e6) return trimmed(value / 1e6) + "M";
  if (size >= 1e4) return trimmed(value / 1e3) + "k";
  if (size !== 0 && size < 1e-3) return value.toExponential(1).replace("e-", "e−");
  return trimmed(value);
}

function trimmed(value) {
  return String(Number(value.toPrecision(3)));
}

// Three digits, so that figures under one another are equally long.
function figure(value) {
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : value.toPrecision(3);
}

function percent(share) {
  const value = share * 100;
  if (value === 0) return "0 %";
  if (value < 0.001) return value.toExponential(0).replace("e-", "e−") + " %";
  return value.toFixed(value >= 10 ? 1 : value >= 0.1 ? 2 : 3) + " %";
}

const BOX = { width: 360, height: 186, left: 46, right: 14, top: 12, bottom: 32 };

function linear(low, high, from, to) {
  const span = high - low || 1;
  return (value) => from + ((value - low) / span) * (to - from);
}

function niceTicks(low, high, about) {
  const span = high - low || 1;
  const power = 10 ** Math.floor(Math.log10(span / about));
  const steps = [1, 2, 5, 10].map((m) => m * power);
  const step = steps.reduce((a, b) => (Math.abs(span / b - about) < Math.abs(span / a - about) ? b : a));
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(i * step);
  return ticks;
}

function frame(title, note) {
  const reading = html("span", { className: "reading" });
  const caption = html("figcaption", {}, html("span", { className: "name", textContent: title }), reading);
  const drawing = svg("svg", { viewBox: `0 0 ${BOX.width} ${BOX.height}`, role: "img", "aria-label": note });
  return { node: html("figure", { className: "chart" }, caption, drawing), drawing, reading };
}

function axes(drawing, x, y, xTicks, yTicks, xLabel, showX, showY) {
  const bottom = BOX.height - BOX.bottom;
  for (const tick of yTicks) {
    drawing.append(
      svg("line", { class: "grid", x1: BOX.left, x2: BOX.width - BOX.right, y1: y(tick), y2: y(tick) }),
      svg("text", { class: "tick end", x: BOX.left - 6, y: y(tick) + 3.5 }, showY(tick)),
    );
  }
  for (const tick of xTicks) {
    drawing.append(svg("text", { class: "tick middle", x: x(tick), y: bottom + 14 }, showX(tick)));
  }
  const right = BOX.width - BOX.right;
  drawing.append(
    svg("line", { class: "axis", x1: BOX.left, x2: right, y1: bottom, y2: bottom }),
    svg("text", { class: "tick end", x: right, y: BOX.height - 3 }, xLabel),
  );
}

function lineChart({ title, tokens, values, dots }) {
  const known = values.filter((v) => v !== null);
  const low = Math.min(...known), high = Math.max(...known);
  const last = known[known.length - 1];
  const { node, drawing, reading } = frame(title, `${title}: from ${shortNumber(known[0])} to ${shortNumber(last)}`);
  const useLog = low > 0 && high / low > 100 && title !== "Learning rate";
  const shape = useLog ? Math.log10 : (v) => v;
  const pad = (shape(high) - shape(low)) * 0.05 || Math.abs(shape(high)) * 0.1 || 1;
  const floor = !useLog && low >= 0 && low < high * 0.35 ? 0 : shape(low) - pad;
  const x = linear(Math.min(...tokens), Math.max(...tokens), BOX.left, BOX.width - BOX.right);
  const scaled = linear(floor, shape(high) + pad, BOX.height - BOX.bottom, BOX.top);
  const y = (v) => scaled(shape(v));
  const yTicks = useLog
    ? niceTicks(Math.ceil(floor), shape(high) + pad, 3).filter(Number.isInteger).map((t) => 10 ** t)
    : niceTicks(floor, shape(high) + pad, 3);
  axes(drawing, x, y, niceTicks(Math.min(...tokens), Math.max(...tokens), 4), yTicks, "tokens", shortNumber, shortNumber);
  let path = "", open = false;
  values.forEach((v, i) => {
    if (v === null) { open = false; return; }
    path += `${open ? "L" : "M"}${x(tokens[i]).toFixed(1)} ${y(v).toFixed(1)}`;
    open = true;
  });
  drawing.append(svg("path", { class: "line", d: path }));
  if (dots) values.forEach((v, i) => v !== null && drawing.append(svg("circle", { class: "dot", cx: x(tokens[i]), cy: y(v), r: 2.5 })));
  reading.textContent = shortNumber(last);
  const cursor = svg("circle", { class: "cursor", r: 3.5, visibility: "hidden" });
  drawing.append(cursor);
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * BOX.width;
    const i = nearest(tokens, values, (t) => Math.abs(x(t) - at));
    cursor.setAttribute("cx", x(tokens[i]));
    cursor.setAttribute("cy", y(values[i]));
    cursor.setAttribute("visibility", "visible");
    reading.textContent = `${shortNumber(values[i])} at ${shortNumber(tokens[i])}`;
  });
  drawing.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden");
    reading.textContent = shortNumber(last);
  });
  return node;
}

function nearest(tokens, values, distance) {
  let best = 0, least = Infinity;
  tokens.forEach((t, i) => {
    const d = distance(t);
    if (values[i] !== null && d < least) { best = i; least = d; }
  });
  return best;
}

// Bars over equal bins; `showBin` names a bin for the reader who points at it.
function barChart({ title, note, edges, counts, xLabel, xTicks, showX, showBin, rootScale }) {
  const { node, drawing, reading } = frame(title, note);
  const shape = rootScale ? Math.sqrt : (v) => v;
  const high = Math.max(...counts, 1);
  const x = linear(edges[0], edges[edges.length - 1], BOX.left, BOX.width - BOX.right);
  const scaled = linear(0, shape(high) * 1.05, BOX.height - BOX.bottom, BOX.top);
  const y = (v) => scaled(shape(v));
  const yTicks = rootScale ? rootTicks(high) : niceTicks(0, high, 3).filter(Number.isInteger);
  axes(drawing, x, y, xTicks, yTicks, xLabel, showX, shortNumber);
  counts.forEach((count, i) => {
    const left = x(edges[i]), width = x(edges[i + 1]) - left;
    const bar = svg("rect", { class: "bar", x: left + 0.5, width: Math.max(width - 1, 0.5), y: y(count), height: BOX.height - BOX.bottom - y(count) });
    const target = svg("rect", { class: "target", x: left, width, y: BOX.top, height: BOX.height - BOX.bottom - BOX.top });
    target.addEventListener("pointerenter", () => { reading.textContent = showBin(i); });
    drawing.append(bar, target);
  });
  drawing.addEventListener("pointerleave", () => { reading.textContent = ""; });
  return node;
}

function rootTicks(high) {
  const ticks = [0, 1, 2, 3, 4].map((i) => Number(((i / 4) ** 2 * high).toPrecision(1)));
  return [...new Set(ticks.filter((t) => Number.isInteger(t) && t <= high))];
}

// Points of one group are joined; the page's own SAE is filled.
function scatterChart({ title, points, groups, yLabel }) {
  const xs = points.map((p) => p.x), ys = points.map((p) => p.y);
  const { node, drawing, reading } = frame(title, `${title} of ${points.length} SAEs over L0`);
  const padX = (Math.max(...xs) - Math.min(...xs)) * 0.08 || Math.max(...xs) * 0.2 || 1;
  const padY = (Math.max(...ys) - Math.min(...ys)) * 0.12 || 0.01;
  const lowX = Math.max(0, Math.min(...xs) - padX), highX = Math.max(...xs) + padX;
  const lowY = Math.min(...ys) - padY, highY = Math.min(1.001, Math.max(...ys) + padY);
  const x = linear(lowX, highX, BOX.left, BOX.width - BOX.right);
  const y = linear(lowY, highY, BOX.height - BOX.bottom, BOX.top);
  axes(drawing, x, y, niceTicks(lowX, highX, 5), niceTicks(lowY, highY, 3), "L0", shortNumber, trimmed);
  groups.forEach((group, colour) => {
    const own = points.filter((p) => p.group === group);
    const d = own.map((p, i) => `${i ? "L" : "M"}${x(p.x).toFixed(1)} ${y(p.y).toFixed(1)}`).join("");
    drawing.append(svg("path", { class: `line group-${colour % 6}`, d }));
    for (const point of own) {
      const mark = svg("circle", { class: `mark group-${colour % 6}${point.this ? " this" : ""}`, cx: x(point.x), cy: y(point.y), r: point.this ? 5.5 : 4 });
      const words = `${point.name}: L0 ${trimmed(point.x)}, ${yLabel} ${point.y.toPrecision(4)}`;
      mark.append(svg("title", {}, words));
      mark.addEventListener("pointerenter", () => { reading.textContent = words; });
      drawing.append(mark);
      if (point.this) drawing.append(svg("text", { class: "tick middle name", x: x(point.x), y: y(point.y) - 10 }, "this SAE"));
    }
  });
  return node;
}
