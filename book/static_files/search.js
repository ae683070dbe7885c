/* Excerpts below the results of the search: from the text alone, and only where a page may read another. */
DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = location.protocol !== "file:";

Search.htmlToText = (source, anchor) => {
  const page = new DOMParser().parseFromString(source, "text/html");
  const silent =
    "script, style, nav, aside, button, summary, h1, p:has(> a > img), .headerlink, .katex-mathml, .sentence-code, .only-paper";
  page.querySelectorAll(silent).forEach(element => element.remove());
  const place = (anchor && page.getElementById(anchor.slice(1))) || page.querySelector("article");
  const meaning = place.matches("dt") && place.parentElement.querySelector(`#${CSS.escape(place.id)} ~ dd`);
  return `${place.textContent}${meaning ? `: ${meaning.textContent}` : ""}`.replace(/\s+/g, " ").trim();
};
