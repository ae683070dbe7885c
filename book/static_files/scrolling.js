// What scrolls sideways must be reachable by Tab. The theme sees to tables and listings, this to formulas and to the
// boxes around listings.
(() => {
  const mark = () => document.querySelectorAll("div.math .katex-display, div.highlight").forEach(box => {
    const scrolls = box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX !== "visible";
    if (scrolls) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  });
  addEventListener("load", mark);
  addEventListener("resize", mark);
})();
