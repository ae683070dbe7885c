// What scrolls sideways must be reachable by Tab, and show that there is more. The theme sees to the first for tables
// and listings, this for formulas and for the boxes around listings.
addEventListener("load", () => {
  const boxes = document.querySelectorAll(
    "div.math .katex-display, div.math .katex-html, div.highlight, div.highlight pre, .cell_output .output, " +
    ".cell_output a.image-reference, .pst-scrollable-table-container, .scrolling");

  // First all are measured, then all are marked: a mark would make the browser lay out the page for the next measure.
  function look(boxes) {
    const seen = boxes.map(box => {
      const scrolls = box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX !== "visible";
      return {box, scrolls, more: scrolls && box.scrollLeft + box.clientWidth < box.scrollWidth - 1};
    });
    for (const {box, scrolls, more} of seen) {
      if (box.matches(".katex-display, div.highlight")) {
        if (scrolls) box.tabIndex = 0;
        else box.removeAttribute("tabindex");
      }
      box.classList.toggle("more", more); // the right edge fades until the end is reached
    }
  }

  // Tells of every box once, and again when it gets another size, or is shown after it was hidden.
  const sizes = new ResizeObserver(entries => look(entries.map(({target}) => target)));
  for (const box of boxes) {
    sizes.observe(box);
    box.addEventListener("scroll", () => look([box]));
  }
  document.fonts.ready.then(() => look([...boxes]));  // the same size, other contents
});
