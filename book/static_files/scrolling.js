// What scrolls sideways must be reachable by Tab, and show that there is more. The theme sees to the first for tables
// and listings, this for formulas and for the boxes around listings.
(() => {
  const boxes = () => document.querySelectorAll(
    "div.math .katex-display, div.math .katex-html, div.highlight, div.highlight pre, .cell_output .output, .cell_output a.image-reference, " +
    ".pst-scrollable-table-container, .scrolling");
  const fade = ({currentTarget: box}) =>  // the right edge, until the end is reached
    box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  const mark = () => boxes().forEach(box => {
    const scrolls = box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX !== "visible";
    if (box.matches(".katex-display, div.highlight")) {
      if (scrolls) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
    box.addEventListener("scroll", fade);
    if (scrolls) fade({currentTarget: box});
    else box.classList.remove("more");
  });
  addEventListener("load", mark);
  addEventListener("resize", mark);
  document.addEventListener("load", mark, true);  // a figure is loaded when it is near
})();
