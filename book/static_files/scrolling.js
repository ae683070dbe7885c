// What scrolls sideways must be reachable by Tab, and show that there is more. The theme sees to the first for tables
// and listings, this for formulas and for the boxes around listings.
(() => {
  const BOXES = "div.math .katex-display, div.math .katex-html, div.highlight, div.highlight pre, " +
    ".cell_output .output, .cell_output a.image-reference, .pst-scrollable-table-container, .scrolling";

  function look(box) {
    const scrolls = box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX !== "visible";
    if (box.matches(".katex-display, div.highlight")) {
      if (scrolls) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
    // The right edge fades until the end is reached.
    box.classList.toggle("more", scrolls && box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  }

  const lookAtAll = () => document.querySelectorAll(BOXES).forEach(look);
  addEventListener("load", lookAtAll);
  addEventListener("resize", lookAtAll);
  // Boxes that are scrolled, and figures, which are loaded when they are near; neither event bubbles.
  const lookAround = ({target}) => {
    const box = target.closest?.(BOXES);  // a document has no such method
    if (box) look(box);
  };
  document.addEventListener("scroll", lookAround, true);
  document.addEventListener("load", lookAround, true);
})();
