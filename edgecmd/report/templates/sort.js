"use strict";
// Headers become buttons that sort their rows. Without scripts the tables are complete as they stand.
for (const table of document.querySelectorAll(".scroll > table:not(.matrix)")) {
  const body = table.tBodies[0], rows = [...body.rows];
  if (rows.length < 3) continue;
  // The text without its note, and without the mark of the best.
  const text = (row, column) => {
    const cell = row.cells[column];
    if (column === 0) return cell.textContent.trim();
    return [...cell.childNodes].filter(node => node.nodeType === 3).map(node => node.data).join("").trim();
  };
  const number = told => Number(told.replaceAll(",", "").replace(/[^0-9.eE+-].*$/s, "") || NaN);
  const unit = told => told.replace(/^[-+0-9.,e]+/, "");
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const texts = rows.map(row => text(row, column)).filter(told => told !== "\u2013");
    const numeric = column > 0 && texts.every(told => /^[-+]?[0-9]/.test(told));
    // Values of different units, such as kB and MB, have no order that can be read off them.
    if (column > 0 && (numeric ? new Set(texts.map(unit)).size > 1 : texts.some(told => /^[0-9]/.test(told)))) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const before = header.getAttribute("aria-sort");
      const rising = before ? before === "descending" : !numeric;
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const compare = (one, other) => {
        const [first, second] = [text(one, column), text(other, column)];
        const missing = (first === "\u2013") - (second === "\u2013");
        if (missing) return missing;
        const order = numeric ? number(first) - number(second)
          : first.localeCompare(second, undefined, { numeric: true });
        return (rising ? order : -order) || 0;
      };
      body.append(...[...rows].sort(compare));
    });
  });
}
