"use strict";
(() => {
  const report = JSON.parse(document.getElementById("report-data").textContent);
  const slider = document.getElementById("budget");
  const label = document.getElementById("budget-label");
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Everything that depends on the budget is in the page already; the slider shows one and hides the others.
  function show(index) {
    label.textContent = report.budgets[index].label;
    slider.setAttribute("aria-valuetext", report.budgets[index].label);
    for (const block of all(".at")) block.hidden = Number(block.dataset.at) !== index;
    for (const row of all("table.map tr[data-at]")) row.classList.toggle("now", Number(row.dataset.at) === index);
    for (const line of all(".cursor")) {
      const x = line.dataset.x.split(" ")[index];
      line.style.display = x === "-" ? "none" : "";
      if (x !== "-") { line.setAttribute("x1", x); line.setAttribute("x2", x); }
    }
  }
  if (slider) { // a page that compares two policies has none
    slider.addEventListener("input", () => show(Number(slider.value)));
    for (const row of all("table.map tr[data-at]"))
      row.addEventListener("click", () => { slider.value = row.dataset.at; show(Number(row.dataset.at)); });
    show(Number(slider.value));
  }

  // Tooltips are text, never markup.
  const tip = document.getElementById("tip");
  function place(event) {
    const target = event.target.closest?.("[data-tip]");
    tip.hidden = !target;
    if (!target) return;
    tip.textContent = target.dataset.tip;
    const box = tip.getBoundingClientRect(), room = document.documentElement.clientWidth;
    tip.style.left = `${Math.max(6, Math.min(event.clientX + 14, room - box.width - 6))}px`;
    const above = event.clientY - box.height - 14;
    tip.style.top = `${above > 6 ? above : event.clientY + 18}px`;
  }
  document.addEventListener("pointermove", place);
  document.addEventListener("pointerdown", place);
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  // A line's name, in the legend or at its end, brings the line forward.
  for (const figure of all("figure.lines")) {
    let kept = null;
    const focus = (name) => {
      figure.classList.toggle("focused", name !== null);
      for (const part of all("[data-series]", figure)) part.classList.toggle("on", part.dataset.series === name);
      for (const button of all("button", figure)) button.setAttribute("aria-pressed", String(button.dataset.series === kept));
    };
    for (const part of all("[data-series]", figure)) {
      part.addEventListener("pointerenter", () => focus(part.dataset.series));
      part.addEventListener("pointerleave", () => focus(kept));
    }
    for (const button of all("button", figure))
      button.addEventListener("click", () => { kept = kept === button.dataset.series ? null : button.dataset.series; focus(kept); });
  }

  for (const table of all("table.sortable")) {
    all("thead th", table).forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") !== "descending";
        for (const other of all("thead th", table)) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const body = table.tBodies[0];
        const value = (row) => { const v = row.cells[column].dataset.value; return v === undefined ? null : Number(v); };
        const rows = [...body.rows].sort((a, b) => {
          const x = value(a), y = value(b);
          if (x === null && y === null) return a.cells[column].textContent.localeCompare(b.cells[column].textContent) * (down ? 1 : -1);
          if (x === null || y === null) return x === null ? 1 : -1;
          return down ? y - x : x - y;
        });
        body.append(...rows);
      });
    });
  }
})();
