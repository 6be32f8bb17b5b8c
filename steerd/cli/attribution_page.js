"use strict";
(() => {
  const { names, edges } = JSON.parse(document.getElementById("data").textContent);
  const graph = document.querySelector(".graph");
  if (!graph) return;
  const side = document.getElementById("side");
  const empty = [...side.childNodes];
  const MOST = 8;

  const list = (heading, found) => {
    const box = document.createElement("div");
    const title = document.createElement("p");
    title.className = "soft";
    title.textContent = heading;
    const rows = document.createElement("ol");
    for (const [other, weight] of found.sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, MOST)) {
      const row = document.createElement("li");
      row.textContent = `${weight >= 0 ? "+" : "−"}${Math.abs(weight).toPrecision(3)}  ${other < 0 ? "the answer" : names[other]}`;
      rows.append(row);
    }
    box.append(title, rows);
    return box;
  };

  const pick = (node) => {
    graph.classList.toggle("picked", node !== null);
    for (const each of graph.querySelectorAll(".node")) each.classList.toggle("chosen", Number(each.dataset.node) === node);
    for (const each of graph.querySelectorAll(".edge"))
      each.classList.toggle("shown", Number(each.dataset.source) === node || Number(each.dataset.target) === node);
    side.classList.toggle("soft", node === null);
    side.replaceChildren(...(node === null ? empty : []));
    if (node === null) return;
    const heading = document.createElement("h2");
    heading.textContent = node < 0 ? "The answer" : names[node];
    side.append(
      heading,
      list("what moves it", edges.filter((edge) => edge[1] === node).map((edge) => [edge[0], edge[2]])),
      list("what it moves", edges.filter((edge) => edge[0] === node).map((edge) => [edge[1], edge[2]])),
    );
  };

  for (const each of graph.querySelectorAll(".node")) {
    each.addEventListener("click", () => pick(each.classList.contains("chosen") ? null : Number(each.dataset.node)));
    each.addEventListener("keydown", (event) => {
      if (event.key === "Enter") pick(each.classList.contains("chosen") ? null : Number(each.dataset.node));
    });
  }
})();
